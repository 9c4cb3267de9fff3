"""Consecutive rows of one job as columns: the rows of a chunk, and what became of them.

Columns, because there are hundreds of thousands of rows a second: one list of texts costs less than a list of rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scorequeue.jobs import Row, RowError, RowResult

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
