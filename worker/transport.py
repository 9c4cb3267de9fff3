"""kombu's Redis transport, without two habits that an early-acked wake-up has no use for.

``worker/app.py`` gives it its name; everything else is kombu's own.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis
from kombu.transport.redis import Empty

from scorequeue.logs import fields

log = logging.getLogger(__name__)


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that outlives messages which are none."""

    # At a lost connection kombu would write the wake-ups that it holds into a temporary file, and report an emergency.
    do_restore = False

    def _brpop_read(self, **options: Any) -> Any:
        """Read a message; what is none is logged and dropped.

        Without this one malformed message ends the worker, and the next one its successor (celery/celery#7975).
        """
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            facts = fields("message_dropped", error=f"{type(exc).__name__}: {exc}")
            log.error("a message in the Celery queue is malformed; it is dropped", extra=facts)
            raise Empty from exc


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport with our channel."""

    Channel = Channel
