"""Chunks that are scored and on their way into the ledger."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scorequeue.logs import fields
from scorequeue.records import Commit, Lease

log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A scored chunk; both functions encode results, in the committer's thread.

    Attributes:
        lease: The right to commit it.
        commit: Makes its results.
        fail: Makes results in which all its rows have failed, for when the first ones cannot be made or are refused.
    """

    lease: Lease
    commit: Callable[[], Commit]
    fail: Callable[[], Commit]

    def made(self) -> Commit:
        """Make a chunk's results; rows whose results cannot be made fail, instead of ending worker after worker."""
        try:
            return self.commit()
        except Exception:
            facts = fields("results_failed", job_id=self.lease.job_id, chunk=self.lease.chunk)
            log.exception("results could not be put together; the chunk's rows fail", extra=facts)
            return self.fail()


def tell_unwanted(batch: Sequence[Finished], outcomes: Sequence[str]) -> None:
    """Log what nobody wanted, a line for each job: a cancelled one may have hundreds of chunks on their way."""
    unwanted = Counter(
        (finished.lease.job_id, outcome)
        for finished, outcome in zip(batch, outcomes, strict=True)
        if outcome not in ("done", "already")
    )
    for (job_id, outcome), chunks in unwanted.items():
        level = logging.INFO if outcome == "closed" else logging.WARNING
        log.log(level, "scores were refused", extra=fields("scores_refused", job_id=job_id, chunks=chunks, why=outcome))
