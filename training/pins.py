"""Which versions the queue needs: the one place where ``training`` asks the ledger.

A version that a job is pinned to must not be pruned: the job would wait ten minutes for it and fail. Jobs that have no
version yet get that of the worker which claims them first, so what live workers have ready is needed too: a worker that
has not yet followed a promote gives out the version of before.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

from scorequeue.ledger import Ledger
from scorequeue.settings import Settings

PATIENCE_S = 5.0
"""How long a Redis that cannot be reached is asked again."""


class Pins(NamedTuple):
    """What a namespace needs.

    Attributes:
        in_use: Versions, each with why it is needed.
        workers: How many workers live.
    """

    in_use: Mapping[str, str]
    workers: int


def read_pins(settings: Settings) -> Pins:
    """Ask the ledger which versions jobs are pinned to and which ones workers have ready.

    Raises:
        RedisUnavailableError: It cannot be reached.
        RedisRefusedError: It refuses us.
    """
    with closing(Ledger.connect(settings, patience_s=PATIENCE_S)) as ledger:
        # Workers first: a job that one of them begins in between is found as pinned.
        workers = ledger.workers()
        jobs = ledger.pinned_versions()
    in_use = {version: f"job {job_id} is pinned to it" for version, job_id in jobs.items()}
    for worker in workers:
        for version in (worker.get("model_version"), *worker.get("ready_versions", ())):
            if version:
                in_use.setdefault(str(version), f"worker {worker.get('host')}:{worker.get('pid')} serves it")
    return Pins(in_use, len(workers))
