"""Questions to the ledger. Nothing here changes a job, save that expired leases are taken back on the way."""

from __future__ import annotations

import json
import time
from typing import Any

from redis import Redis

from scorequeue.errors import JobNotFoundError
from scorequeue.jobs import JobState, JobStatus, Lane
from scorequeue.keys import Keys
from scorequeue.records import ChunkRecord, Pressure, read_record, read_status
from scorequeue.scripts import Script, ScriptRunner, translated

PATIENCE_S = 10.0
"""How long a verb is repeated while Redis cannot be reached."""

_SWEEP = Script("sweep")


class Inquiries:
    """What can be asked of one namespace's ledger. Safe to use from several threads.

    Args:
        client: Made by ``scripts.connect``.
        keys: The namespace's key names.
        lease_s: Seconds that a lease lasts.
        patience_s: How long a verb that may run twice is repeated while Redis cannot be reached.
    """

    def __init__(self, client: Redis, keys: Keys, *, lease_s: float = 15.0, patience_s: float = PATIENCE_S) -> None:
        self.keys = keys
        self.lease_ms = round(lease_s * 1000)
        self._redis = client
        self._scripts = ScriptRunner(client, prefix=keys.prefix, patience_s=patience_s)

    def status(self, job_id: str) -> JobStatus:
        """Say where a job is. Expired leases are taken back on the way.

        Raises:
            JobNotFoundError: No such job, or it has expired.
        """
        return self._scripts.repeat(lambda: self._status(job_id))

    def wait_for_change(self, job_id: str, timeout_s: float) -> None:
        """Return when the job ends, or when the time is over."""
        with translated(self._redis), self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self.keys.ended_channel(job_id))
            channel.get_message(timeout=timeout_s)
            state = self._redis.hget(self.keys.job(job_id), "state")  # it may have ended before we listened
            if state is None or JobState(state.decode()).is_final:  # type: ignore[union-attr]
                return
            give_up_at = time.monotonic() + timeout_s
            while (left_s := give_up_at - time.monotonic()) > 0:
                message = channel.get_message(timeout=left_s)
                if message is not None and message["type"] == "message":
                    return

    def result_payloads(self, job_id: str, start: int, count: int) -> list[bytes | None]:
        """Return the encoded results of chunks ``start`` and on; None for those not committed."""
        names = [str(index) for index in range(start, start + count)]
        return self._scripts.repeat(lambda: self._hmget(self.keys.results(job_id), names))

    def chunk_records(self, job_id: str, start: int, count: int) -> list[ChunkRecord]:
        """Return what the ledger notes of chunks ``start`` and on; as many as there are."""
        names = [str(index) for index in range(start, start + count)]
        found = self._scripts.repeat(lambda: self._hmget(self.keys.chunks(job_id), names))
        return [read_record(record) for record in found if record is not None]

    def reader_options(self, job_id: str) -> dict[str, str]:
        """Return how the job's input was read, as its producer noted it."""
        (options,) = self._scripts.repeat(lambda: self._hmget(self.keys.job(job_id), ["reader_options"]))
        if options is None:
            raise _no_job(job_id, self.keys.namespace)
        return dict(json.loads(options))

    def pressure(self, lane: Lane) -> Pressure:
        """Say how full a lane and Redis are."""
        return self._scripts.repeat(lambda: self._pressure(lane))

    def workers(self) -> list[dict[str, Any]]:
        """Return what each live worker says of itself, with its id and the seconds since its last sign of life."""
        return self._scripts.repeat(self._workers)

    def sweep(self) -> None:
        """Take back expired leases and passed deadlines without claiming anything."""
        self._scripts.run(_SWEEP, [self.lease_ms])

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    def _hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        with translated(self._redis):
            return self._redis.hmget(key, names)  # type: ignore[return-value]

    def _pressure(self, lane: Lane) -> Pressure:
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(self.keys.rows, f"{lane}:backlog")
            pipe.info("memory")
            backlog, memory = pipe.execute()
        limit = memory.get("maxmemory", 0)
        return Pressure(int(backlog or 0), memory["used_memory"] / limit if limit else None)

    def _workers(self) -> list[dict[str, Any]]:
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(self.keys.workers)
            for lane in Lane:
                pipe.zrange(self.keys.listeners(lane), 0, -1, withscores=True)
            (seconds, micros), about, *listeners = pipe.execute()
        now_ms = seconds * 1000 + micros // 1000
        seen = {worker: at for lane in listeners for worker, at in lane if now_ms - at <= self.lease_ms}
        return [
            {"id": worker.decode(), "seen_s_ago": (now_ms - at) / 1000, **json.loads(about.get(worker, b"{}"))}
            for worker, at in sorted(seen.items())
        ]

    def _status(self, job_id: str) -> JobStatus:
        self._scripts.run_once(_SWEEP, [self.lease_ms])
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(self.keys.job(job_id))
            for lane in Lane:
                pipe.zrange(self.keys.listeners(lane), 0, -1, withscores=True)
            (seconds, micros), found, *listeners = pipe.execute()
        if not found:
            raise JobNotFoundError(
                f"no job {job_id} in namespace {self.keys.namespace}: it never was, or its results expired"
            )
        now_ms = seconds * 1000 + micros // 1000
        job = {name.decode(): value.decode() for name, value in found.items()}
        live = dict(zip(Lane, listeners, strict=True))[Lane(job["lane"])]
        return read_status(job_id, job, now_ms, live_workers=sum(now_ms - at <= self.lease_ms for _, at in live))


def _no_job(job_id: str, namespace: str) -> JobNotFoundError:
    return JobNotFoundError(f"no job {job_id} in namespace {namespace}: it never was, or its results have expired")
