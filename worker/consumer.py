"""Celery's consumer, with a pause before it connects anew.

With ``broker_channel_error_retry`` a refused command (READONLY, NOREPLICAS, MISCONF, ...) makes Celery connect anew
instead of ending the worker; but it does so at once, and a server that answers is found again at once: it tried, and
logged, five times a second. Celery waits by itself only where it cannot connect at all.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
STABLE_S = 10.0
"""A connection that lasted so long was good: the next loss is a new one."""

_LOOK_EVERY_S = 0.1


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Waits longer each time that a new connection is lost soon."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._tried_at = time.monotonic()
        super().__init__(*args, **kwargs)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the lost connection, and wait; a worker that is told to stop waits no longer."""
        # It warns each time of a default that is not ours, past filters that were there before Celery's own.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        super().on_connection_error_after_connected(exc)
        is_new = time.monotonic() - self._tried_at > STABLE_S
        self._pause_s = FIRST_PAUSE_S if is_new else min(2 * self._pause_s, LONGEST_PAUSE_S)
        ends_at = time.monotonic() + self._pause_s
        while time.monotonic() < ends_at and state.should_stop is None:
            time.sleep(_LOOK_EVERY_S)
        self._tried_at = time.monotonic()
