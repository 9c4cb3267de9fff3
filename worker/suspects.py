"""Chunks with which two workers died: their rows run one at a time, each noted in the ledger before it runs.

So the row that ends a worker is known by name afterwards. A row that was the noted one in two deaths is not run again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from scorequeue.errors import ProtocolTooNewError, RedisFullError, RedisRefusedError, RedisUnavailableError
from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.records import SUSPECT_DEATHS, Lease
from worker.loading import LoadedModel
from worker.tokenizing import TokenizingError
from worker.windows import ChunkScores, ChunkWork

LOST = RowError(
    ErrorCode.WORKER_LOST, f"{SUSPECT_DEATHS} workers were lost while this row ran alone; it is not run again"
)

_RETRY_S = 0.25

T = TypeVar("T")

log = logging.getLogger(__name__)


class Notes(Protocol):
    """Where the row that runs alone is written down."""

    def write(self, key: Hashable, row: int) -> bool:
        """Note a row of the chunk with that key; False if it must not be run."""
        ...

    def clear(self) -> None:
        """Note that no row runs alone."""
        ...


class LedgerNotes:
    """Notes in the ledger. Without Redis it waits: a row does not run before it is noted, nor anything else beside it.

    Args:
        ledger: Its patience should be short: this class does the waiting.
        worker_id: Whose notes.
        stopping: Set when the worker is told to stop.
    """

    def __init__(self, ledger: Ledger, worker_id: str, *, stopping: threading.Event) -> None:
        self._ledger = ledger
        self._worker_id = worker_id
        self._stopping = stopping
        self._is_waiting = False

    @property
    def is_waiting(self) -> bool:
        """Whether a row cannot run because Redis is away."""
        return self._is_waiting

    def write(self, key: Hashable, row: int) -> bool:
        """Note a row; False when the lease is lost or the worker is told to stop.

        Raises:
            RedisRefusedError: Redis refuses, which waiting does not cure.
            ProtocolTooNewError: A newer Scorequeue serves the namespace.
        """
        assert isinstance(key, Lease)
        return bool(self._insist(lambda: self._ledger.note(self._worker_id, key, row)))

    def clear(self) -> None:
        """Note that no row runs alone. Raises what ``write`` raises."""
        self._insist(lambda: self._ledger.clear_note(self._worker_id))  # told to stop: leaving clears it

    def _insist(self, verb: Callable[[], T]) -> T | None:
        """Repeat a verb until Redis answers; None when the worker is told to stop first."""
        try:
            while not self._stopping.is_set():
                try:
                    return verb()
                except RedisUnavailableError as exc:
                    if not _is_cured_by_time(exc):
                        raise
                    if not self._is_waiting:
                        facts = fields("note_waits", error=str(exc))
                        log.warning("a suspect row waits until Redis has noted it", extra=facts)
                    self._is_waiting = True
                    self._stopping.wait(_RETRY_S)
            return None
        finally:
            self._is_waiting = False


def _is_cured_by_time(error: RedisUnavailableError) -> bool:
    return isinstance(error, RedisFullError) or not isinstance(error, RedisRefusedError | ProtocolTooNewError)


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
