"""Notices what nothing else would: a worker that is stuck.

stuck     the device has had a batch for ten times as long as the longest one before, a minute at least: the stacks of
          all threads go to the log, and the process ends at once. It releases nothing: the leases run out, and the
          row that did it, if it was one, is found out by the deaths. The same when leases are held for so long while
          the device has nothing to do, no chunk moves and Redis is there: a tokenizer hangs, or a thread of ours.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from scorequeue.errors import ExitCode
from scorequeue.logs import fields
from worker.leases import LeaseKeeper
from worker.scorer import Scorer

LOOK_EVERY_S = 5.0

STUCK_AFTER_S = 60.0
"""Fewest seconds that a batch may take, or that leases may be held while nothing happens."""

STUCK_FACTOR = 10.0
"""Either may take so many times as long as the longest batch before."""

log = logging.getLogger(__name__)


class Watchdog:
    """One thread, from ``start`` until ``stopping`` is set.

    Args:
        scorer: Whose batches are watched.
        keeper: Whose leases are watched.
        stopping: Set when the worker is told to stop.
        clock: Seconds, monotonic.
        end: Ends the process with a status.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        keeper: LeaseKeeper,
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._scorer = scorer
        self._keeper = keeper
        self._stopping = stopping
        self._clock = clock
        self._end = end
        self._excused_at = clock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Look once."""
        now = self._clock()
        limit_s = max(STUCK_AFTER_S, STUCK_FACTOR * self._scorer.stats.longest_batch_s)
        stalled_s, unmoved_s = self._scorer.stalled_s(now), self._unmoved_s(now)
        if stalled_s >= limit_s:
            self._end_stuck("the device has not answered", "device", stalled_s)
        elif unmoved_s >= max(limit_s, self._keeper.lease_s):
            self._end_stuck("leases are held and nothing happens with them", "leases", unmoved_s)

    def _unmoved_s(self, now: float) -> float:
        """Seconds for which leases were held without a sign of progress, nor a reason that is not ours to mend."""
        has_reason = not self._keeper.is_reachable
        # While the device has a batch, its own limit counts; other leases wait for it.
        if not self._keeper.held or has_reason or self._scorer.stalled_s(now) > 0:
            self._excused_at = now
        return now - max(self._excused_at, self._keeper.moved_at, self._scorer.stats.last_batch_at)

    def _end_stuck(self, what: str, where: str, waited_s: float) -> None:
        log.error(
            f"{what}; the worker ends for its supervisor to start it anew",
            extra=fields("stuck", where=where, waited_s=round(waited_s, 1)),
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        self._end(ExitCode.UNEXPECTED)
