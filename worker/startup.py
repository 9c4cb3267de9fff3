"""What a worker does about Redis before it serves: waits for it, and warns of what will cost rows later."""

from __future__ import annotations

import contextlib
import logging
import time

from scorequeue.address import read_address
from scorequeue.errors import ProtocolTooNewError, RedisRefusedError, RedisUnavailableError
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.settings import Settings
from worker.outages import Outage

log = logging.getLogger(__name__)


def reach_ledger(settings: Settings, *, patience_s: float, timeout_s: float) -> Ledger:
    """Connect once Redis is there and takes writes.

    Args:
        settings: Where it is, and the namespace.
        patience_s: How long the ledger's verbs are repeated, later.
        timeout_s: How long to wait for Redis now.

    Raises:
        RedisUnavailableError: The address cannot be read, or Redis did not come in time; its text is the last cause.
        RedisRefusedError: It refuses us, or is too old.
        ProtocolTooNewError: A newer Scorequeue wrote the namespace.
    """
    read_address(settings.redis_url)
    outage, give_up_at = Outage(), time.monotonic() + timeout_s
    while True:
        try:
            ledger = Ledger.connect(settings, patience_s=0)
            ledger.sweep()  # begins with a write
        except (ProtocolTooNewError, RedisRefusedError):
            raise
        except RedisUnavailableError as exc:
            if time.monotonic() + outage.pause_s > give_up_at:
                raise
            outage.begin(exc)
            time.sleep(outage.pause_s)
        else:
            outage.end()
            return ledger.patient(patience_s)


def warn_of_surroundings(ledger: Ledger, *, current: str) -> None:
    """Log what is wrong around a worker that itself is well; it serves all the same.

    Args:
        ledger: The ledger.
        current: The version that this worker gives to new jobs.
    """
    with contextlib.suppress(RedisUnavailableError):  # away again: its return is waited for elsewhere
        view = ledger.overview()
        policy = view.server.maxmemory_policy
        if policy not in (None, "noeviction"):
            facts = fields("redis_evicts", maxmemory_policy=policy, expected="noeviction")
            log.warning("Redis drops rows when it is full; set maxmemory-policy noeviction", extra=facts)
        others = sorted({worker.model_version for worker in view.workers} - {current})
        if others:
            facts = fields("other_current", ours=current, theirs=",".join(others))
            text = "live workers give other versions to new jobs; unless one was just promoted, give all one registry"
            log.warning(text, extra=facts)
