"""How many rows of each lane this worker may hold: claimed, and not scored yet."""

from __future__ import annotations

import threading

from scorequeue.jobs import Lane

LEAST_WINDOW_ROWS = 2_048
"""Fewest rows of a window, however slow the device: with 1,024 padding alone costs 2 % of the speed."""

WINDOWS = 2
"""Windows' worth of bulk rows: one on the device, and the next one tokenised meanwhile."""

EXPRESS_ROWS = 32_768
"""Express rows are taken nearly always."""


class Room:
    """Counts the rows of each lane. Safe to use from several threads."""

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
