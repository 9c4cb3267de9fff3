"""Chunks and their results as compact bytes.

Both kinds are columns, not rows: decoding 256 sentences is one UTF-8 decode and 256 slices. Layout, little endian:

    u8 format | u32 header bytes | header (JSON) | columns

    chunk     columns: u32[rows] text lengths (characters), u32[rows] id lengths if there are ids,
                       then all texts and ids as one UTF-8 string; a part of a chunk names its rows' offsets in the
                       header
    result    columns: f32[rows * labels] scores, row after row; then, if there are ids, u32[rows] id lengths
                       and all ids as one UTF-8 string

The header holds what is rare or small: the first row's position, where rows came from (runs of consecutive lines of one
file), faulty rows, labels, model version. A reader that meets a newer format number must leave the bytes alone.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from scorequeue.errors import CodecError, ProtocolTooNewError
from scorequeue.jobs import FIRST_ROW, ErrorCode, Row, RowError, RowResult

FORMAT = 1
"""Number of the layout above; the first byte of everything this module writes."""

DIGEST_BYTES = 16
"""Enough that two different chunks never share a digest by accident."""

_DAMAGE = (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError)
"""What reading damaged bytes can raise; it never means a bug of the caller."""

_PREFIX = struct.Struct("<BI")
_SWAP = sys.byteorder == "big"

LineRun = tuple[str | None, int | None, int]
"""``count`` rows from consecutive lines of one source: (source, first line, count)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of one job, as columns.

    Attributes:
        first_row: Position of the first row in the job, from 1.
        texts: One sentence per row; empty where ``errors`` has the row.
        ids: The caller's ids, or None where every row's id is its position.
        runs: Where the rows came from; the counts add up to ``len(texts)``.
        errors: Faults of the input, by offset in the chunk.
        offsets: In a part of a chunk, the offsets of its rows in the whole one; None for a whole one.
    """

    first_row: int
    texts: list[str]
    ids: list[str] | None = None
    runs: tuple[LineRun, ...] = ()
    errors: Mapping[int, RowError] = field(default_factory=dict)
    offsets: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of a chunk's rows, as columns.

    Attributes:
        first_row: Position of the first row in the job, from 1.
        rows: How many rows.
        labels: The model's labels, in the order of its scores.
        scores: ``rows * len(labels)`` float32 probabilities, row after row; zeros where ``errors`` has the row.
        model_version: The version that scored the chunk.
        ids: The caller's ids, or None where every row's id is its position.
        truncated: Offsets of rows that were longer than the model reads.
        errors: Failed rows by offset.
        origins: (source, line) of the failed rows, by offset.
    """

    first_row: int
    rows: int
    labels: tuple[str, ...]
    scores: array[float]
    model_version: str
    ids: list[str] | None = None
    truncated: frozenset[int] = frozenset()
    errors: Mapping[int, RowError] = field(default_factory=dict)
    origins: Mapping[int, tuple[str | None, int | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[RowResult]:
        """Yield the rows in input order."""
        width = len(self.labels)
        for offset in range(self.rows):
            row = self.first_row + offset
            row_id = self.ids[offset] if self.ids is not None else str(row)
            error = self.errors.get(offset)
            if error is not None:
                source, line = self.origins.get(offset, (None, None))
                yield RowResult(row, row_id, None, None, {}, False, self.model_version, source, line, error)
                continue
            scores = self.scores[offset * width : (offset + 1) * width].tolist()
            best = max(range(width), key=scores.__getitem__)
            yield RowResult(
                row,
                row_id,
                self.labels[best],
                scores[best],
                dict(zip(self.labels, scores, strict=True)),
                offset in self.truncated,
                self.model_version,
                None,
                None,
                None,
            )


def chunk_from_rows(rows: Sequence[Row], *, first_row: int) -> Chunk:
    """Turn consecutive rows into a chunk.

    Args:
        rows: The rows in input order, at least one.
        first_row: Position of the first one in the job, from 1.
    """
    has_ids = any(row.id is not None for row in rows)
    return Chunk(
        first_row=first_row,
        texts=[row.text for row in rows],
        ids=[str(first_row + i) if row.id is None else row.id for i, row in enumerate(rows)] if has_ids else None,
        runs=_runs(rows),
        errors={i: row.error for i, row in enumerate(rows) if row.error is not None},
    )


def part_of(chunk: Chunk, positions: Sequence[int]) -> Chunk:
    """Return some rows of a chunk, which know their places in the whole one.

    Args:
        chunk: A chunk, or a part of one.
        positions: Which of its rows, ascending, at least one.
    """
    rows = [
        Row(
            chunk.texts[at], None if chunk.ids is None else chunk.ids[at], *origin(chunk.runs, at), chunk.errors.get(at)
        )
        for at in positions
    ]
    offsets = tuple(positions) if chunk.offsets is None else tuple(chunk.offsets[at] for at in positions)
    return replace(chunk_from_rows(rows, first_row=chunk.first_row), offsets=offsets)


def origin(runs: Sequence[LineRun], offset: int) -> tuple[str | None, int | None]:
    """Say which source and line the row at ``offset`` of a chunk came from; (None, None) when nobody noted it."""
    for source, first_line, count in runs:
        if offset < count:
            return source, None if first_line is None else first_line + offset
        offset -= count
    return None, None


def encode_chunk(chunk: Chunk) -> bytes:
    """Write a chunk as bytes. Equal chunks give equal bytes, so that a digest tells whether two are the same."""
    header: dict[str, Any] = {"rows": len(chunk), "first_row": chunk.first_row}
    if chunk.runs:
        header["runs"] = chunk.runs
    if chunk.errors:
        header["errors"] = {str(offset): error for offset, error in chunk.errors.items()}
    if chunk.offsets is not None:
        header["offsets"] = chunk.offsets
    columns = [_pack_lengths(chunk.texts)]
    strings = chunk.texts
    if chunk.ids is not None:
        header["ids"] = True
        columns.append(_pack_lengths(chunk.ids))
        strings = chunk.texts + chunk.ids
    # Lone surrogates, which JSON may carry in, would not encode; readers have turned them into failed rows.
    columns.append("".join(strings).encode())
    return _pack(header, columns)


def decode_chunk(payload: bytes) -> Chunk:
    """Read what ``encode_chunk`` wrote.

    Raises:
        ProtocolTooNewError: A newer Scorequeue wrote the bytes.
        CodecError: The bytes are damaged.
    """
    header, body = _unpack(payload, what="chunk")
    try:
        rows = header["rows"]
        columns = 2 if "ids" in header else 1
        lengths = _read_array("I", body[: 4 * rows * columns])
        strings = _cut(body[4 * rows * columns :].tobytes().decode(), lengths)
        if len(strings) != rows * columns:
            raise ValueError(f"{len(strings)} strings for {rows} rows")
        return Chunk(
            first_row=header["first_row"],
            texts=strings[:rows],
            ids=strings[rows:] if columns == 2 else None,
            runs=tuple((source, line, count) for source, line, count in header.get("runs", ())),
            errors=_read_errors(header),
            offsets=tuple(header["offsets"]) if "offsets" in header else None,
        )
    except _DAMAGE as exc:
        raise CodecError(
            f"expected a chunk of format {FORMAT}, got damaged bytes ({exc}); submit the job again"
        ) from exc


def encode_result(result: ChunkResult) -> bytes:
    """Write a chunk's results as bytes."""
    header: dict[str, Any] = {
        "rows": result.rows,
        "first_row": result.first_row,
        "labels": result.labels,
        "model_version": result.model_version,
    }
    if result.truncated:
        header["truncated"] = sorted(result.truncated)
    if result.errors:
        header["errors"] = {str(offset): error for offset, error in result.errors.items()}
        header["origins"] = {str(offset): result.origins.get(offset, (None, None)) for offset in result.errors}
    columns = [_array_bytes(result.scores)]
    if result.ids is not None:
        header["ids"] = True
        columns += [_pack_lengths(result.ids), "".join(result.ids).encode()]
    return _pack(header, columns)


def decode_result(payload: bytes) -> ChunkResult:
    """Read what ``encode_result`` wrote.

    Raises:
        ProtocolTooNewError: A newer Scorequeue wrote the bytes.
        CodecError: The bytes are damaged.
    """
    header, body = _unpack(payload, what="result")
    try:
        rows, labels = header["rows"], tuple(header["labels"])
        scores_end = 4 * rows * len(labels)
        ids = None
        if "ids" in header:
            lengths = _read_array("I", body[scores_end : scores_end + 4 * rows])
            ids = _cut(body[scores_end + 4 * rows :].tobytes().decode(), lengths)
        scores = _read_array("f", body[:scores_end])
        if len(scores) != rows * len(labels):
            raise ValueError(f"{len(scores)} scores for {rows} rows of {len(labels)} labels")
        return ChunkResult(
            first_row=header["first_row"],
            rows=rows,
            labels=labels,
            scores=scores,
            model_version=header["model_version"],
            ids=ids,
            truncated=frozenset(header.get("truncated", ())),
            errors=_read_errors(header),
            origins={int(offset): (source, line) for offset, (source, line) in header.get("origins", {}).items()},
        )
    except _DAMAGE as exc:
        raise CodecError(
            f"expected a result of format {FORMAT}, got damaged bytes ({exc}); submit the job again"
        ) from exc


def digest(payload: bytes) -> str:
    """Return a short fingerprint of an encoded chunk, in hex."""
    return blake2b(payload, digest_size=DIGEST_BYTES).hexdigest()


def _runs(rows: Sequence[Row]) -> tuple[LineRun, ...]:
    """Join rows from consecutive lines of one source; empty when no row names a source or a line."""
    runs: list[LineRun] = []
    source: str | None = None
    first: int | None = None
    count = 0
    for row in rows:
        follows = row.source == source and (row.line is None if first is None else row.line == first + count)
        if count and follows:
            count += 1
            continue
        if count:
            runs.append((source, first, count))
        source, first, count = row.source, row.line, 1
    runs.append((source, first, count))
    return () if runs == [(None, None, len(rows))] else tuple(runs)


def _pack(header: Mapping[str, Any], columns: Sequence[bytes]) -> bytes:
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return b"".join([_PREFIX.pack(FORMAT, len(head)), head, *columns])


def _unpack(payload: bytes, *, what: str) -> tuple[dict[str, Any], memoryview]:
    if len(payload) < _PREFIX.size:
        raise CodecError(f"expected a {what} of format {FORMAT}, got {len(payload)} bytes; submit the job again")
    number, head_bytes = _PREFIX.unpack_from(payload)
    if number != FORMAT:
        raise ProtocolTooNewError(
            f"expected a {what} of format {FORMAT}, got format {number}; update this program to the one that wrote it"
        )
    view = memoryview(payload)
    start = _PREFIX.size + head_bytes
    try:
        header = json.loads(view[_PREFIX.size : start].tobytes())
        if header["rows"] < 0 or header["first_row"] < FIRST_ROW:
            raise ValueError("counts that cannot be")
    except _DAMAGE as exc:
        raise CodecError(f"expected a {what} of format {FORMAT}, got a damaged header; submit the job again") from exc
    return header, view[start:]


def _read_errors(header: Mapping[str, Any]) -> dict[int, RowError]:
    errors = header.get("errors", {})
    if any(not 0 <= int(offset) < header["rows"] for offset in errors):
        raise ValueError("an error of a row that is not there")
    return {int(offset): RowError(ErrorCode(code), message) for offset, (code, message) in errors.items()}


def _pack_lengths(strings: Sequence[str]) -> bytes:
    return _array_bytes(array("I", map(len, strings)))


def _array_bytes(values: array[Any]) -> bytes:
    if _SWAP:
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _read_array(kind: str, data: memoryview) -> array[Any]:
    values = array(kind)
    values.frombytes(data)
    if _SWAP:
        values.byteswap()
    return values


def _cut(text: str, lengths: Sequence[int]) -> list[str]:
    strings = []
    start = 0
    for length in lengths:
        end = start + length
        strings.append(text[start:end])
        start = end
    if start != len(text):
        raise ValueError(f"{len(text)} characters where the lengths add up to {start}")
    return strings
