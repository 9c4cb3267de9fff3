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

from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError

from scorequeue import scripts
from scorequeue.errors import RedisRefusedError, RedisUnavailableError
from scorequeue.inquiries import PATIENCE_S
from scorequeue.job_verbs import JobVerbs
from scorequeue.jobs import Lane
from scorequeue.keys import PROTOCOL, Keys
from scorequeue.lease_verbs import LeaseVerbs, new_token
from scorequeue.overview import Overviews
from scorequeue.refusals import protocol_error, translated
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
        try:
            with translated(client):
                info: dict[str, Any] = client.info("server")
                protocol = client.hget(keys.meta, "protocol") or str(PROTOCOL)
        except ResponseError as exc:  # for instance a database number that the server does not have
            raise RedisRefusedError(f"Redis refused: {exc}; check --redis-url") from exc
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        if version < scripts.OLDEST_REDIS:
            raise RedisRefusedError(
                f"expected Redis 6.2 or newer, got {'.'.join(map(str, version))}; update the server"
            )
        wrong = protocol_error(protocol)
        if wrong is not None:
            raise wrong
        return cls(
            client,
            keys,
            lease_s=settings.lease_s,
            patience_s=patience_s,
            on_outage=on_outage,
            can_sync=version >= scripts.OLDEST_WAITAOF,
            wake_up=wake_up,
        )
