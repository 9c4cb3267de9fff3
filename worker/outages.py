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
    """Whether Redis is away, and for how long. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._log_at = float("-inf")
        self._is_logged = False

    @property
    def is_on(self) -> bool:
        """Whether Redis did not answer the last time, or took no writes."""
        return self._began_at is not None

    @property
    def pause_s(self) -> float:
        """Seconds until the next try: a quarter of the outage so far, within limits."""
        now = self._clock()
        return min(max(FIRST_PAUSE_S, (now - (self._began_at or now)) / 4), LONGEST_PAUSE_S)

    def begin(self, error: RedisUnavailableError) -> None:
        """Note that a verb failed; logged when the outage begins, and at most once a minute."""
        with self._lock:
            now = self._clock()
            self._began_at = self._began_at or now
            if now < self._log_at:
                return
            self._log_at, self._is_logged = now + LOG_EVERY_S, True
            facts = fields("redis_away", error=str(error), lasted_s=round(now - self._began_at))
        log.warning("Redis is away, or takes no writes; scores are kept until it does", extra=facts)

    def end(self) -> None:
        """Note that a heartbeat got through."""
        with self._lock:
            if self._began_at is None:
                return
            facts = fields("redis_back", lasted_s=round(self._clock() - self._began_at, 1))
            was_logged, self._is_logged, self._began_at = self._is_logged, False, None
        if was_logged:
            log.info("Redis is back", extra=facts)
