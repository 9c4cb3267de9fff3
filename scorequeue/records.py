"""The values that the ledger's verbs take and give, and how its hashes are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from scorequeue.jobs import JobState, JobStatus, Lane


class ChunkUpload(NamedTuple):
    """An encoded chunk on its way into the ledger."""

    payload: bytes
    rows: int
    digest: str


class Opened(NamedTuple):
    """What ``open`` found or made; ``chunks`` is how many have arrived."""

    job_id: str
    is_new: bool
    state: JobState
    chunks: int
    chunk_rows: int
    reader_options: dict[str, str]


class ChunkRecord(NamedTuple):
    """What the ledger notes of a chunk; the counts are None until it is committed."""

    rows: int
    digest: str
    scored: int | None
    failed: int | None
    truncated: int | None


class Lease(NamedTuple):
    """The right to score one chunk, shown by its token."""

    job_id: str
    chunk: int
    token: str


class LeasedChunk(NamedTuple):
    """A claimed chunk; ``deaths`` is how often its lease has expired before."""

    lease: Lease
    model_version: str
    deaths: int
    payload: bytes


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
    """A scored chunk on its way into the ledger."""

    lease: Lease
    scored: int
    failed: int
    truncated: int
    payload: bytes


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
    job_id, is_new, state, chunks, chunk_rows, options = answer
    return Opened(
        job_id.decode(), bool(is_new), JobState(state.decode()), int(chunks), int(chunk_rows), json.loads(options)
    )


def read_record(record: bytes) -> ChunkRecord:
    """Read a chunk record: ``rows digest [scored failed truncated token]``."""
    rows, digest, *counts = record.decode().split(" ")
    scored, failed, truncated = (int(count) for count in counts[:3]) if counts else (None, None, None)
    return ChunkRecord(int(rows), digest, scored, failed, truncated)


def _at(ms: str) -> datetime:
    return datetime.fromtimestamp(int(float(ms)) / 1000, UTC)
