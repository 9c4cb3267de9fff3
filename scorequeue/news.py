"""Hears that a job has ended, instead of asking again and again.

A connection that listens cannot do anything else meanwhile, so each waiting thread has one of its own. They are kept
when the waiting is over: making one costs three round trips, which is a third of what a lone sentence takes. A process
that is forked makes its own: two that read from one connection take each other's messages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import PubSub

MOST_IDLE = 16
"""Connections that are kept: more threads than this seldom wait at once."""


class News:
    """Waits for messages of Redis's channels. Safe to use from several threads, and after a fork.

    A line is *idle* (connected, listening to nothing) or *taken* by one ``wait``; one that fails is closed, and so is
    the one that was idle for longest when there are more than ``MOST_IDLE``.

    Args:
        client: Whose connections are used.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._idle: list[PubSub] = []  # the one that was idle for longest first
        self._pid = os.getpid()

    def wait(self, channel: str, timeout_s: float, *, is_late: Callable[[], bool]) -> None:
        """Return when a message comes, or when the time is over.

        Args:
            channel: Where it would come.
            timeout_s: Seconds to wait at most.
            is_late: Asked as soon as we listen: whether that which the message tells has happened already.

        Raises:
            redis.exceptions.RedisError: The connection was lost, or Redis refuses.
        """
        give_up_at = time.monotonic() + timeout_s
        line = self._take()
        try:
            line.subscribe(channel)
            if _has_come(line, "subscribe", channel, give_up_at) and not is_late():
                _has_come(line, "message", channel, give_up_at)
            line.unsubscribe(channel)  # type: ignore[no-untyped-call]  # its answer is passed over by the next one who waits
        except BaseException:
            line.close()
            raise
        self._idle.append(line)
        while len(self._idle) > MOST_IDLE:
            self._idle.pop(0).close()

    def close(self) -> None:
        """Let go of the connections."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> PubSub:
        if self._pid != os.getpid():
            self._idle = []  # redis-py closes our copies of the sockets, and does not shut them down for their owner
            self._pid = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._client.pubsub()  # type: ignore[no-any-return,no-untyped-call]


def _has_come(line: PubSub, kind: str, channel: str, give_up_at: float) -> bool:
    """Wait for a message of a kind on a channel; others are passed over. False when the time is over."""
    while (left_s := give_up_at - time.monotonic()) > 0:
        message: dict[str, Any] | None = line.get_message(timeout=left_s)
        if message is not None and message["type"] == kind and message["channel"].decode() == channel:
            return True
    return False
