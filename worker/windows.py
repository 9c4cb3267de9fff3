"""What goes into a scorer and comes out of it, and the tables that hold each window's rows end to end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scorequeue.jobs import Lane, RowError
from worker.backends import Encodings, PaddedBatch, Scores, pad_rows
from worker.batching import Ints, Pick, Window, padded_width


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """A chunk that is done.

    Attributes:
        scores: float32 (rows, labels), in the chunk's row order; NaN in failed rows.
        truncated: bool (rows,): whether the text was longer than the model reads.
        failed: Why rows have no scores, by their offset in the chunk from 0.
    """

    scores: Scores
    truncated: npt.NDArray[np.bool_]
    failed: dict[int, RowError]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkWork:
    """A chunk to score.

    Attributes:
        key: The caller's name of it, unique among what the scorer holds.
        lane: Its lane.
        encodings: Its rows, tokenised; at least one.
        on_done: Called when the last row is scored; must return at once and not raise.
    """

    key: Hashable
    lane: Lane
    encodings: Encodings
    on_done: Callable[[ChunkScores], None]


@dataclass(eq=False)
class WindowTable:
    """All rows of a window end to end: their tokens to gather from, and their scores to scatter to."""

    window: Window[ChunkWork]
    labels: int
    failed: dict[int, RowError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = [work.encodings for work in self.window.tickets]
        rows = self.window.rows
        self.token_ids = np.concatenate([part.token_ids for part in parts]) if len(parts) > 1 else parts[0].token_ids
        self.lengths = np.concatenate([part.lengths for part in parts]) if len(parts) > 1 else parts[0].lengths
        self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self.scores: Scores = np.full((rows, self.labels), np.nan, np.float32)
        self.left = rows
        sizes = np.diff(self.window.bounds)
        self.left_of: Ints = sizes.copy()  # (chunks,)
        self.chunk_of: Ints = np.repeat(np.arange(len(sizes)), sizes)  # (rows,)

    def store(self, positions: Ints, scores: Scores, error: RowError | None) -> list[tuple[ChunkWork, ChunkScores]]:
        """Take scores in; return the chunks that this completes."""
        self.scores[positions] = scores
        if error is not None:
            self.failed.update(dict.fromkeys(positions.tolist(), error))
        chunks, counts = np.unique(self.chunk_of[positions], return_counts=True)
        self.left_of[chunks] -= counts
        self.left -= len(positions)
        return [self._finished(int(chunk)) for chunk in chunks[self.left_of[chunks] == 0]]

    def _finished(self, chunk: int) -> tuple[ChunkWork, ChunkScores]:
        work = self.window.tickets[chunk]
        begin, end = int(self.window.bounds[chunk]), int(self.window.bounds[chunk + 1])
        # A copy, so that a committer that is behind does not keep the whole window alive.
        scores = self.scores[begin:end].copy()
        failed = {position - begin: reason for position, reason in self.failed.items() if begin <= position < end}
        failed.update(work.encodings.failed)
        scores[list(work.encodings.failed)] = np.nan
        return work, ChunkScores(scores, work.encodings.truncated, failed)


class Stored(NamedTuple):
    """What storing a batch's scores came to in one window: rows that are scored now, and chunks that are whole now."""

    lane: Lane
    rows: int
    finished: list[tuple[ChunkWork, ChunkScores]]


class WindowTables:
    """The tables of the windows that have rows on the device or before it; for one thread at a time.

    Args:
        labels: Scores per row.
        pad_id: What stands behind a row's last token.
        max_length: Most tokens to which rows may be padded.
    """

    def __init__(self, *, labels: int, pad_id: int, max_length: int) -> None:
        self._labels = labels
        self._pad_id = pad_id
        self._max_length = max_length
        self._tables: dict[Window[ChunkWork], WindowTable] = {}

    def assemble(self, pick: Pick[ChunkWork]) -> PaddedBatch:
        """Gather a pick's rows, of one or more windows, into one padded batch."""
        parts = [(self._table(part.window), part.positions) for part in pick.parts]
        if len(parts) == 1:
            ((table, rows),) = parts
            token_ids, starts, lengths = table.token_ids, table.starts[rows], table.lengths[rows]
        else:
            token_ids = np.concatenate([table.token_ids for table, _ in parts])
            offsets = np.cumsum([0, *(len(table.token_ids) for table, _ in parts[:-1])])
            starts = np.concatenate(
                [table.starts[rows] + offset for (table, rows), offset in zip(parts, offsets, strict=True)]
            )
            lengths = np.concatenate([table.lengths[rows] for table, rows in parts])
        width = min(padded_width(int(lengths.max())), self._max_length)
        return pad_rows(token_ids, starts, lengths, pad_id=self._pad_id, width=width)

    def store(self, pick: Pick[ChunkWork], scores: Scores, *, error: RowError | None = None) -> Iterator[Stored]:
        """Write a batch's scores where they belong.

        Args:
            pick: The batch's rows.
            scores: float32 (rows, labels).
            error: Why the rows have no scores.

        Yields:
            What that came to, for each window in turn.
        """
        begin = 0
        for part in pick.parts:
            end = begin + len(part.positions)
            table = self._tables[part.window]
            finished = table.store(part.positions, scores[begin:end], error)
            begin = end
            if table.left == 0:
                del self._tables[part.window]
            yield Stored(part.window.lane, len(part.positions), finished)

    def _table(self, window: Window[ChunkWork]) -> WindowTable:
        table = self._tables.get(window)
        if table is None:
            table = self._tables[window] = WindowTable(window, self._labels)
        return table
