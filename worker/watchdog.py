"""Notices what nothing else would: a device that never answers, and a Celery consumer that hears no bells.

deaf      a lane's Celery queue has held bells for a minute, none was heard, and a pool thread was free: the consumer
          connects anew. Work goes on meanwhile, a quarter of a second late, because the lookout needs no bells.
stuck     the device has had a batch for ten times as long as the longest one before, a minute at least: the stacks of
          all threads go to the log, and the process ends at once. It releases nothing: the leases run out, and the
          row that did it, if it was one, is found out by the deaths.
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
from worker.scorer import Scorer

LOOK_EVERY_S = 5.0

DEAF_AFTER_S = 60.0
"""Seconds that bells wait, unheard, before the consumer is made anew."""

STUCK_AFTER_S = 60.0
"""Fewest seconds that a batch may take."""

STUCK_FACTOR = 10.0
"""A batch may take so many times as long as the longest one before."""

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
        lanes: Sequence[Lane],
        ears: Ears,
        waiting_bells: Callable[[Lane], int],
        restart_consumer: Callable[[], None],
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._scorer = scorer
        self._ears = ears
        self._waiting_bells = waiting_bells
        self._restart_consumer = restart_consumer
        self._stopping = stopping
        self._clock = clock
        self._end = end
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
        self._look_at_device()
        for lane in self._unheard_since:
            self._listen(lane)

    def _look_at_device(self) -> None:
        limit_s = max(STUCK_AFTER_S, STUCK_FACTOR * self._scorer.stats.longest_batch_s)
        stalled_s = self._scorer.stalled_s(self._clock())
        if stalled_s < limit_s:
            return
        facts = fields("stuck", stalled_s=round(stalled_s, 1), limit_s=round(limit_s, 1))
        log.error("the device has not answered; the worker ends for its supervisor to start it anew", extra=facts)
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
