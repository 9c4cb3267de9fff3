"""The record of all jobs: the only code that issues Redis commands for them.

Each verb is one atomic Lua script (``lua/``) over the keys of ``keys.py``. A chunk goes

                add_chunks           claim (token)               commit (token)
     (upload) ------------> pending ---------------> leased ---------------------> done
                              ^                        | renew
                              +---- release, or lease expired

and a job ``submitting -> queued -> running -> completed | cancelled | expired | failed``. Time comes from Redis.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from redis.exceptions import ResponseError

from scorequeue import scripts
from scorequeue.errors import (
    ContentConflictError,
    InternalError,
    JobNotFoundError,
    ProtocolTooNewError,
    RedisRefusedError,
    RedisUnavailableError,
    UsageError,
)
from scorequeue.inquiries import PATIENCE_S, Inquiries
from scorequeue.jobs import JobSpec, JobState, Lane
from scorequeue.keys import PROTOCOL, Keys
from scorequeue.records import (
    ChunkUpload,
    Claim,
    Commit,
    LaneRoom,
    Lease,
    LeasedChunk,
    Opened,
    read_opened,
)
from scorequeue.scripts import Script, translated
from scorequeue.settings import Settings

T = TypeVar("T")

_OPEN, _ADD_CHUNKS, _SEAL, _CLAIM = Script("open"), Script("add_chunks"), Script("seal"), Script("claim")
_RENEW, _COMMIT, _RELEASE, _DEPART = Script("renew"), Script("commit"), Script("release"), Script("depart")


class Ledger(Inquiries):
    """The verbs, and the questions, for one namespace. Safe to use from several threads.

    Verbs that may run twice are repeated for ``patience_s`` seconds while Redis cannot be reached; then they raise
    RedisUnavailableError. RedisRefusedError (no rights, no memory) comes at once.
    """

    @classmethod
    def connect(cls, settings: Settings, *, patience_s: float = PATIENCE_S) -> Ledger:
        """Reach Redis, and check that this program can work with it.

        Raises:
            RedisUnavailableError: It cannot be reached.
            RedisRefusedError: It refuses us, or is older than 6.2.
            ProtocolTooNewError: A newer Scorequeue wrote the namespace.
        """
        client = scripts.connect(settings.redis_url)
        ledger = cls(client, Keys(settings.namespace), lease_s=settings.lease_s, patience_s=patience_s)
        try:
            with translated(client):
                info = client.info("server")
                protocol = int(client.hget(ledger.keys.meta, "protocol") or PROTOCOL)
        except ResponseError as exc:  # for instance a database number that the server does not have
            raise RedisRefusedError(f"Redis refused: {exc}; check --redis-url") from exc
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        if version < scripts.OLDEST_REDIS:
            raise RedisRefusedError(
                f"expected Redis 6.2 or newer, got {'.'.join(map(str, version))}; update the server"
            )
        if protocol > PROTOCOL:
            raise ProtocolTooNewError(
                f"expected protocol {PROTOCOL} in namespace {settings.namespace}, got {protocol}; update this program"
            )
        return ledger

    # --- the producer's verbs ---

    def open(self, spec: JobSpec) -> Opened:
        """Make a job, or find the one that this id or idempotency key already made."""
        return read_opened(self._scripts.run(_OPEN, self._open_args(spec)))

    def add_chunks(self, job_id: str, first_index: int, chunks: Sequence[ChunkUpload]) -> int:
        """Add consecutive chunks to a job that is not sealed. The same chunks again change nothing.

        Returns:
            How many chunks of the job have arrived.

        Raises:
            JobNotFoundError: No such job.
            ContentConflictError: A chunk that arrived before had other content.
            UsageError: The job has been sealed, cancelled, or has expired.
            RedisRefusedError: Redis is full.
        """
        return int(
            self._refusable(job_id, lambda: self._scripts.run(_ADD_CHUNKS, _add_args(job_id, first_index, chunks)))
        )

    def seal(self, job_id: str, *, chunks: int, rows: int) -> JobState:
        """Say that all of a job has arrived; the ledger checks that it has."""
        answer = self._refusable(job_id, lambda: self._scripts.run(_SEAL, [job_id, chunks, rows]))
        return JobState(answer.decode())

    def submit(self, spec: JobSpec, chunks: Sequence[ChunkUpload]) -> Opened:
        """Open, add and seal a small job in one round trip.

        Where an idempotency key leads to an older job, nothing is added: the caller goes on with what ``open`` found.
        """
        rows = sum(chunk.rows for chunk in chunks)
        answers = self._scripts.run_many(
            [
                (_OPEN, self._open_args(spec)),
                (_ADD_CHUNKS, _add_args(spec.id, 0, chunks)),
                (_SEAL, [spec.id, len(chunks), rows]),
            ]
        )
        if isinstance(answers[0], ResponseError):
            raise InternalError(f"the ledger could not open job {spec.id}: {answers[0]}") from answers[0]
        opened = read_opened(answers[0])
        if opened.job_id != spec.id:
            return opened
        for answer in answers[1:]:
            if isinstance(answer, ResponseError):
                _refuse(spec.id, answer)
        return opened._replace(chunks=int(answers[1]), state=JobState(answers[2].decode()))

    # --- the worker's verbs ---

    def claim(
        self, worker_id: str, lanes: Sequence[LaneRoom], *, versions: Iterable[str], default_version: str
    ) -> Claim:
        """Take back what has run out, then lease chunks: the lanes in the order given, each within its room.

        Args:
            worker_id: Who claims.
            lanes: What fits.
            versions: Versions that are ready; jobs pinned to another one stay where they are.
            default_version: Pinned to jobs that have no version yet.

        Raises:
            RedisUnavailableError: No answer. It is not asked again: a lease taken without our knowing expires.
        """
        token = secrets.token_hex(8)
        request = {
            "worker": worker_id,
            "token": token,
            "lease_ms": self.lease_ms,
            "versions": list(versions),
            "default": default_version,
            "lanes": lanes,
        }
        answer = self._scripts.run_once(_CLAIM, [json.dumps(request)])
        return Claim(
            chunks=[
                LeasedChunk(Lease(job.decode(), int(index), token), version.decode(), int(deaths), payload)
                for job, index, version, deaths, payload in zip(*[iter(answer[2:])] * 5, strict=True)
            ],
            waiting_version=answer[0].decode() or None,
            waited_s=int(answer[1]) / 1000,
        )

    def renew(
        self, worker_id: str, about: dict[str, Any], lanes: Sequence[Lane], leases: Sequence[Lease]
    ) -> set[Lease]:
        """Give a sign of life, and renew leases.

        Returns:
            The leases that are no longer this worker's.
        """
        args: list[scripts.Arg] = [worker_id, json.dumps(about), self.lease_ms, len(lanes), *lanes]
        answer = self._scripts.run_once(_RENEW, args + _lease_args(leases))
        lost = zip(*[iter(answer)] * 3, strict=True)
        return {Lease(job.decode(), int(chunk), token.decode()) for job, chunk, token in lost}

    def commit(self, commits: Sequence[Commit]) -> list[str]:
        """Write the results of scored chunks, several in one round trip.

        Returns:
            What became of each: ``done``, ``already`` (this very commit came twice), ``lost`` (the lease is somebody
            else's by now), ``closed`` (the job ended early) or ``gone`` (the ledger knows no such job).
        """
        answers = self._scripts.run_many(
            [(_COMMIT, [*c.lease, c.scored, c.failed, c.truncated, c.payload]) for c in commits]
        )
        for commit, answer in zip(commits, answers, strict=True):
            if isinstance(answer, ResponseError):
                raise InternalError(
                    f"the ledger refused chunk {commit.lease.chunk} of job {commit.lease.job_id}: {answer}"
                )
        return [answer.decode() for answer in answers]

    def release(self, leases: Sequence[Lease]) -> int:
        """Give chunks back unscored, to the front of their lanes. Returns how many leases were still held."""
        return int(self._scripts.run(_RELEASE, _lease_args(leases))) if leases else 0

    def depart(self, worker_id: str, lanes: Sequence[Lane]) -> None:
        """Leave in order: no longer counted among the live workers."""
        self._scripts.run_once(_DEPART, [worker_id, *lanes])

    # --- how ---

    def _open_args(self, spec: JobSpec) -> list[scripts.Arg]:
        fields: list[scripts.Arg] = [
            *("lane", spec.lane, "chunk_rows", spec.chunk_rows, "source", json.dumps(spec.source)),
            *("metadata", json.dumps(spec.metadata), "reader_options", json.dumps(spec.reader_options, sort_keys=True)),
        ]
        if spec.model_version is not None:
            fields += ["model_version", spec.model_version]
        digest = ""
        if spec.idempotency_key is not None:
            fields += ["idempotency_key", spec.idempotency_key]
            digest = self.keys.idempotency(spec.idempotency_key).rpartition(":")[2]
        deadline_ms = "" if spec.deadline_s is None else round(spec.deadline_s * 1000)
        return [spec.id, PROTOCOL, digest, round(spec.ttl_s * 1000), deadline_ms, *fields]

    def _refusable(self, job_id: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except ResponseError as exc:
            _refuse(job_id, exc)


def _add_args(job_id: str, first_index: int, chunks: Sequence[ChunkUpload]) -> list[scripts.Arg]:
    args: list[scripts.Arg] = [job_id, first_index]
    for chunk in chunks:
        args += [chunk.rows, chunk.digest, chunk.payload]
    return args


def _lease_args(leases: Iterable[Lease]) -> list[scripts.Arg]:
    return [part for lease in leases for part in lease]


def _refuse(job_id: str, answer: ResponseError) -> NoReturn:
    """Raise what a script's refusal means."""
    code, _, rest = str(answer).partition(" ")
    match code:
        case "NOJOB":
            raise JobNotFoundError(f"no job {job_id}: Redis lost it, or it was deleted; submit again") from answer
        case "CONFLICT":
            raise ContentConflictError(
                f"chunk {rest} of job {job_id} arrived before with other content;"
                " use another --idempotency-key for other input"
            ) from answer
        case "CLOSED":
            raise UsageError(f"job {job_id} is {rest} and takes no more rows; submit a new job") from answer
        case "GAP":
            raise RedisUnavailableError(
                f"Redis lost the end of the upload of job {job_id} (it has {rest} chunks);"
                " run the same command again with its --idempotency-key, or submit again"
            ) from answer
        case "MISMATCH":
            chunks, _, rows = rest.partition(" ")
            raise ContentConflictError(
                f"job {job_id} holds {rows} rows in {chunks} chunks, and this input has other counts;"
                " use another --idempotency-key for other input"
            ) from answer
        case _:
            raise InternalError(f"the ledger refused job {job_id}: {answer}") from answer
