"""The record of all jobs: the only code that issues Redis commands for them.

Each verb is one atomic Lua script (``lua/``) over the keys of ``keys.py``. A chunk goes

                add_chunks           claim (token)               commit (token)
     (upload) ------------> pending ---------------> leased ---------------------> done
                              ^                        | renew                       |
                              +---- release, or lease expired                        | retry (rows that failed)
                              +------------------------------------------------------+

and a job ``submitting -> queued -> running -> completed | cancelled | expired | failed``, and from ``completed`` back
to ``queued`` with a retry. Time comes from Redis.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import ResponseError

from scorequeue import scripts
from scorequeue.errors import RedisNotReadyError, RedisRefusedError, RedisUnavailableError
from scorequeue.inquiries import PATIENCE_S
from scorequeue.job_verbs import JobVerbs
from scorequeue.jobs import Lane
from scorequeue.keys import PROTOCOL, Keys
from scorequeue.lease_verbs import LeaseVerbs, new_token
from scorequeue.overview import Overviews
from scorequeue.refusals import cluster_error, protocol_error, translated
from scorequeue.settings import Settings

__all__ = ["Ledger", "new_token"]


class Ledger(JobVerbs, LeaseVerbs, Overviews):
    """The verbs, and the questions, for one namespace. Safe to use from several threads.

    Verbs that may run twice are repeated for ``patience_s`` seconds while Redis cannot be reached; then they raise
    RedisUnavailableError. RedisRefusedError (no rights, no memory) and ProtocolTooNewError come at once.
    """

    @classmethod
    def connect(
        cls,
        settings: Settings,
        *,
        patience_s: float = PATIENCE_S,
        on_outage: Callable[[RedisUnavailableError | None], None] | None = None,
        wake_up: Callable[[Lane], None] | None = None,
    ) -> Ledger:
        """Reach Redis, and check that this program can work with it.

        Args:
            settings: Where it is, and the namespace.
            patience_s: How long a verb is repeated while Redis cannot be reached.
            on_outage: Told what is wrong when that begins, and None when it is over.
            wake_up: Called with a lane where new work came and a live worker sleeps; None leaves workers to look by
                themselves.

        Raises:
            RedisUnavailableError: It cannot be reached.
            RedisRefusedError: It refuses us, or is older than 6.2.
            ProtocolTooNewError: A newer Scorequeue wrote the namespace.
        """
        client = scripts.connect(settings.redis_url)
        keys = Keys(settings.namespace)
        ledger = cls(
            client, keys, lease_s=settings.lease_s, patience_s=patience_s, on_outage=on_outage, wake_up=wake_up
        )
        try:
            # One that is away may be the wrong one; one that answers will take writes again.
            version = ledger._scripts.repeat(lambda: _check(client, keys), after=RedisNotReadyError)
        except ResponseError as exc:  # for instance a database number that the server does not have
            _check_hello(settings, exc)
            raise RedisRefusedError(f"Redis refused: {exc}; check --redis-url") from exc
        ledger.can_sync = version >= scripts.OLDEST_WAITAOF
        return ledger


def _check(client: redis.Redis, keys: Keys) -> tuple[int, ...]:
    """Return the server's version, once we can work with it."""
    with translated(client):
        info: dict[str, Any] = client.info("server")
        version = _check_server(info, client)
        wrong = protocol_error(client.hget(keys.meta, "protocol") or str(PROTOCOL))
    if wrong is not None:
        raise wrong
    return version


def _check_server(info: dict[str, Any], client: redis.Redis) -> tuple[int, ...]:
    """Return the server's version; refuse one that is too old, or a node of a cluster."""
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < scripts.OLDEST_REDIS:
        found = ".".join(map(str, version))
        raise RedisRefusedError(f"expected Redis 6.2 or newer, got {found}; update the server")
    if info.get("redis_mode") == "cluster":
        raise cluster_error(client)
    return version


def _check_hello(settings: Settings, error: ResponseError) -> None:
    """Refuse a server that does not know HELLO: mostly it is older than Redis 6, and says so when asked otherwise."""
    if "unknown command" not in str(error) or "HELLO" not in str(error):
        return
    client = scripts.connect(settings.redis_url, protocol=2)
    with client, contextlib.suppress(redis.RedisError):
        _check_server(client.info("server"), client)
    raise RedisRefusedError(
        "expected Redis 6.2 or newer, got one that does not know HELLO, which redis-py and kombu begin with;"
        " update the server, or take rename-command HELLO out of its configuration"
    ) from error
