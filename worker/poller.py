"""Looks for work without a wake-up: these get lost with Redis, with a connection, with a killed worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from scorequeue.errors import RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from worker.leases import LeaseKeeper
from worker.tasks import Feeder

SHORTEST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
"""Work that no wake-up announces waits so long at most."""

IDLE_SHARE = 0.25
"""A pause is this share of the time since there was work."""


def poll(
    ledger: Ledger,
    feeders: Mapping[Lane, Feeder],
    feed: Callable[[Lane], None],
    *,
    keeper: LeaseKeeper,
    versions: Callable[[], Iterable[str]],
    stopping: threading.Event,
) -> None:
    """Run the feeders of lanes that have work until ``stopping`` is set; returns when they have ended.

    It asks the ledger whether a claim would do something, in one command for all lanes, which writes nothing: four
    times a second in the first second after work, ever more rarely later. Whatever waits starts the lane's feeder, and
    so does what any claim takes care of: an expired lease, a passed deadline, a version that a job waits for.

    Args:
        ledger: Whom to ask. Its patience should be short.
        feeders: The feeder of each lane.
        feed: Runs the feeder of a lane, in a thread of its own; it must not raise.
        keeper: Knows whether Redis answers, and when there was work.
        versions: Returns the versions that are ready.
        stopping: Set when the worker is told to stop.
    """
    feeding: dict[Lane, threading.Thread] = {}
    pause_s = SHORTEST_PAUSE_S
    while not stopping.wait(pause_s):
        idle = [lane for lane, feeder in feeders.items() if not feeder.is_running]
        try:
            waiting = ledger.poll(idle, versions=versions()) if idle and keeper.is_reachable else set()
        except RedisUnavailableError:  # the heartbeat reports it
            waiting = set()
        for lane in waiting:
            feeding[lane] = threading.Thread(target=feed, args=(lane,), daemon=True)
            feeding[lane].start()
        pause_s = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, IDLE_SHARE * (time.monotonic() - keeper.moved_at)))
    for thread in feeding.values():
        thread.join()
