"""Whether a job ended well enough: what submit --wait and watch exit with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorequeue.errors import JobNotCleanError

if TYPE_CHECKING:
    from producer.cli.options import MostFailed
    from scorequeue.jobs import JobStatus


def judge(status: JobStatus, max_failed: MostFailed) -> None:
    """Raise JobNotCleanError if a job did not end well enough."""
    if status.state != "completed":
        reason = f": {status.error}" if status.error else ""
        raise JobNotCleanError(f"job {status.id} ended as {status.state}{reason}; see: producer status {status.id}")
    if not max_failed.allows(status.failed, status.total):
        raise JobNotCleanError(
            f"{status.failed:,} of {status.total:,} rows failed, more than --max-failed {max_failed};"
            f" see: producer results {status.id} --errors"
        )
