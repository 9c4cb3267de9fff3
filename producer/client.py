"""The library face of the producer: submit rows, wait, read results. It prints nothing.

from producer import Client

client = Client()
job = client.submit(["Who did you see?", "Who you did see?"])
job.wait()
for result in job.results():
    print(result.id, result.label, result.score)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Literal, Self

from pydantic import ValidationError

from producer.downloads import ResultReader
from producer.inputs import Inputs
from producer.recount import Audit, recount
from producer.rows import RowRules
from producer.upload import Gate, OnUpload, Upload, UploadProgress
from scorequeue.codec import ChunkResult
from scorequeue.errors import (
    InputError,
    JobNotFoundError,
    NotFinishedError,
    RedisRefusedError,
    RedisUnavailableError,
    UsageError,
)
from scorequeue.jobs import JOB_ID_PATTERN, JobSpec, JobStatus, Lane, Row, RowResult
from scorequeue.ledger import Ledger
from scorequeue.queue import Bells
from scorequeue.settings import Settings

EXPRESS_ROWS = 64
"""Most rows of a job that is express without being told."""

_LOOK_EVERY_S = 1.0
"""A waiting client asks for the status this often even if no news of the job's end came."""

_WATCH_EVERY_S = 0.25

AnyRows = Iterable[str | tuple[str, str] | Row] | Inputs


class Client:
    """Submits jobs and finds them again. Safe to use from several threads; connects at the first need.

    Args:
        redis_url: Address of Redis; else ``SCOREQUEUE_REDIS_URL``, the embedded one, the local default.
        namespace: Namespace of all keys; else ``SCOREQUEUE_NAMESPACE``.
        settings: All settings at once, instead of the environment.

    Raises:
        UsageError: A setting cannot be.
        RedisUnavailableError: Redis cannot be reached, or refuses us.
    """

    def __init__(
        self, redis_url: str | None = None, namespace: str | None = None, *, settings: Settings | None = None
    ) -> None:
        if settings is None:
            settings = Settings.load(redis_url=redis_url, namespace=namespace)
        elif redis_url is not None or namespace is not None:
            raise UsageError("expected either settings or redis_url and namespace, got both")
        self.settings = settings
        self._ledger = Ledger.connect(settings)
        self._bells = Bells(settings)
        self._gate = Gate(self._ledger)

    def submit(
        self,
        rows: AnyRows,
        *,
        lane: Literal["auto", "express", "bulk"] = "auto",
        model_version: str | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, str] | None = None,
        chunk_rows: int | None = None,
        max_outstanding: int | None = None,
        deadline_s: float | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        source: Iterable[str] = (),
        on_progress: OnUpload | None = None,
    ) -> Job:
        """Put rows on the queue as one job.

        Args:
            rows: Texts, ``(id, text)`` pairs, rows or ``Inputs``; read once, as they are sent.
            lane: ``auto`` makes jobs of at most 64 rows express.
            model_version: Version to score with; None is the one that is current when the job starts.
            idempotency_key: The same rows under the same key are one job, and an upload that broke off goes on.
            metadata: Labels of your own.
            chunk_rows: Rows that are claimed and committed together; else the setting.
            max_outstanding: Rows that may wait in the lane before the upload pauses; else the setting.
            deadline_s: Seconds after which what is not scored is dropped.
            ttl_s: Seconds that results are kept after the end; else the setting.
            timeout_s: Seconds to wait at most while the queue is full; None waits for ever.
            source: What to call the rows' origin.
            on_progress: Told about every call, and why an upload stands still.

        Raises:
            InputError: There are no rows.
            ContentConflictError: The idempotency key belongs to other rows or options.
            NotFinishedError: The queue stayed full until the time-out.
            RedisUnavailableError: Redis cannot be reached, or refuses us.
        """
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        if isinstance(rows, Inputs):
            source, options, checked = rows.names, rows.job_options(), iter(rows)
        else:
            if isinstance(rows, str):
                raise UsageError("expected several rows, got one text; put it in a list")
            options, checked = {}, RowRules(self.settings.max_text_bytes).from_python(rows)
        head = list(islice(checked, EXPRESS_ROWS + 1))
        if not head:
            raise InputError("no rows; expected at least one")
        if lane == "auto":
            lane = "express" if len(head) <= EXPRESS_ROWS else "bulk"
        if lane not in list(Lane):
            raise UsageError(f"expected a lane of auto, {', '.join(Lane)}, got {lane!r}")
        try:
            spec = JobSpec(
                id=new_job_id(),
                lane=Lane(lane),
                chunk_rows=self.settings.chunk_rows if chunk_rows is None else chunk_rows,
                source=tuple(source),
                metadata=dict(metadata or {}),
                model_version=model_version,
                idempotency_key=idempotency_key,
                reader_options=options,
                deadline_s=deadline_s,
                ttl_s=self.settings.ttl_s if ttl_s is None else ttl_s,
            )
        except ValidationError as exc:
            first = exc.errors()[0]
            raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from exc
        upload = Upload(
            self._ledger,
            self._bells,
            self._gate,
            spec=spec,
            max_outstanding=self.settings.max_outstanding if max_outstanding is None else max_outstanding,
            give_up_at=give_up_at,
            on_upload=on_progress or _keep_quiet,
        )
        return Job(self._ledger, upload.run(chain(head, checked)).job_id)

    def job(self, job_id: str) -> Job:
        """Return a job by its id.

        Raises:
            JobNotFoundError: This cannot be a job's id. Whether there is such a job shows when it is asked something.
        """
        if not JOB_ID_PATTERN.fullmatch(job_id):
            raise JobNotFoundError(f"expected a job id of 32 hex digits, as submit prints it, got {job_id!r}")
        return Job(self._ledger, job_id)

    def close(self) -> None:
        """Let go of the connections."""
        self._bells.close()
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Job:
    """A job in the ledger. Every method asks anew, except that a job that has ended stays ended."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self.id = job_id
        self._ledger = ledger
        self._ended: JobStatus | None = None

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Say where the job is.

        Raises:
            JobNotFoundError: No such job, or its results have expired.
        """
        status = self._ledger.status(self.id)
        self._ended = status if status.state.is_final else None
        return status

    def wait(
        self, timeout_s: float | None = None, *, on_status: Callable[[JobStatus], None] | None = None
    ) -> JobStatus:
        """Return the status once the job has ended.

        Args:
            timeout_s: Seconds to wait at most; None waits for ever.
            on_status: Told the status a few times a second.

        Raises:
            NotFinishedError: The time is over; the job goes on.
            JobNotFoundError: No such job.
        """
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        look_every_s = _LOOK_EVERY_S if on_status is None else _WATCH_EVERY_S
        if on_status is not None:
            status = self.status()
            on_status(status)
            if status.state.is_final:
                return status
        while True:
            left_s = look_every_s if give_up_at is None else min(look_every_s, give_up_at - time.monotonic())
            if left_s > 0:
                self._wait_for_news(left_s)
            status = self.status()
            if on_status is not None:
                on_status(status)
            if status.state.is_final:
                return status
            if give_up_at is not None and time.monotonic() >= give_up_at:
                raise NotFinishedError(
                    f"job {self.id} is {status.state} after {timeout_s:,.1f} s with {status.pending:,} rows pending"
                    f" and {status.live_workers} live workers; it goes on"
                )

    def results(self, *, partial: bool = False) -> Iterator[RowResult]:
        """Yield what became of each row, in input order; rows that were cancelled have no result.

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

    def reader(self, *, partial: bool = False) -> ResultReader:
        """Return what reads this job's chunks and their results. Raises what ``results`` raises."""
        status = self._ended or self.status()
        if not status.state.is_final and not partial:
            raise NotFinishedError(
                f"job {self.id} is {status.state} with {status.pending:,} rows pending; wait for it, or take what is"
                " there (--partial)"
            )
        return ResultReader(self._ledger, status)

    def audit(self) -> Audit:
        """Count the job's rows again, from its chunk records and its decoded results, and compare with its counters.

        Raises:
            JobNotFoundError: No such job, or its results have expired.
        """
        return recount(self._ledger, self.id)

    def _wait_for_news(self, timeout_s: float) -> None:
        try:
            self._ledger.wait_for_change(self.id, timeout_s)
        except RedisRefusedError:
            raise
        except RedisUnavailableError:
            # Redis may be restarting: the status that is asked for next has the patience.
            return


def new_job_id() -> str:
    """Return a UUIDv7 in hex: ids sort by the time they were made (RFC 9562, section 5.7)."""
    stamp = time.time_ns() // 1_000_000
    value = (stamp & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"


def _keep_quiet(progress: UploadProgress) -> None:
    """Stand in for a progress callback that nobody gave."""
