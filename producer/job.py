"""One job as Python sees it: where it is, its end, its results, and what may be done to it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from producer.downloads import ResultReader, refuse_discarded
from producer.following import Follower
from producer.recount import Audit, recount
from scorequeue.columns import ChunkResult
from scorequeue.errors import (
    JobDeletedError,
    JobNotFoundError,
    NotFinishedError,
    ProtocolTooNewError,
    RedisRefusedError,
    RedisUnavailableError,
    ResultsChangedError,
    UploadLostError,
)
from scorequeue.jobs import JobState, JobStatus, RowResult
from scorequeue.ledger import Ledger
from scorequeue.logs import fields

if TYPE_CHECKING:
    from producer.upload import Upload

_LOOK_EVERY_S = 1.0
"""A waiting client asks for the status this often even if no news of the job's end came."""

_WATCH_EVERY_S = 0.25

log = logging.getLogger(__name__)


class _Watch:
    """Somebody waits for a job: for how long, and who is told how it stands."""

    def __init__(self, timeout_s: float | None, on_status: Callable[[JobStatus], None] | None) -> None:
        self.timeout_s = math.inf if timeout_s is None else timeout_s
        self.give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        self.on_status = on_status

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return math.inf if self.give_up_at is None else self.give_up_at - time.monotonic()


class Job:
    """A job in the ledger. Every method asks anew, except that a job that has ended stays ended.

    Args:
        ledger: Where it is.
        job_id: Its id.
        page_rows: Rows of results that are read in one round trip.
        upload: What sent it, if it can send it again.
        is_sent: Whether it is known to have been sent whole.
    """

    def __init__(
        self, ledger: Ledger, job_id: str, *, page_rows: int, upload: Upload | None = None, is_sent: bool = False
    ) -> None:
        self.id = job_id
        self._ledger = ledger
        self._page_rows = page_rows
        self._upload = upload
        self._is_sent = is_sent or upload is not None
        self._ended: JobStatus | None = None
        self._read: ResultReader | None = None  # the last reader of results

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Say where the job is.

        Raises:
            JobNotFoundError: No such job, or its results have expired.
        """
        return self._status(self._ledger)

    def wait(
        self, timeout_s: float | None = None, *, on_status: Callable[[JobStatus], None] | None = None
    ) -> JobStatus:
        """Return the status once the job has ended.

        A job of files that Redis has lost, wholly or at its end, is sent again as long as this waits for it.

        Args:
            timeout_s: Seconds to wait at most; None waits for ever.
            on_status: Told the status a few times a second.

        Raises:
            NotFinishedError: The time is over; the job goes on.
            JobNotFoundError: No such job (any more).
            UploadLostError: Redis lost the end of its upload, and it cannot be sent again from here.
        """
        watch = _Watch(timeout_s, on_status)
        look_every_s = _LOOK_EVERY_S if on_status is None else _WATCH_EVERY_S
        while not (status := self._look(watch)).state.is_final:
            self._pause(watch, look_every_s)
        return status

    def results(self, *, partial: bool = False) -> Iterator[RowResult]:
        """Yield what became of each row, in input order; rows that were cancelled have no result.

        Once this has seen the job's end, it is not asked for again: ``status`` shows a retry that began elsewhere.

        Args:
            partial: Whether to take what is there while the job still runs.

        Raises:
            NotFinishedError: The job has not ended.
            JobNotFoundError: No such job, or its results have expired.
        """
        return chain.from_iterable(self.result_chunks(partial=partial))

    def result_chunks(self, *, partial: bool = False) -> Iterator[ChunkResult]:
        """Yield results as columns, a chunk at a time, in input order: the fast way. Raises what ``results`` raises."""
        return self.reader(partial=partial).chunks()

    def follow(self, timeout_s: float | None = None) -> Iterator[RowResult]:
        """Yield what became of each row, in input order, while the job runs; the end is the job's.

        Args:
            timeout_s: Seconds to follow it at most; None means to its end.

        Raises:
            NotFinishedError: The time is over; the job goes on.
            JobNotFoundError: No such job (any more), or its results have expired.
            UploadLostError: Redis lost the end of its upload, and it cannot be sent again from here.
        """
        return chain.from_iterable(self.follow_chunks(timeout_s))

    def follow_chunks(self, timeout_s: float | None = None) -> Iterator[ChunkResult]:
        """Yield results as columns, a chunk at a time, while the job runs. Raises what ``follow`` raises."""
        return self.follower(timeout_s).chunks()

    def follower(
        self, timeout_s: float | None = None, *, on_status: Callable[[JobStatus], None] | None = None
    ) -> Follower:
        """Return what reads this job's chunks and their results while it runs. Raises what ``follow`` raises.

        Args:
            timeout_s: Seconds to follow it at most; None means to its end.
            on_status: Told the status a few times a second.
        """
        watch = _Watch(timeout_s, on_status)
        retry_token = self._ledger.until(watch.give_up_at).retry_token(self.id)
        follower = Follower(
            self._ledger,
            self._look(watch),
            page_rows=self._page_rows,
            look=lambda: self._look(watch),
            pause=lambda: self._pause(watch, _WATCH_EVERY_S),
            retry_token=retry_token,
        )
        self._read = follower
        return follower

    def reader(self, *, partial: bool = False) -> ResultReader:
        """Return what reads this job's chunks and their results. Raises what ``results`` raises."""
        status = self._ended or self.status()
        if not status.state.is_final and not partial:
            raise NotFinishedError(
                f"job {self.id} is {status.state} with {status.pending:,} rows pending; wait for it, or take what is"
                " there (--partial)"
            )
        if status.state.is_final:
            refuse_discarded(self._ledger, self.id)
        self._read = ResultReader(self._ledger, status, page_rows=self._page_rows)
        return self._read

    def cancel(self) -> JobStatus:
        """End the job early: what is done stays, the rest counts as cancelled. One that has ended stays as it is.

        Raises:
            JobNotFoundError: No such job.
        """
        self._ledger.cancel(self.id)
        return self.status()

    def retry(self) -> int:
        """Have rows scored again that failed while they were scored; faulty input is not tried again.

        Returns:
            How many rows; 0 when none can be tried again.

        Raises:
            NotFinishedError: The job has not ended.
            UsageError: It did not end as ``completed``.
            JobNotFoundError: No such job, or its results were discarded.
        """
        self._ended = None
        return self._ledger.retry(self.id)

    def discard(self) -> int:
        """Let go of the results in Redis: those that were read here last, or else those that are there now.

        Returns:
            How many chunks had some.

        Raises:
            NotFinishedError: The job has not ended.
            ResultsChangedError: It went on after they were read, or while they were followed, and has ended since;
                nothing was discarded.
            JobNotFoundError: No such job.
        """
        seen = self._read.status if self._read is not None else self._ended or self.status()
        self._ended = None  # whoever reads again after a refusal must see how it stands then
        if self._read is not None and self._read.is_outdated():
            raise ResultsChangedError(
                f"job {self.id} was tried again while its results were followed: what was read may be outdated;"
                " nothing was discarded, read them again"
            )
        return self._ledger.discard(self.id, finished_ms=seen.finished_ms)

    def delete(self) -> bool:
        """Take the job and its results away. Returns whether it was there; False when it was deleted a while ago.

        Raises:
            JobNotFoundError: No such job.
        """
        self._ended = None
        return self._ledger.delete(self.id)

    def audit(self) -> Audit:
        """Count the job's rows again, from its chunk records and its decoded results, and compare with its counters.

        Raises:
            JobNotFoundError: No such job, or its results have expired.
        """
        return recount(self._ledger, self.id, page_rows=self._page_rows)

    def _status(self, ledger: Ledger) -> JobStatus:
        status = ledger.status(self.id)
        self._ended = status if status.state.is_final else None
        return status

    def _look(self, watch: _Watch) -> JobStatus:
        """Return the status of a job that somebody waits for; raises NotFinishedError when their time is over."""
        status = self._status_or_resend(watch.give_up_at)
        if watch.on_status is not None:
            watch.on_status(status)
        if not status.state.is_final and watch.left_s <= 0:
            raise NotFinishedError(
                f"job {self.id} is {status.state} after {watch.timeout_s:,.1f} s with {status.pending:,} rows pending"
                f" and {status.live_workers} live workers; it goes on"
            )
        return status

    def _pause(self, watch: _Watch, most_s: float) -> None:
        """Return when the job has ended, or it is time to look again."""
        if (left_s := min(most_s, watch.left_s)) > 0:
            self._wait_for_news(left_s)

    def _status_or_resend(self, give_up_at: float | None) -> JobStatus:
        """Return the status of a job that is whole; send it again if it is not."""
        try:
            try:
                status = self._status(self._ledger.until(give_up_at))
                is_lost = self._is_sent and status.state is JobState.SUBMITTING
            except JobDeletedError:
                raise
            except JobNotFoundError:
                if self._upload is None or not self._upload.is_lost():
                    raise
                is_lost = True
            if is_lost and self._upload is not None:
                facts = fields("job_lost", job_id=self.id)
                log.warning("Redis lost the job, or the end of it; it is sent again", extra=facts)
                self._upload.run(give_up_at=give_up_at)
                status = self._status(self._ledger.until(give_up_at))
            elif is_lost:
                raise UploadLostError(
                    f"Redis lost the end of the upload of job {self.id} (it has {status.total:,} rows); submit it again"
                )
            return status
        except (RedisRefusedError, ProtocolTooNewError, UploadLostError):
            raise
        except RedisUnavailableError as exc:
            if give_up_at is not None and time.monotonic() >= give_up_at - _LOOK_EVERY_S:
                raise NotFinishedError(f"gave up waiting for job {self.id}: {exc}") from exc
            raise

    def _wait_for_news(self, timeout_s: float) -> None:
        try:
            self._ledger.wait_for_change(self.id, timeout_s)
        except RedisRefusedError:
            raise
        except RedisUnavailableError:
            # Redis may be restarting: the status that is asked for next has the patience.
            return
