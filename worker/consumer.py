"""Celery's consumer, which outlives what ends Celery's own: refused commands and malformed messages.

With ``broker_channel_error_retry`` a refused command (READONLY, NOREPLICAS, MISCONF, ...) makes Celery connect anew
instead of ending the worker; but it does so at once, and a server that answers is found again at once: it tried, and
logged, five times a second. Celery waits by itself only where it cannot connect at all.

A message that is no JSON, or no Celery message, raises inside kombu when it has been taken from its list. It is
dropped, and the consumer connects anew: work does not depend on messages.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer

from scorequeue.logs import fields

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
STABLE_S = 1.0
"""A connection that lasted so long was good, and its loss is a new one: a refusal comes with the first command."""

_MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What kombu and Celery raise while they read a message that somebody else put there."""

_LOOK_EVERY_S = 0.1

log = logging.getLogger(__name__)


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Waits longer each time that a new connection is lost soon."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._tried_at = time.monotonic()
        super().__init__(*args, **kwargs)
        self.channel_errors += _MALFORMED

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the lost connection, and wait; a worker that is told to stop waits no longer."""
        # It warns each time of a default that is not ours, past filters that were there before Celery's own.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, _MALFORMED):
            facts = fields("message_malformed", error=type(exc).__name__)
            log.error("a message in the queue was malformed; it is dropped", extra=facts)
        is_new = time.monotonic() - self._tried_at > STABLE_S
        self._pause_s = FIRST_PAUSE_S if is_new else min(2 * self._pause_s, LONGEST_PAUSE_S)
        ends_at = time.monotonic() + self._pause_s
        while time.monotonic() < ends_at and state.should_stop is None:
            time.sleep(_LOOK_EVERY_S)
        self._tried_at = time.monotonic()
