"""Runs the ledger's Lua scripts.

The client has its own retries off, because it would run a script twice without a word; the one loop that repeats a verb
is here, and only verbs that may run twice go through it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import copy
from hashlib import sha1
from importlib import resources
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import (
    NoScriptError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from scorequeue.address import read_address
from scorequeue.errors import ProtocolTooNewError, RedisRefusedError, RedisUnavailableError
from scorequeue.keys import PROTOCOL
from scorequeue.records import AWAKE_MS, DEFAULT_LEASE_MS, MOST_WAKE_UPS
from scorequeue.refusals import meaning_of, translated

SOCKET_TIMEOUT_S = 3.0
"""No single answer of a healthy Redis takes longer; a black hole is noticed after it."""

OLDEST_REDIS = (6, 2)
"""kombu's own sweep needs it."""

OLDEST_WAITAOF = (7, 2)
"""From here on a server can say that what was written is on its disk."""

_TIMEOUTS: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_error": [],
}

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

T = TypeVar("T")
Arg = str | int | float | bytes


_CONSTANTS = f"""\
local PROTOCOL, DEFAULT_LEASE_MS, MOST_WAKE_UPS, AWAKE_MS = {PROTOCOL}, {DEFAULT_LEASE_MS}, {MOST_WAKE_UPS}, {AWAKE_MS}
"""


class Script:
    """One verb: the shared prelude and its own lines, known to Redis by their digest."""

    def __init__(self, name: str) -> None:
        folder = resources.files("scorequeue") / "lua"
        self.name = name
        parts = [(folder / f"{part}.lua").read_text() for part in ("prelude", name)]
        self.text = "\n".join([_CONSTANTS, *parts])
        # Redis names scripts by SHA-1; nothing here relies on it for safety.
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def connect(url: str, **options: Any) -> redis.Redis:
    """Return a client with short time-outs and no retries of its own.

    Args:
        url: Address of Redis.
        options: What redis-py's connections are made with besides.

    Raises:
        RedisUnavailableError: The address cannot be read.
    """
    address = read_address(url)
    keepalive = {} if "path" in address.options else {"socket_keepalive": True}
    how = address.options | keepalive | _TIMEOUTS | options
    if not address.sentinels:
        return redis.Redis.from_pool(redis.ConnectionPool(**how))
    sentinel = Sentinel(address.sentinels, sentinel_kwargs=_TIMEOUTS)  # type: ignore[no-untyped-call]
    pool = SentinelConnectionPool(address.master, sentinel, **how)  # type: ignore[no-untyped-call]
    return redis.Redis.from_pool(pool)


class ScriptRunner:
    """Runs scripts against one namespace.

    Args:
        client: A client made by ``connect``.
        prefix: What every key of the namespace begins with.
        patience_s: How long a verb is repeated while Redis cannot be reached.
        on_outage: Told what is wrong when a verb has to be repeated for the first time, and None when it got through.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str,
        patience_s: float,
        on_outage: Callable[[RedisUnavailableError | None], None] | None = None,
    ) -> None:
        self.client = client
        self.prefix = prefix
        self.patience_s = patience_s
        self.give_up_at = math.inf
        self._on_outage = on_outage

    def until(self, give_up_at: float) -> ScriptRunner:
        """Return one like this whose patience ends at a time of the monotonic clock at the latest."""
        limited = copy(self)
        limited.give_up_at = give_up_at
        return limited

    def run(self, script: Script, args: Sequence[Arg]) -> Any:
        """Run a script that may run twice, as often as it takes within the patience."""
        return self.repeat(lambda: self.run_once(script, args))

    def run_once(self, script: Script, args: Sequence[Arg]) -> Any:
        """Run a script at most once; a lost answer is an error.

        Raises:
            RedisUnavailableError: Redis could not be reached, or its answer was lost.
            RedisRefusedError: Redis said no.
        """
        with translated(self.client):
            try:
                return self.client.evalsha(script.sha, 1, self.prefix, *args)
            except NoScriptError:  # a restart or a failover forgets scripts
                return self.client.eval(script.text, 1, self.prefix, *args)

    def run_many(self, calls: Sequence[tuple[Script, Sequence[Arg]]]) -> list[Any]:
        """Run scripts that may run twice in one round trip, in order.

        Returns:
            One answer a script; a ``ResponseError`` stands where a script refused.
        """
        return self.repeat(lambda: self._run_many(calls))

    def read_after(self, script: Script, ask: Callable[[Pipeline], None]) -> list[Any]:
        """Run a script without arguments, and read what it leaves, in one round trip. Not repeated.

        A replica, which refuses scripts that write, is read as it is.

        Args:
            script: Which.
            ask: Adds the reads to a pipeline.

        Returns:
            The answers to the reads.
        """
        with translated(self.client), self.client.pipeline(transaction=False) as pipe:
            pipe.evalsha(script.sha, 1, self.prefix)
            ask(pipe)
            answers = pipe.execute(raise_on_error=False)
            if isinstance(answers[0], NoScriptError):
                pipe.eval(script.text, 1, self.prefix)
                ask(pipe)
                answers = pipe.execute(raise_on_error=False)
            # Redis 6.2 wraps what a command inside a script met into a plain error.
            if isinstance(answers[0], ReadOnlyError) or "READONLY" in str(answers[0]):
                answers[0] = None
            for answer in answers:
                if isinstance(answer, RedisError):
                    raise answer
        return answers[1:]

    def repeat(self, action: Callable[[], T], *, after: type[RedisUnavailableError] = RedisUnavailableError) -> T:
        """Repeat an action that may happen twice while Redis cannot be reached, within the patience.

        Args:
            action: What to do.
            after: Errors after which it is repeated.
        """
        give_up_at = min(time.monotonic() + self.patience_s, self.give_up_at)
        pause_s = _FIRST_PAUSE_S
        is_told = False
        while True:
            try:
                answer = action()
            except (RedisRefusedError, ProtocolTooNewError):
                raise
            except after as exc:
                if time.monotonic() + pause_s > give_up_at:
                    raise
                if self._on_outage is not None and not is_told:
                    self._on_outage(exc)
                    is_told = True
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if self._on_outage is not None and is_told:
                    self._on_outage(None)
                return answer

    def _run_many(self, calls: Sequence[tuple[Script, Sequence[Arg]]]) -> list[Any]:
        with translated(self.client):
            answers = self._pipeline(calls)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                # Their text goes along, for Redis may forget again between two calls.
                answers = self._pipeline(calls, is_known=False)
        for answer in answers:
            found = meaning_of(answer, self.client) if isinstance(answer, RedisError) else None
            if found is not None:
                raise found from answer
        return answers

    def _pipeline(self, calls: Sequence[tuple[Script, Sequence[Arg]]], *, is_known: bool = True) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for script, args in calls:
                if is_known:
                    pipe.evalsha(script.sha, 1, self.prefix, *args)
                else:
                    pipe.eval(script.text, 1, self.prefix, *args)
            return pipe.execute(raise_on_error=False)
