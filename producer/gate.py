"""Holds uploads back while too many rows wait in their lane or Redis is nearly full."""

from __future__ import annotations

import time
from collections.abc import Callable

from scorequeue.errors import NotFinishedError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger

MOST_MEMORY_SHARE = 0.8
"""Share of Redis's ``maxmemory`` above which uploads wait, so that results still fit."""

_POLL_S = 0.25


class Gate:
    """Tells uploads when there is room. Safe to use from several threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last_free: dict[Lane, float] = {}

    def wait(
        self,
        lane: Lane,
        *,
        max_outstanding: int,
        give_up_at: float | None,
        on_wait: Callable[[str], None],
        max_age_s: float = 0.0,
    ) -> None:
        """Return when there is room.

        Args:
            lane: Where the rows will wait.
            max_outstanding: Most rows that may wait there.
            give_up_at: When to give up, by the monotonic clock; None means never.
            on_wait: Told the cause, in words, a few times a second.
            max_age_s: How old an answer of before may be; 0 asks Redis.

        Raises:
            NotFinishedError: The time is over.
        """
        if time.monotonic() - self._last_free.get(lane, -max_age_s - 1) < max_age_s:
            return
        while (cause := self._cause(lane, max_outstanding)) is not None:
            on_wait(cause)
            if give_up_at is not None and time.monotonic() >= give_up_at:
                raise NotFinishedError(f"gave up uploading: {cause}")
            time.sleep(_POLL_S)
        self._last_free[lane] = time.monotonic()

    def _cause(self, lane: Lane, max_outstanding: int) -> str | None:
        pressure = self._ledger.pressure(lane)
        if pressure.backlog_rows > max_outstanding:
            return (
                f"{pressure.backlog_rows:,} rows wait in lane {lane}, more than {max_outstanding:,}"
                " (--max-outstanding); more workers would help"
            )
        if pressure.memory_share is not None and pressure.memory_share > MOST_MEMORY_SHARE:
            share = f"{pressure.memory_share:.0%} of its maxmemory, more than {MOST_MEMORY_SHARE:.0%}"
            return f"Redis uses {share}; it drains as results expire or jobs are deleted"
        return None
