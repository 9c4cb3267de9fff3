"""Looks for work by itself: what a bell would have started, starts a quarter of a second later without one.

Bells get lost with Redis, with a broker connection, with a killed worker. One thread a lane runs the lane's pump four
times a second while nothing else does; a claim that finds nothing costs a third of a millisecond.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from scorequeue.errors import ProtocolTooNewError
from scorequeue.logs import fields
from worker.tasks import Pump

LOOK_EVERY_S = 0.25

log = logging.getLogger(__name__)


class Lookout:
    """One thread a lane, from ``start`` until ``stopping`` is set.

    Args:
        pumps: The pumps to run.
        stopping: Set when the worker is told to stop.
        on_fatal: Called with what a pump did not expect; the worker must end then.
    """

    def __init__(
        self, pumps: Sequence[Pump], *, stopping: threading.Event, on_fatal: Callable[[BaseException], None]
    ) -> None:
        self._stopping = stopping
        self._on_fatal = on_fatal
        self._threads = [
            threading.Thread(target=self._watch, args=(pump,), name=f"lookout-{pump.lane.value}", daemon=True)
            for pump in pumps
        ]

    def start(self) -> None:
        """Start looking."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until all threads have seen that the worker stops, or the time is over."""
        give_up_at = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))

    def _watch(self, pump: Pump) -> None:
        try:
            while not self._stopping.wait(LOOK_EVERY_S):
                pump.run()
        except ProtocolTooNewError as exc:
            self._on_fatal(exc)
        except BaseException as exc:  # a panic inside tokenizers is no Exception
            log.exception("a pump failed", extra=fields("pump_failed", lane=pump.lane.value))
            self._on_fatal(exc)
