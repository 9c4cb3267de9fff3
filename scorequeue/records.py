"""The values that the ledger's verbs take and give, and how its hashes are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any, NamedTuple

from scorequeue.jobs import JobState, JobStatus, Lane


class ChunkUpload(NamedTuple):
    """An encoded chunk on its way into the ledger."""

    payload: bytes
    rows: int
    digest: str


class Opened(NamedTuple):
    """What ``open`` found or made.

    Attributes:
        job_id: The job's id.
        is_new: Whether it was made just now.
        state: Its state.
        chunks: How many of its chunks have arrived.
        chunk_rows: Rows in each of them but the last.
        reader_options: How its input is read.
        asked_version: The version that was asked for, if any.
        ledger_name: Name of the ledger that it is in: another one after Redis was emptied or replaced.
        ttl_s: Seconds that its results are kept after its end.
    """

    job_id: str
    is_new: bool
    state: JobState
    chunks: int
    chunk_rows: int
    reader_options: dict[str, str]
    asked_version: str | None
    ledger_name: str
    ttl_s: float


class ChunkRecord(NamedTuple):
    """What the ledger notes of a chunk: ``rows = pending + scored + failed``.

    Attributes:
        rows: How many rows it has.
        digest: Fingerprint of its encoded input.
        pending: Rows that have no result yet, or that are tried again.
        scored: Rows with scores.
        failed: Rows that failed, faulty ones included.
        truncated: Rows that were longer than the model reads.
        kept: Failed rows whose text is kept for a retry.
    """

    rows: int
    digest: str
    pending: int
    scored: int
    failed: int
    truncated: int
    kept: int


class Lease(NamedTuple):
    """The right to score one chunk, shown by its token."""

    job_id: str
    chunk: int
    token: str


DEFAULT_LEASE_MS = 15_000
"""How long a lease lasts as long as no worker has named another term."""

AWAKE_MS = 10
"""How long after a claim that brought something a worker needs no wake-up: it looks every millisecond meanwhile."""

MOST_WAKE_UPS = 8
"""Wake-ups that wait in a lane's queue above which another one says nothing new."""


class LeasedChunk(NamedTuple):
    """A claimed chunk.

    Attributes:
        lease: The right to score it.
        model_version: The version that its job is scored by.
        first_row: Position of its first row in the job, from 1.
        pending: How many of its rows are to be scored.
        deaths: How often its lease has expired before.
        payload: The encoded rows to score.
        before: Its encoded results, if some of its rows are tried again; else empty.
    """

    lease: Lease
    model_version: str
    first_row: int
    pending: int
    deaths: int
    payload: bytes
    before: bytes


class LaneRoom(NamedTuple):
    """How much a worker can take from a lane."""

    lane: Lane
    rows: int
    chunks: int


class Claim(NamedTuple):
    """What a claim brought, and which version a job has waited for that the worker has not ready."""

    chunks: list[LeasedChunk]
    waiting_version: str | None
    waited_s: float


class Commit(NamedTuple):
    """A scored chunk on its way into the ledger.

    Attributes:
        lease: The right to commit it.
        scored: Rows that got scores.
        failed: Rows that failed; with ``scored`` all that were pending.
        truncated: Rows among the scored ones that were longer than the model reads.
        payload: The encoded results of the whole chunk.
        kept: Failed rows that may be tried again.
        kept_texts: Their encoded texts; empty where there are none.
    """

    lease: Lease
    scored: int
    failed: int
    truncated: int
    payload: bytes
    kept: int = 0
    kept_texts: bytes = b""


class Pressure(NamedTuple):
    """How full the lane and Redis are; ``memory_share`` is None where Redis has no ``maxmemory``."""

    backlog_rows: int
    memory_share: float | None


def read_status(job_id: str, job: dict[str, str], now_ms: int, *, live_workers: int) -> JobStatus:
    """Read a job's hash, as it stands at ``now_ms`` of Redis's clock."""
    counts = {name: int(job[name]) for name in ("total", "scored", "failed", "cancelled", "truncated", "chunks")}
    pending = counts["total"] - counts["scored"] - counts["failed"] - counts["cancelled"]
    done = counts["scored"] + counts["failed"]
    started_ms = int(job["started"]) if "started" in job else None
    rate = None
    if started_ms is not None and done:
        elapsed_s = (int(job.get("finished", now_ms)) - started_ms) / 1000
        rate = done / max(elapsed_s, 0.001)
    state = JobState(job["state"])
    return JobStatus(
        id=job_id,
        state=state,
        lane=Lane(job["lane"]),
        source=json.loads(job["source"]),
        metadata=json.loads(job["metadata"]),
        **counts,
        pending=pending,
        model_version=job.get("model_version"),
        idempotency_key=job.get("idempotency_key"),
        error=job.get("error"),
        created_at=_at(job["created"]),
        started_at=_at(job["started"]) if "started" in job else None,
        finished_at=_at(job["finished"]) if "finished" in job else None,
        deadline_at=_at(job["deadline"]) if "deadline" in job else None,
        results_expire_at=_at(job["expires"]) if "expires" in job else None,
        rows_per_second=None if rate is None else round(rate, 3),
        eta_seconds=round(pending / rate, 3) if rate and not state.is_final else None,
        live_workers=live_workers,
    )


def read_opened(answer: Sequence[Any]) -> Opened:
    """Read what ``open`` answers."""
    job_id, is_new, state, chunks, chunk_rows, options, version, name, ttl_ms = answer
    return Opened(
        job_id=job_id.decode(),
        is_new=bool(is_new),
        state=JobState(state.decode()),
        chunks=int(chunks),
        chunk_rows=int(chunk_rows),
        reader_options=json.loads(options),
        asked_version=version.decode() or None,
        ledger_name=name.decode(),
        ttl_s=int(ttl_ms) / 1000,
    )


def read_record(record: bytes) -> ChunkRecord:
    """Read a chunk record: ``rows digest pending scored failed truncated kept deaths token``."""
    rows, digest, pending, scored, failed, truncated, kept, _, _ = record.decode().split(" ")
    return ChunkRecord(int(rows), digest, int(pending), int(scored), int(failed), int(truncated), int(kept))


def read_leased(part: Sequence[Any], *, token: str) -> LeasedChunk:
    """Read one chunk of what ``claim`` answers."""
    job, index, version, first_row, pending, deaths, payload, before = part
    return LeasedChunk(
        lease=Lease(job.decode(), int(index), token),
        model_version=version.decode(),
        first_row=int(first_row),
        pending=int(pending),
        deaths=int(deaths),
        payload=payload,
        before=before,
    )


def fold_digest(digest: str, chunk_digest: str) -> str:
    """Add a chunk's digest to the one over all chunks before it, as the ledger does; that of none is empty."""
    return sha1((digest + chunk_digest).encode(), usedforsecurity=False).hexdigest()


def _at(ms: str) -> datetime:
    return datetime.fromtimestamp(int(float(ms)) / 1000, UTC)
