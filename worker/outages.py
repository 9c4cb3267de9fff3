"""An outage of Redis as a worker sees it: the heartbeat tries, all other loops wait for it.

    none -> outage -> none

It begins with the first verb that Redis does not answer, or refuses because it takes no writes, and ends with the first
heartbeat that gets through. Every loop of the worker shares one, so that one outage is tried, and logged, once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from scorequeue.errors import RedisUnavailableError
from scorequeue.logs import fields

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
"""Work goes on this long after the outage's end, at the latest; a lease, which it must not outlast, has 15 s."""

LOG_EVERY_S = 60.0

log = logging.getLogger(__name__)


class Outage:
    """Whether Redis is away, and for how long. Safe to use from several threads.

    Args:
        clock: Monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._logged_at: float | None = None
        self._is_logged = False

    @property
    def is_on(self) -> bool:
        """Whether Redis did not answer the last time, or took no writes."""
        return self._began_at is not None

    @property
    def pause_s(self) -> float:
        """Seconds until the next try: a quarter of the outage so far, within limits."""
        began_at = self._began_at
        lasted_s = 0.0 if began_at is None else self._clock() - began_at
        return min(max(FIRST_PAUSE_S, lasted_s / 4), LONGEST_PAUSE_S)

    def begin(self, error: RedisUnavailableError) -> None:
        """Note that a verb failed. It is logged when the outage begins, and once a minute after that."""
        with self._lock:
            now = self._clock()
            if self._began_at is None:
                self._began_at = now
            if self._logged_at is not None and now - self._logged_at < LOG_EVERY_S:
                return
            self._logged_at, self._is_logged = now, True
            lasted_s = round(now - self._began_at)
        facts = fields("redis_away", error=str(error), lasted_s=lasted_s)
        log.warning("Redis is away, or takes no writes; scores are kept until it does", extra=facts)

    def end(self) -> None:
        """Note that a heartbeat got through."""
        with self._lock:
            if self._began_at is None:
                return
            lasted_s = self._clock() - self._began_at
            was_logged, self._is_logged, self._began_at = self._is_logged, False, None
        if was_logged:
            log.info("Redis is back", extra=fields("redis_back", lasted_s=round(lasted_s, 1)))
