"""The library face of the producer: submit rows, wait, read results. It prints nothing.

from producer import Client

client = Client()
job = client.submit(["Who did you see?", "Who you did see?"])
job.wait()
for result in job.results():
    print(result.id, result.label, result.score)
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain, islice
from typing import Literal, Self

from pydantic import ValidationError

from producer.chunks import ChunkSource
from producer.gate import Gate
from producer.inputs import Inputs
from producer.job import Job
from producer.rows import RowRules
from producer.upload import OnUpload, Upload, UploadProgress
from scorequeue.errors import InputError, JobNotFoundError, RedisUnavailableError, UsageError
from scorequeue.jobs import EXPRESS_ROWS, JOB_ID_PATTERN, JobSpec, JobState, JobStatus, Lane, Row
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.queue import WakeUps
from scorequeue.settings import Settings
from scorequeue.wording import refusal

log = logging.getLogger(__name__)

AnyRows = Iterable[str | tuple[str, str] | Row] | Inputs


class Client:
    """Submits jobs and finds them again. Safe to use from several threads; it connects when it is made.

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
        self._wake_ups = WakeUps(settings)
        self._ledger = Ledger.connect(
            settings, patience_s=settings.redis_patience_s, on_outage=self._tell_outage, wake_up=self._wake_ups.send
        )
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
            idempotency_key: The same rows under the same key are one job, and an upload that broke off goes on. Lane,
                metadata and times are those of the first submit.
            metadata: Labels of your own.
            chunk_rows: Rows that are claimed and committed together; else the setting.
            max_outstanding: Rows that may wait in the lane before the upload pauses; else the setting.
            deadline_s: Seconds after which what is not scored is dropped.
            ttl_s: Seconds that results are kept after the end; else the setting.
            timeout_s: Seconds to wait at most while the queue is full; None waits for ever.
            source: What to call the rows' origin.
            on_progress: Told about every call, why an upload stands still, and what a job of the same key keeps.

        Raises:
            InputError: There are no rows.
            ContentConflictError: The idempotency key belongs to other rows or options.
            NotFinishedError: The queue stayed full until the time-out.
            RedisUnavailableError: Redis cannot be reached, or refuses us.
        """
        if max_outstanding is not None and max_outstanding < 1:
            raise UsageError(f"max_outstanding: expected at least 1, got {max_outstanding!r}")
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        rules = RowRules(self.settings.max_text_bytes)
        again: Callable[[], Iterable[Row]] | None = None
        if isinstance(rows, Inputs):
            names, options, checked = rows.names, rows.job_options(), iter(rows)
            again = rows.again if rows.is_lasting else None
        else:
            if isinstance(rows, Mapping):
                raise UsageError("expected several rows, got a dict; give its values, or (id, text) pairs")
            if isinstance(rows, str):
                raise UsageError("expected several rows, got one text; put it in a list")
            names, options, checked = tuple(source), {}, rules.from_python(rows)
            if isinstance(rows, list | tuple):
                again = partial(rules.from_python, rows)
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
                source=names,
                metadata=dict(metadata or {}),
                model_version=model_version,
                idempotency_key=idempotency_key,
                reader_options=options,
                deadline_s=deadline_s,
                ttl_s=self.settings.ttl_s if ttl_s is None else ttl_s,
            )
        except ValidationError as exc:
            first = exc.errors()[0]
            raise UsageError(f"{'.'.join(map(str, first['loc']))}: {refusal(first)}") from exc
        chunks = ChunkSource(
            chain(head, checked),
            chunk_rows=spec.chunk_rows,
            most_bytes=self.settings.max_chunk_bytes,
            most_rows=self.settings.max_job_rows,
            again=again,
        )
        upload = Upload(
            self._ledger,
            self._gate,
            spec=spec,
            source=chunks,
            max_outstanding=self.settings.max_outstanding if max_outstanding is None else max_outstanding,
            give_up_at=give_up_at,
            on_upload=on_progress or _keep_quiet,
        )
        try:
            job_id = upload.run().job_id
        except BaseException:
            upload.close()
            raise
        if isinstance(rows, Inputs):
            # Whoever waits for a job of files sends again what a Redis without its last second has lost.
            return Job(self._ledger, job_id, page_rows=self.settings.page_rows, upload=upload)
        upload.close()
        return Job(self._ledger, job_id, page_rows=self.settings.page_rows, is_sent=True)

    def job(self, job_id: str) -> Job:
        """Return a job by its id.

        Raises:
            JobNotFoundError: This cannot be a job's id. Whether there is such a job shows when it is asked something.
        """
        if not isinstance(job_id, str) or not JOB_ID_PATTERN.fullmatch(job_id):
            raise JobNotFoundError(f"expected a job id of 32 hex digits, as submit prints it, got {job_id!r}")
        return Job(self._ledger, job_id, page_rows=self.settings.page_rows)

    def jobs(self, *, states: Iterable[JobState] = (), limit: int = 100) -> list[JobStatus]:
        """Return the namespace's jobs, the newest first.

        Args:
            states: Only jobs in one of these states; none means any.
            limit: Most jobs.
        """
        return self._ledger.jobs(states=frozenset(states), limit=limit)

    def close(self) -> None:
        """Let go of the connections."""
        self._ledger.close()
        self._wake_ups.close()

    def _tell_outage(self, error: RedisUnavailableError | None) -> None:
        if error is None:
            log.warning("Redis is back", extra=fields("redis_back"))
        else:
            facts = fields("redis_away", error=str(error), patience_s=self.settings.redis_patience_s)
            log.warning("Redis does not answer; trying again", extra=facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def new_job_id() -> str:
    """Return a UUIDv7 in hex: ids sort by the time they were made (RFC 9562, section 5.7)."""
    stamp = time.time_ns() // 1_000_000
    value = (stamp & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"


def _keep_quiet(progress: UploadProgress) -> None:
    """Stand in for a progress callback that nobody gave."""
