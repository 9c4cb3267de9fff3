"""Looks for work without a wake-up: these get lost with Redis, with a connection, with a killed worker.

One thread asks the ledger whether a claim would do something, in one command for all lanes, which writes nothing:

    busy -> idle    four times a second in the first second after work or an outage, ever more rarely later, down to
                    every 2 s

Whatever waits starts the lane's feeder, and so does what any claim takes care of: a lease that ran out, a deadline that
passed, a version that a job waits for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from scorequeue.errors import ProtocolTooNewError, RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from worker.leases import LeaseKeeper
from worker.tasks import Feeder

SHORTEST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
"""Work that no wake-up announces waits so long at most."""

IDLE_SHARE = 0.25
"""A pause is this share of the time since there was work."""

log = logging.getLogger(__name__)


class Poller:
    """One thread, from ``start`` until ``stopping`` is set, and one for each feeder that it runs.

    Args:
        ledger: Whom to ask. Its patience should be short.
        feeders: The feeder of each lane.
        feed: Runs the feeder of a lane; it must not raise.
        keeper: Knows whether Redis answers, and when there was work.
        versions: Returns the versions that are ready.
        stopping: Set when the worker is told to stop.
        on_fatal: Called with what was not expected; the worker must end then.
    """

    def __init__(
        self,
        ledger: Ledger,
        feeders: Mapping[Lane, Feeder],
        *,
        feed: Callable[[Lane], None],
        keeper: LeaseKeeper,
        versions: Callable[[], Iterable[str]],
        stopping: threading.Event,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._ledger = ledger
        self._feeders = feeders
        self._feed = feed
        self._keeper = keeper
        self._versions = versions
        self._stopping = stopping
        self._on_fatal = on_fatal
        self._thread = threading.Thread(target=self._watch, name="poller", daemon=True)
        self._feeding: dict[Lane, threading.Thread] = {}
        self._was_away_at = 0.0

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until its threads have seen that the worker stops, or the time is over."""
        give_up_at = time.monotonic() + timeout_s
        for thread in (self._thread, *self._feeding.values()):
            thread.join(max(0.0, give_up_at - time.monotonic()))

    def _watch(self) -> None:
        pause_s = SHORTEST_PAUSE_S
        try:
            while not self._stopping.wait(pause_s):
                for lane in self._find_work():
                    thread = threading.Thread(target=self._feed, args=(lane,), name=f"feed-{lane}", daemon=True)
                    self._feeding[lane] = thread
                    thread.start()
                quiet_s = time.monotonic() - max(self._keeper.moved_at, self._was_away_at)
                pause_s = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, IDLE_SHARE * quiet_s))
        except BaseException as exc:
            if not isinstance(exc, ProtocolTooNewError):
                log.exception("the poller failed", extra=fields("poller_failed"))
            self._on_fatal(exc)

    def _find_work(self) -> set[Lane]:
        """Return the lanes whose feeders should run, and do not."""
        lanes = [lane for lane, feeder in self._feeders.items() if not feeder.is_running]
        try:
            if self._keeper.is_reachable:  # else the heartbeat asks often enough
                return self._ledger.poll(lanes, versions=self._versions()) if lanes else set()
        except ProtocolTooNewError:
            raise
        except RedisUnavailableError:  # the heartbeat reports it
            pass
        self._was_away_at = time.monotonic()  # what was lost meanwhile is found soon
        return set()
