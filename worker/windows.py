"""What goes into the scorer and comes out of it, and the tables that hold each window's rows end to end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scorequeue.jobs import ErrorCode, Lane, RowError
from worker.backends import Encodings, PaddedBatch, Running, Scores, pad_rows
from worker.batching import Ints, Pick, Window, padded_width
from worker.loading import LoadedModel
from worker.tokenizing import Tokenizer

UNREAD = RowError(
    ErrorCode.SCORING_FAILED, "the model's tokenizer finds nothing to read in this text: it has no token left"
)


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """A chunk that is done.

    Attributes:
        key: The key that it was submitted with.
        scores: float32 (rows, labels), in the chunk's row order; NaN in failed rows.
        truncated: bool (rows,): whether the text was longer than the model reads.
        failed: Why rows have no scores, by their offset in the chunk from 0.
    """

    key: Hashable
    scores: Scores
    truncated: npt.NDArray[np.bool_]
    failed: dict[int, RowError]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkWork:
    """A chunk to score.

    Attributes:
        key: The caller's name of it, unique among what the scorer holds.
        lane: Its lane.
        model: The version to score it with.
        encodings: Its rows, tokenised by that version; at least one.
        on_done: Called in the scorer's thread when the last row is scored; must return at once and not raise.
    """

    key: Hashable
    lane: Lane
    model: LoadedModel
    encodings: Encodings
    on_done: Callable[[ChunkScores], None]


@dataclass(eq=False)
class WindowTable:
    """All rows of a window end to end: their tokens to gather from, and their scores to scatter to."""

    window: Window[ChunkWork]
    failed: dict[int, RowError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = [work.encodings for work in self.window.tickets]
        rows = self.window.rows
        if len(parts) == 1:
            self.token_ids, self.lengths, self.starts = parts[0].token_ids, parts[0].lengths, parts[0].starts
        else:
            self.token_ids = np.concatenate([part.token_ids for part in parts])
            self.lengths = np.concatenate([part.lengths for part in parts])
            self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        labels = len(self.window.tickets[0].model.labels)
        self.scores: Scores = np.full((rows, labels), np.nan, np.float32)
        self.left = rows
        sizes = np.diff(self.window.bounds)
        self.left_of: Ints = sizes.copy()  # (chunks,)
        self.chunk_of: Ints = np.repeat(np.arange(len(sizes)), sizes)  # (rows,)

    def store(self, positions: Ints, scores: Scores, error: Exception | None) -> list[tuple[ChunkWork, ChunkScores]]:
        """Take scores in; return the chunks that this completes."""
        self.scores[positions] = scores
        if error is not None:
            reason = RowError(ErrorCode.SCORING_FAILED, f"the model could not score this row ({type(error).__name__})")
            self.failed.update(dict.fromkeys(positions.tolist(), reason))
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
        for row in work.encodings.unread:
            scores[row] = np.nan
            failed[row] = UNREAD
        return work, ChunkScores(work.key, scores, work.encodings.truncated, failed)


def model_of(pick: Pick[ChunkWork]) -> LoadedModel:
    """Return the version of all rows of a pick."""
    return pick.parts[0].window.tickets[0].model


def row_of(pick: Pick[ChunkWork], position: int) -> Pick[ChunkWork]:
    """Return the pick of one of its rows alone."""
    while pick.rows > 1:
        left, right = pick.halves()
        pick, position = (left, position) if position < left.rows else (right, position - left.rows)
    return pick


@dataclass(slots=True)
class Flight:
    """A pick on its way through the device."""

    pick: Pick[ChunkWork]
    model: LoadedModel
    begun_at: float = 0.0
    batch: PaddedBatch | None = None
    running: Running | None = None
    error: Exception | None = None
    is_second_try: bool = False


class Stored(NamedTuple):
    """What storing a batch's scores came to in one window: rows that are scored now, and chunks that are whole now."""

    lane: Lane
    rows: int
    finished: list[tuple[ChunkWork, ChunkScores]]


class WindowTables:
    """The tables of the windows that have rows on the device or before it; for one thread."""

    def __init__(self) -> None:
        self._tables: dict[Window[ChunkWork], WindowTable] = {}

    def assemble(self, pick: Pick[ChunkWork], *, tokenizer: Tokenizer) -> PaddedBatch:
        """Gather a pick's rows, of one or more windows, into one padded batch.

        Args:
            pick: Which rows.
            tokenizer: What made them: it knows what stands behind a row's last token, and how far rows may be padded.
        """
        parts = [(self._table(part.window), part.positions) for part in pick.parts]
        if len(parts) == 1:
            ((table, rows),) = parts
            token_ids, starts, lengths = table.token_ids, table.starts[rows], table.lengths[rows]
        else:
            offsets = np.cumsum([0, *(len(table.token_ids) for table, _ in parts[:-1])])
            token_ids = np.concatenate([table.token_ids for table, _ in parts])
            starts = np.concatenate(
                [table.starts[rows] + offset for (table, rows), offset in zip(parts, offsets, strict=True)]
            )
            lengths = np.concatenate([table.lengths[rows] for table, rows in parts])
        width = min(padded_width(int(lengths.max())), tokenizer.max_length)
        return pad_rows(token_ids, starts, lengths, pad_id=tokenizer.pad_id, width=width)

    def store(
        self,
        pick: Pick[ChunkWork],
        scores: Scores,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        error: Exception | None = None,
    ) -> Iterator[Stored]:
        """Write a batch's scores where they belong.

        Args:
            pick: The batch's rows.
            scores: float32 (rows, labels).
            keep: bool (rows,): the rows to store; None stands for all.
            error: Why the rows have no scores.

        Yields:
            What that came to, for each window in turn.
        """
        begin = 0
        for part in pick.parts:
            rows = slice(begin, begin + len(part.positions))
            begin = rows.stop
            positions, part_scores = part.positions, scores[rows]
            if keep is not None:
                positions, part_scores = positions[keep[rows]], part_scores[keep[rows]]
            table = self._tables[part.window]
            finished = table.store(positions, part_scores, error)
            if table.left == 0:
                del self._tables[part.window]
            yield Stored(part.window.lane, len(positions), finished)

    def _table(self, window: Window[ChunkWork]) -> WindowTable:
        table = self._tables.get(window)
        if table is None:
            table = self._tables[window] = WindowTable(window)
        return table
