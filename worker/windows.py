"""What a scorer holds: the rows that this worker has claimed, and each window's rows end to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scorequeue.jobs import Lane, RowError
from worker.backends import Encodings, PaddedBatch, Scores, pad_rows
from worker.batching import Ints, Pick, Window, padded_width
from worker.tokenizing import Tokenizer

LEAST_WINDOW_ROWS = 2_048
"""Fewest rows of a window, however slow the device: with 1,024 padding alone costs 2 % of the speed."""

WINDOWS = 2
"""Windows' worth of bulk rows that are claimed: one on the device, and the next one tokenised meanwhile."""

EXPRESS_ROWS = 32_768
"""Express rows are taken nearly always."""


class Room:
    """How many rows of each lane this worker may claim beside those that are not scored yet. For several threads."""

    def __init__(self) -> None:
        self.window_rows = LEAST_WINDOW_ROWS
        self._held = dict.fromkeys(Lane, 0)
        self._changed = threading.Condition()

    def left(self, lane: Lane) -> int:
        """Rows that may still be claimed for the lane, 0 or more."""
        most = WINDOWS * self.window_rows if lane is Lane.BULK else EXPRESS_ROWS
        return max(0, most - self._held[lane])

    def take(self, lane: Lane, rows: int) -> None:
        """Count rows that were claimed."""
        with self._changed:
            self._held[lane] += rows

    def give(self, lane: Lane, rows: int) -> None:
        """Count rows that were scored, or given back."""
        with self._changed:
            self._held[lane] -= rows
            self._changed.notify_all()

    def wait(self, lane: Lane, *, timeout_s: float) -> None:
        """Wait until there is room, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.left(lane) > 0, timeout_s)


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


class WindowTable:
    """All rows of a window end to end: their tokens to gather from, and their scores to scatter to."""

    def __init__(self, window: Window[ChunkWork], *, labels: int) -> None:
        self._window = window
        parts = [work.encodings for work in window.tickets]
        self.token_ids = np.concatenate([part.token_ids for part in parts])
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self._scores: Scores = np.full((window.rows, labels), np.nan, np.float32)
        self._failed: dict[int, RowError] = {}
        self._rows_left: Ints = np.diff(window.bounds)  # (chunks,)
        self._chunk_of = np.repeat(np.arange(len(self._rows_left)), self._rows_left)  # (rows,)

    @property
    def is_done(self) -> bool:
        """Whether all rows are scored."""
        return not self._rows_left.any()

    def store(self, positions: Ints, scores: Scores, error: RowError | None) -> list[tuple[ChunkWork, ChunkScores]]:
        """Take scores in; return the chunks that this completes."""
        self._scores[positions] = scores
        if error is not None:
            self._failed.update(dict.fromkeys(positions.tolist(), error))
        counts = np.bincount(self._chunk_of[positions], minlength=len(self._rows_left))
        self._rows_left -= counts
        return [self._finished(int(chunk)) for chunk in np.flatnonzero((self._rows_left == 0) & (counts > 0))]

    def _finished(self, chunk: int) -> tuple[ChunkWork, ChunkScores]:
        work = self._window.tickets[chunk]
        begin, end = self._window.bounds[chunk : chunk + 2].tolist()
        # A copy, so that a committer that is behind does not keep the whole window alive.
        scores = self._scores[begin:end].copy()
        failed = {position - begin: reason for position, reason in self._failed.items() if begin <= position < end}
        failed.update(work.encodings.failed)
        scores[list(work.encodings.failed)] = np.nan
        return work, ChunkScores(scores, work.encodings.truncated, failed)


class WindowTables:
    """The tables of the windows that have rows on the device or before it; for one thread at a time.

    Args:
        labels: Scores per row.
        tokenizer: Names what stands behind a row's last token, and the most tokens to which rows are padded.
    """

    def __init__(self, *, labels: int, tokenizer: Tokenizer) -> None:
        self._labels = labels
        self._tokenizer = tokenizer
        self._tables: dict[Window[ChunkWork], WindowTable] = {}

    def assemble(self, pick: Pick[ChunkWork]) -> PaddedBatch:
        """Gather a pick's rows, of one or more windows, into one padded batch."""
        for part in pick.parts:
            if part.window not in self._tables:
                self._tables[part.window] = WindowTable(part.window, labels=self._labels)
        rows = [(self._tables[part.window], part.positions) for part in pick.parts]
        longest = max(int(table.lengths[at].max()) for table, at in rows)
        width = min(padded_width(longest), self._tokenizer.max_length)
        pad_id = self._tokenizer.pad_id
        padded = [
            pad_rows(table.token_ids, table.starts[at], table.lengths[at], pad_id=pad_id, width=width)
            for table, at in rows
        ]
        if len(padded) == 1:
            return padded[0]
        input_ids = np.concatenate([part.input_ids for part in padded])
        return PaddedBatch(input_ids, np.concatenate([part.lengths for part in padded]))

    def store(
        self, pick: Pick[ChunkWork], scores: Scores, *, error: RowError | None = None
    ) -> list[tuple[ChunkWork, ChunkScores]]:
        """Write a batch's scores, float32 (rows, labels), where they belong; return the chunks that are whole now."""
        finished = []
        for part in pick.parts:
            of_part, scores = scores[: len(part.positions)], scores[len(part.positions) :]
            table = self._tables[part.window]
            finished += table.store(part.positions, of_part, error)
            if table.is_done:
                del self._tables[part.window]
        return finished
