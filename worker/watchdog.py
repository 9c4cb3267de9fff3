"""Notices what nothing else would: a worker that is stuck, and a Celery consumer that hears no bells.

deaf      a lane's Celery queue has held bells for a minute, none was heard, and a pool thread was free: the consumer
          connects anew. Work goes on meanwhile, a quarter of a second late, because the lookout needs no bells.
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
from collections.abc import Callable, Sequence

from scorequeue.errors import ExitCode, RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.logs import fields
from worker.leases import LeaseKeeper
from worker.scorer import Scorer

LOOK_EVERY_S = 5.0

DEAF_AFTER_S = 60.0
"""Seconds that bells wait, unheard, before the consumer is made anew."""

STUCK_AFTER_S = 60.0
"""Fewest seconds that a batch may take, or that leases may be held while nothing happens."""

STUCK_FACTOR = 10.0
"""Either may take so many times as long as the longest batch before."""

log = logging.getLogger(__name__)


class Ears:
    """Which bells were heard, and how many pool threads are busy with one. Safe to use from several threads."""

    def __init__(self, threads: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = 0
        self._heard_at: dict[Lane, float] = {}
        self._was_full_at = float("-inf")

    def __call__(self, lane: Lane) -> Ears:
        """Use as ``with ears(lane): ...`` around what a bell starts."""
        with self._lock:
            self._heard_at[lane] = self._clock()
        return self

    def __enter__(self) -> None:
        with self._lock:
            self._busy += 1
            if self._busy >= self._threads:
                self._was_full_at = self._clock()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._busy >= self._threads:
                self._was_full_at = self._clock()
            self._busy -= 1

    def last_excuse(self, lane: Lane) -> float:
        """When a bell of the lane was last heard, or all threads were last busy; by the clock."""
        with self._lock:
            full_at = self._clock() if self._busy >= self._threads else self._was_full_at
            return max(full_at, self._heard_at.get(lane, float("-inf")))


class Watchdog:
    """One thread, from ``start`` until ``stopping`` is set.

    Args:
        scorer: Whose batches are watched.
        keeper: Whose leases are watched.
        notes_wait: Whether a suspect row cannot run because Redis is away.
        lanes: Lanes whose bells are watched.
        ears: What was heard.
        waiting_bells: How many bells wait in a lane's queue.
        restart_consumer: Makes the consumer connect anew.
        stopping: Set when the worker is told to stop.
        clock: Seconds, monotonic.
        end: Ends the process with a status.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        keeper: LeaseKeeper,
        notes_wait: Callable[[], bool],
        lanes: Sequence[Lane],
        ears: Ears,
        waiting_bells: Callable[[Lane], int],
        restart_consumer: Callable[[], None],
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._scorer = scorer
        self._keeper = keeper
        self._notes_wait = notes_wait
        self._ears = ears
        self._waiting_bells = waiting_bells
        self._restart_consumer = restart_consumer
        self._stopping = stopping
        self._clock = clock
        self._end = end
        self._excused_at = clock()
        self._unheard_since: dict[Lane, float | None] = dict.fromkeys(lanes)
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
        for lane in self._unheard_since:
            self._listen(lane)

    def _unmoved_s(self, now: float) -> float:
        """Seconds for which leases were held without a sign of progress, nor a reason that is not ours to mend."""
        has_reason = not self._keeper.is_reachable or self._notes_wait()
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

    def _listen(self, lane: Lane) -> None:
        try:
            waiting = self._waiting_bells(lane)
        except RedisUnavailableError:
            self._unheard_since[lane] = None
            return
        now = self._clock()
        since = self._unheard_since[lane]
        if not waiting or since is None or self._ears.last_excuse(lane) > since:
            self._unheard_since[lane] = now if waiting else None
        elif now - since >= DEAF_AFTER_S:
            facts = fields("deaf", lane=lane.value, bells=waiting, unheard_s=round(now - since, 1))
            log.warning("bells wait and none is heard; the consumer connects anew", extra=facts)
            self._unheard_since[lane] = None
            self._restart_consumer()
