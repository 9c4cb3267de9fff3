"""Queue-wide Prometheus gauges: how much waits, since when, who works on it. docs/operations.md lists them.

Redis is asked when a scrape comes, and not in between. While it is away the exporter lives on and says so
(``scorequeue_redis_up 0``); the others are then absent, for an old number looks like a good one.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scorequeue.address import read_address
from scorequeue.errors import ProtocolTooNewError, RedisUnavailableError, UsageError
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.overview import LaneView, Overview, WorkerView
from scorequeue.settings import Settings

RECENT_S = 2.0
"""Seconds of a device's work over which its recent speed is taken."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a worker had done when its speed was last taken, and that speed."""

    rows: int
    forward_s: float
    rows_per_second: float | None


class Rates:
    """How fast each worker is while it works, taken from what it says of itself.

    A worker counts its rows and the seconds in which its device had a batch. Their quotient does not fall while there
    is nothing to do, so it says how long a backlog will take. It is taken over the last ``RECENT_S`` seconds of work or
    more; until there were so many, over all of its life.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def update(self, workers: Iterable[WorkerView]) -> dict[str, float]:
        """Take the live workers' words into account; others are forgotten.

        Returns:
            Rows a second by worker id; a worker that has scored nothing yet is not in it.
        """
        seen: dict[str, _Seen] = {}
        for worker in workers:
            before = self._seen.get(worker.id, _Seen(0, 0.0, None))
            seen[worker.id] = before
            if worker.forward_s - before.forward_s >= RECENT_S:
                rate = (worker.rows - before.rows) / (worker.forward_s - before.forward_s)
                seen[worker.id] = _Seen(worker.rows, worker.forward_s, rate)
            elif before.forward_s == 0 and worker.rows:
                # Workers round to milliseconds.
                rate = worker.rows / max(worker.forward_s, 0.001)
                seen[worker.id] = _Seen(0, 0.0, rate)
        self._seen = seen
        return {name: was.rows_per_second for name, was in seen.items() if was.rows_per_second}


def backlog_seconds(lane: LaneView, rates: dict[str, float]) -> float | None:
    """Return how long a lane's live workers will take for its backlog, if they do nothing else.

    Returns:
        Seconds; 0 for an empty lane, infinity without a live worker, None while no worker's speed is known.
    """
    if not lane.backlog_rows:
        return 0.0
    if not lane.live_workers:
        return math.inf
    speed = sum(rates.get(worker, 0.0) for worker in lane.live_workers)
    return lane.backlog_rows / speed if speed else None


def metrics_of(view: Overview, rates: dict[str, float]) -> Iterator[Metric]:
    """Yield the gauges of a namespace."""
    per_lane: dict[str, tuple[str, Sequence[float | None]]] = {
        "scorequeue_backlog_rows": ("Rows pending or leased.", [lane.backlog_rows for lane in view.lanes]),
        "scorequeue_backlog_seconds": (
            "Seconds that the lane's live workers need for its backlog; +Inf without any, absent while unknown.",
            [backlog_seconds(lane, rates) for lane in view.lanes],
        ),
        "scorequeue_oldest_pending_seconds": (
            "Seconds since the oldest chunk arrived that is pending or leased; 0 where none is.",
            [lane.oldest_pending_s for lane in view.lanes],
        ),
    }
    for name, (text, values) in per_lane.items():
        yield _by_lane(name, text, view.lanes, values)
    yield GaugeMetricFamily("scorequeue_leases", "Chunks leased to workers.", value=view.leases)
    text = "Leases taken back because they ran out: work lost with workers."
    yield CounterMetricFamily("scorequeue_leases_expired", text, value=view.leases_expired)
    yield GaugeMetricFamily("scorequeue_live_workers", "Workers with a sign of life.", value=len(view.workers))
    yield GaugeMetricFamily("scorequeue_redis_memory_bytes", "Memory that Redis uses.", value=view.server.used_memory)


def _by_lane(name: str, text: str, lanes: Sequence[LaneView], values: Sequence[float | None]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["lane"])
    for lane, value in zip(lanes, values, strict=True):
        if value is not None:
            family.add_metric([str(lane.lane)], value)
    return family


class QueueCollector(Collector):
    """Reads the ledger at each scrape: ``away -> connected -> away ...``, beginning with ``away``.

    Args:
        settings: Where Redis is, and the namespace.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: Ledger | None = None
        self._rates = Rates()
        self._is_away = False
        self._lock = threading.Lock()  # two servers may scrape at once

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; while Redis cannot be read, only those that say so."""
        with self._lock:
            try:
                if self._ledger is None:
                    self._ledger = Ledger.connect(self._settings, patience_s=0)
                view = self._ledger.overview()
                found = list(metrics_of(view, self._rates.update(view.workers)))
                is_writable = view.server.takes_writes
            except RedisUnavailableError as exc:
                self._tell(exc)
                found, is_writable = [], False
            else:
                self._tell(None)
        yield GaugeMetricFamily("scorequeue_redis_up", "1 when Redis could be read, else 0.", value=bool(found))
        text = "1 when Redis takes writes, as far as it says; else 0."
        yield GaugeMetricFamily("scorequeue_redis_writable", text, value=is_writable)
        yield from found

    def describe(self) -> list[Metric]:
        """Name nothing beforehand: the registry would ask Redis for it."""
        return []

    def close(self) -> None:
        """Let go of the connections."""
        if self._ledger is not None:
            self._ledger.close()

    def _tell(self, error: RedisUnavailableError | None) -> None:
        if error is not None and not self._is_away:
            action = "redis_too_new" if isinstance(error, ProtocolTooNewError) else "redis_away"
            log.warning("Redis cannot be read; the gauges are absent", extra=fields(action, error=str(error)))
        elif error is None and self._is_away:
            log.warning("Redis is back", extra=fields("redis_back"))
        self._is_away = error is not None


def serve(settings: Settings, *, host: str, port: int, stop: threading.Event) -> None:
    """Answer scrapes until told to stop; Redis need not be there.

    Args:
        settings: Where Redis is, and the namespace.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, which the log names.
        stop: Set to end it.

    Raises:
        RedisUnavailableError: The address of Redis cannot be read.
        UsageError: The port cannot be had.
    """
    read_address(settings.redis_url)
    collector = QueueCollector(settings)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise UsageError(f"expected a free port at {host}:{port}, got: {why}; name another --port or --host") from exc
    try:
        log.info("exporter listens", extra=fields("exporter_listens", host=host, port=server.server_port))
        stop.wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        collector.close()


def stop_at_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set: an exporter that is told to end has done all it should."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    return stop
