"""The verbs of whoever owns a job: open, add chunks, seal; later cancel, retry, discard, delete."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from redis.exceptions import ResponseError

from scorequeue.errors import (
    ContentConflictError,
    InternalError,
    JobClosedError,
    JobDeletedError,
    JobNotFoundError,
    NotFinishedError,
    RedisUnavailableError,
    ResultsChangedError,
    UploadLostError,
    UsageError,
)
from scorequeue.inquiries import Inquiries
from scorequeue.jobs import ENDED_EARLY, JobSpec, JobState, Lane
from scorequeue.records import ChunkUpload, Opened, fold_digest, read_opened
from scorequeue.refusals import translated
from scorequeue.scripts import Arg, Script

T = TypeVar("T")

SYNC_TIMEOUT_MS = 2500
"""How long a seal waits for Redis's disk: every second it is told to write, and a slow one takes a second for it."""

_OPEN, _ADD_CHUNKS, _SEAL = Script("open"), Script("add_chunks"), Script("seal")
_TOUCH, _SYNC = Script("touch"), Script("sync")
_CANCEL, _RETRY, _DISCARD, _DELETE = Script("cancel"), Script("retry"), Script("discard"), Script("delete")


class JobVerbs(Inquiries):
    """What a producer does. All of it may be repeated: the same call again changes nothing."""

    def open(self, spec: JobSpec) -> Opened:
        """Make a job, or find the one that this id or idempotency key already made.

        Raises:
            JobDeletedError: A job of this id was deleted.
        """
        return read_opened(self._refusable(spec.id, lambda: self._scripts.run(_OPEN, self._open_args(spec))))

    def add_chunks(self, job_id: str, first_index: int, chunks: Sequence[ChunkUpload]) -> int:
        """Add consecutive chunks to a job that is not sealed. The same chunks again change nothing.

        Returns:
            How many chunks of the job have arrived.

        Raises:
            JobNotFoundError: No such job (any more).
            UploadLostError: Chunks before these are not there (any more).
            ContentConflictError: A chunk that arrived before had other content, or the job has been sealed.
            JobClosedError: The job was cancelled, has expired or failed.
            RedisFullError: Redis is full.
        """
        args = _add_args(job_id, first_index, chunks)
        return self._wake(self._refusable(job_id, lambda: self._scripts.run(_ADD_CHUNKS, args)))

    def touch(self, job_id: str) -> None:
        """Say that an upload goes on, though nothing has come for a while; silent for an hour, it expires.

        Raises:
            JobNotFoundError: No such job (any more).
            JobClosedError: The job was cancelled, has expired or failed.
            ContentConflictError: The job has been sealed.
        """
        self._refusable(job_id, lambda: self._scripts.run(_TOUCH, [job_id]))

    def seal(self, job_id: str, *, chunks: int, rows: int, digest: str) -> JobState:
        """Say that all of a job has arrived; the ledger checks that it has.

        Args:
            job_id: The job.
            chunks: How many chunks were sent.
            rows: How many rows they have.
            digest: The digest over theirs (``records.fold_digest``).

        Raises:
            JobNotFoundError: No such job (any more).
            UploadLostError: The last chunks are not there (any more).
            ContentConflictError: The job holds other chunks.
            JobClosedError: The job was cancelled, has expired or failed before it was sealed.
        """
        args: list[Arg] = [job_id, chunks, rows, digest]
        answer = self._refusable(job_id, lambda: self._scripts.run(_SEAL, args))
        return JobState(answer.decode())

    def sync(self) -> bool | None:
        """Wait until what was written is on Redis's disk, where the server can say so (WAITAOF, from 7.2 on).

        Returns:
            Whether it is there by now; None where the server cannot or may not say.
        """
        if not self.can_sync:
            return None
        try:
            with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
                pipe.eval(_SYNC.text, 1, self.keys.prefix)  # a server waits for the writes of the same connection
                pipe.waitaof(1, 0, SYNC_TIMEOUT_MS)
                _, (local, _) = pipe.execute()
        except (ResponseError, RedisUnavailableError):  # no append-only file, no right to ask, or no answer
            return None
        return bool(local)

    def submit(self, spec: JobSpec, chunks: Sequence[ChunkUpload]) -> Opened:
        """Open, add and seal a small job in one round trip.

        Where an idempotency key leads to an older job, nothing is added: the caller goes on with what ``open`` found.
        """
        rows, digest = 0, ""
        for chunk in chunks:
            rows, digest = rows + chunk.rows, fold_digest(digest, chunk.digest)
        answers = self._scripts.run_many(
            [
                (_OPEN, self._open_args(spec)),
                (_ADD_CHUNKS, _add_args(spec.id, 0, chunks)),
                (_SEAL, [spec.id, len(chunks), rows, digest]),
            ]
        )
        if isinstance(answers[0], ResponseError):
            _refuse(spec.id, answers[0])
        opened = read_opened(answers[0])
        if opened.job_id != spec.id:
            return opened
        for answer in answers[1:]:
            if isinstance(answer, ResponseError):
                _refuse(spec.id, answer)
        return opened._replace(chunks=self._wake(answers[1]), state=JobState(answers[2].decode()))

    def cancel(self, job_id: str) -> JobState:
        """End a job early: what is done stays, the rest counts as cancelled.

        Returns:
            The state after it; another one than ``cancelled`` if the job had ended before.

        Raises:
            JobNotFoundError: No such job.
        """
        return JobState(self._refusable(job_id, lambda: self._scripts.run(_CANCEL, [job_id])).decode())

    def retry(self, job_id: str) -> int:
        """Make rows that failed while they were scored pending again, on the job's version.

        Returns:
            How many; 0 when none can be tried again.

        Raises:
            JobNotFoundError: No such job, or its results were discarded.
            NotFinishedError: It has not ended.
            UsageError: It did not end as ``completed``.
        """
        token = secrets.token_hex(8)
        return self._wake(self._refusable(job_id, lambda: self._scripts.run(_RETRY, [job_id, token])))

    def discard(self, job_id: str, *, finished_ms: int | None) -> int:
        """Let go of the results that a reader has seen; the job's counters and chunk records stay.

        Args:
            job_id: The job.
            finished_ms: When it ended, as the reader's status says (``JobStatus.finished_ms``): after a retry it is
                another time, and there are results that the reader has not seen. None if it had not ended.

        Returns:
            How many chunks had results.

        Raises:
            JobNotFoundError: No such job.
            NotFinishedError: It has not ended.
            ResultsChangedError: It has ended anew since then; nothing was discarded.
        """
        args: list[Arg] = [job_id, "" if finished_ms is None else finished_ms]
        return int(self._refusable(job_id, lambda: self._scripts.run(_DISCARD, args)))

    def delete(self, job_id: str) -> bool:
        """Take a job and all that is kept of it away.

        Returns:
            Whether it was there; False when it was deleted within the last hour.

        Raises:
            JobNotFoundError: No such job.
        """
        return bool(self._refusable(job_id, lambda: self._scripts.run(_DELETE, [job_id])))

    def _open_args(self, spec: JobSpec) -> list[Arg]:
        fields: list[Arg] = [
            *("lane", spec.lane, "chunk_rows", spec.chunk_rows, "source", json.dumps(spec.source)),
            *("metadata", json.dumps(spec.metadata), "reader_options", json.dumps(spec.reader_options, sort_keys=True)),
        ]
        if spec.model_version is not None:
            fields += ["model_version", spec.model_version, "asked_version", spec.model_version]
        digest = ""
        if spec.idempotency_key is not None:
            fields += ["idempotency_key", spec.idempotency_key]
            digest = self.keys.idempotency(spec.idempotency_key).rpartition(":")[2]
        deadline_ms = "" if spec.deadline_s is None else round(spec.deadline_s * 1000)
        return [spec.id, digest, round(spec.ttl_s * 1000), deadline_ms, secrets.token_hex(8), *fields]

    def _wake(self, answer: tuple[int, bytes]) -> int:
        """Wake a worker if the ledger says that one sleeps; return the count that comes with that."""
        count, lane = answer
        if lane and self._wake_up is not None:
            self._wake_up(Lane(lane.decode()))
        return int(count)

    def _refusable(self, job_id: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except ResponseError as exc:
            _refuse(job_id, exc)


def _add_args(job_id: str, first_index: int, chunks: Sequence[ChunkUpload]) -> list[Arg]:
    args: list[Arg] = [job_id, first_index]
    for chunk in chunks:
        args += [chunk.rows, chunk.digest, chunk.payload]
    return args


def _refuse(job_id: str, answer: ResponseError) -> NoReturn:
    """Raise what a script's refusal means."""
    code, _, rest = str(answer).partition(" ")
    match code:
        case "NOJOB":
            raise JobNotFoundError(
                f"no job {job_id}: it never was, its results expired, or Redis lost it; submit again"
            ) from answer
        case "DELETED":
            raise JobDeletedError(f"no job {job_id}: it was deleted") from answer
        case "DISCARDED":
            raise JobNotFoundError(f"results of job {job_id} were discarded; submit its failed rows again") from answer
        case "CHANGED":
            raise ResultsChangedError(
                f"job {job_id} went on after its results were read, and has ended since; nothing was discarded,"
                " read them again"
            ) from answer
        case "CONFLICT":
            raise ContentConflictError(
                f"chunk {rest} of job {job_id} arrived before with other content;"
                " use another --idempotency-key for other input"
            ) from answer
        case "CLOSED" if JobState(rest) in ENDED_EARLY:
            raise JobClosedError(
                f"job {job_id} ended as {rest} before all of it had arrived; what was scored stays"
                f" (producer results {job_id}), submit the rest as a new job"
            ) from answer
        case "CLOSED":
            raise ContentConflictError(
                f"job {job_id} was sealed with fewer rows than come now: another producer sent other input under the"
                " same idempotency key; use another key for each input"
            ) from answer
        case "STATE" if JobState(rest).is_final:
            raise UsageError(
                f"job {job_id} is {rest}: only rows of a completed job are tried again; submit it again"
            ) from answer
        case "STATE":
            raise NotFinishedError(f"job {job_id} is {rest}; wait for its end (producer status {job_id})") from answer
        case "GAP":
            raise UploadLostError(
                f"Redis lost the end of the upload of job {job_id} (it has {rest} chunks);"
                " run the same command again with its --idempotency-key, or submit again"
            ) from answer
        case "MISMATCH":
            chunks, _, rows = rest.partition(" ")
            raise ContentConflictError(
                f"job {job_id} holds {rows} rows in {chunks} chunks, and this input has others;"
                " use another --idempotency-key for other input"
            ) from answer
        case _:
            raise InternalError(f"the ledger refused job {job_id}: {answer}") from answer
