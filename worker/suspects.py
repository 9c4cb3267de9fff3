"""Chunks with which two workers died: their rows run one at a time, each noted in the ledger before it runs.

So the row that ends a worker is known by name afterwards. A row that was the noted one in two deaths is not run again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.logs import fields
from worker.loading import LoadedModel
from worker.tokenizing import TokenizingError
from worker.windows import ChunkScores, ChunkWork

SUSPECT_DEATHS = 2

LOST = RowError(
    ErrorCode.WORKER_LOST, f"{SUSPECT_DEATHS} workers were lost while this row ran alone; it is not run again"
)

log = logging.getLogger(__name__)


class Notes(Protocol):
    """Where the row that runs alone is written down."""

    def write(self, key: Hashable, row: int) -> bool:
        """Note a row of the chunk with that key; False if it must not be run."""
        ...

    def clear(self) -> None:
        """Note that no row runs alone."""
        ...


class NoNotes:
    """Writes nothing down: a worker that dies takes its rows along, and their leases run out."""

    def write(self, key: Hashable, row: int) -> bool:
        """Allow every row."""
        return True

    def clear(self) -> None:
        """Do nothing."""


class SuspectChunk:
    """One suspect chunk on its way through the scorer: ``waiting -> row after row -> whole``, or ``lost`` in between.

    Args:
        key: The caller's name of it: its lease.
        lane: Its lane.
        model: The version to score it with.
        texts: Its good rows.
        rows: What the ledger calls each of them: its offset in the uploaded chunk.
        row_deaths: In how many deaths a row was the noted one, by that offset.
        on_done: Called in the scorer's thread when the last row is scored; must return at once and not raise.
    """

    def __init__(
        self,
        key: Hashable,
        *,
        lane: Lane,
        model: LoadedModel,
        texts: Sequence[str],
        rows: Sequence[int],
        row_deaths: Mapping[int, int],
        on_done: Callable[[ChunkScores], None],
    ) -> None:
        self.key = key
        self.lane = lane
        self.model = model
        self._texts = texts
        self._rows = rows
        self._on_done = on_done
        self._scores = np.full((len(texts), len(model.labels)), np.nan, np.float32)
        self._truncated = np.zeros(len(texts), np.bool_)
        self._failed = {at: LOST for at, row in enumerate(rows) if row_deaths.get(row, 0) >= SUSPECT_DEATHS}
        # What was noted in a death goes last: a host that dies soon after each start hits other rows the next time.
        self._left = deque(
            sorted(
                (at for at in range(len(texts)) if at not in self._failed), key=lambda at: row_deaths.get(rows[at], 0)
            )
        )

    @property
    def is_whole(self) -> bool:
        """Whether every row has scores or a reason."""
        return not self._left

    def begin_row(self, notes: Notes) -> ChunkWork | None:
        """Note the next row and tokenise it.

        Returns:
            The row as a chunk of its own; None when no row is left to run, or the lease is lost.
        """
        while self._left:
            at = self._left[0]
            if not notes.write(self.key, self._rows[at]):
                return None
            try:
                encodings = self.model.encode([self._texts[at]])
            except TokenizingError as error:
                self._left.popleft()
                self._failed[at] = RowError(ErrorCode.SCORING_FAILED, str(error))
                continue
            return ChunkWork(self.key, self.lane, self.model, encodings, partial(self._take_row, at))
        return None

    def _take_row(self, at: int, done: ChunkScores) -> None:
        self._left.popleft()
        self._scores[at] = done.scores[0]
        self._truncated[at] = done.truncated[0]
        if done.failed:
            self._failed[at] = done.failed[0]

    def finish(self) -> None:
        """Pass the whole chunk on."""
        log.warning(
            "a suspect chunk is scored",
            extra=fields("suspect_scored", rows=len(self._rows), failed=len(self._failed)),
        )
        self._on_done(ChunkScores(self.key, self._scores, self._truncated, self._failed))
