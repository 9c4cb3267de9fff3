"""Chunks and their results as compact bytes.

Both kinds are columns, not rows: decoding 256 sentences is one UTF-8 decode and 256 slices. Layout, little endian:

    u8 format | u32 header bytes | header (JSON) | columns

    chunk     columns: u32[rows] text lengths (characters), u32[rows] id lengths if there are ids,
                       then all texts and ids as one UTF-8 string; a part of a chunk names its rows' offsets in the
                       header
    result    columns: f32[rows * labels] scores, row after row; then, if there are ids, u32[rows] id lengths
                       and all ids as one UTF-8 string

The header holds what is rare or small: the first row's position, where rows came from (runs of consecutive lines of one
file), faulty rows, labels, model version. A new format comes with a new number of the key layout
(``keys.PROTOCOL``), so that no older program meets it in a namespace.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from scorequeue.columns import Chunk, ChunkResult
from scorequeue.errors import CodecError, ProtocolTooNewError
from scorequeue.jobs import FIRST_ROW, ErrorCode, RowError

FORMAT = 1
"""Number of the layout above; the first byte of everything this module writes."""

DIGEST_BYTES = 16
"""Enough that two different chunks never share a digest by accident."""

_DAMAGE = (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError)
"""What reading damaged bytes can raise; it never means a bug of the caller."""

_PREFIX = struct.Struct("<BI")
_SWAP = sys.byteorder == "big"


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
