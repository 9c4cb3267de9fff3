"""Questions to the ledger.

Three of them change it: ``status``, ``jobs`` and ``sweep`` take back what has run out. Expired leases go back to the
front of their lanes, and a job whose deadline has passed, or whose upload stood still for an hour, ends as ``expired``.
So where no worker lives a job still ends, and whoever asks is told how it stands now. All else only reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any, Self

from redis import Redis
from redis.client import Pipeline

from scorequeue.errors import JobDeletedError, JobNotFoundError, RedisRefusedError, RedisUnavailableError
from scorequeue.jobs import JobState, JobStatus, Lane
from scorequeue.keys import Keys
from scorequeue.news import News
from scorequeue.records import DEFAULT_LEASE_MS, ChunkRecord, Pressure, read_record, read_status
from scorequeue.refusals import translated
from scorequeue.scripts import Script, ScriptRunner

PATIENCE_S = 10.0
"""How long a verb is repeated while Redis cannot be reached."""

LIST_PAGE = 200
"""Jobs that are read in one round trip."""

PIN_PAGE = 1_000
"""Jobs whose versions are read in one round trip."""

_SWEEP = Script("sweep")


class Inquiries:
    """What can be asked of one namespace's ledger. Safe to use from several threads.

    Args:
        client: Made by ``scripts.connect``.
        keys: The namespace's key names.
        lease_s: Seconds that a lease lasts which is claimed or renewed here.
        patience_s: How long a verb that may run twice is repeated while Redis cannot be reached.
        on_outage: Told what is wrong when that begins, and None when it is over.
        can_sync: Whether the server can say what is on its disk.
        wake_up: Called with a lane where new work came and a live worker sleeps; None leaves workers to look by
            themselves.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        *,
        lease_s: float = 15.0,
        patience_s: float = PATIENCE_S,
        on_outage: Callable[[RedisUnavailableError | None], None] | None = None,
        can_sync: bool = False,
        wake_up: Callable[[Lane], None] | None = None,
    ) -> None:
        self.keys = keys
        self.lease_ms = round(lease_s * 1000)
        self.can_sync = can_sync
        self._wake_up = wake_up
        self._redis = client
        self._news = News(client)
        self._scripts = ScriptRunner(client, prefix=keys.prefix, patience_s=patience_s, on_outage=on_outage)

    def until(self, give_up_at: float | None) -> Self:
        """Return the same ledger, whose patience ends at a time of the monotonic clock; None leaves it as it is."""
        if give_up_at is None:
            return self
        limited = copy(self)
        limited._scripts = self._scripts.until(give_up_at)
        return limited

    def patient(self, patience_s: float) -> Self:
        """Return the same ledger, whose verbs are repeated for so long while Redis cannot be reached."""
        patient = copy(self)
        patient._scripts = copy(self._scripts)
        patient._scripts.patience_s = patience_s
        return patient

    def status(self, job_id: str) -> JobStatus:
        """Say where a job is, once what has run out is taken back: it may end as ``expired`` by being asked for.

        Raises:
            JobNotFoundError: No such job, or it has expired.
        """
        return self._scripts.repeat(lambda: self._status(job_id))

    def jobs(self, *, states: Collection[JobState] = (), limit: int = 100) -> list[JobStatus]:
        """Return jobs, the newest first by Redis's clock, each once; those opened meanwhile may be left out.

        What has run out is taken back before, as ``status`` does, unless Redis is a replica or the user may only read.

        Args:
            states: Only jobs in one of these states; empty means any.
            limit: Most jobs.
        """
        self._sweep_if_allowed()
        found: list[JobStatus] = []
        # Places in the list shift when a job comes or goes, times do not: a page begins at the last one's oldest time.
        oldest_ms, seen = math.inf, 0
        while len(found) < limit:
            page = self._scripts.repeat(lambda at=oldest_ms, skip=seen: self._job_page(at, skip))  # type: ignore[misc]
            if not page:
                break
            found += [job for _, job in page if job is not None and (not states or job.state in states)]
            last_ms = page[-1][0]
            seen = sum(made_ms == last_ms for made_ms, _ in page) + (seen if last_ms == oldest_ms else 0)
            oldest_ms = last_ms
        return found[:limit]

    def wait_for_change(self, job_id: str, timeout_s: float) -> None:
        """Return when the job ends, or when the time is over."""
        with translated(self._redis):
            self._news.wait(self.keys.ended_channel(job_id), timeout_s, is_late=lambda: self._has_ended(job_id))

    def name(self) -> str:
        """Return the ledger's name, made at random with it; empty where nothing was ever written."""
        (name,) = self._scripts.repeat(lambda: self._hmget(self.keys.meta, ["name"]))
        return name.decode() if name is not None else ""

    def is_discarded(self, job_id: str) -> bool:
        """Say whether a job's results were discarded."""
        (chunks,) = self._scripts.repeat(lambda: self._hmget(self.keys.job(job_id), ["discarded"]))
        return chunks is not None

    def retry_token(self, job_id: str) -> str:
        """Return what tells a job's retries apart: another token after each; empty before the first."""
        (token,) = self._scripts.repeat(lambda: self._hmget(self.keys.job(job_id), ["retry_token"]))
        return token.decode() if token is not None else ""

    def has_work(self, version: str) -> bool:
        """Say whether chunks wait of jobs that are pinned to a version; those that are leased do not."""
        keys = self.keys.work(version)
        return self._scripts.repeat(lambda: self._exist(keys))

    def pinned_versions(self) -> dict[str, str]:
        """Return the versions that jobs which have not ended are pinned to, each with the id of one such job.

        Jobs that nobody has claimed of yet are among them if they asked for a version. Only reads: a job whose deadline
        has passed counts until it is swept.
        """
        return self._scripts.repeat(self._pinned_versions)

    def result_payloads(self, job_id: str, start: int, count: int) -> list[bytes | None]:
        """Return the encoded results of chunks ``start`` and on; None for those not committed."""
        names = [str(index) for index in range(start, start + count)]
        return self._scripts.repeat(lambda: self._hmget(self.keys.results(job_id), names))

    def chunk_records(self, job_id: str, start: int, count: int) -> list[ChunkRecord]:
        """Return what the ledger notes of chunks ``start`` and on; as many as there are."""
        names = [str(index) for index in range(start, start + count)]
        found = self._scripts.repeat(lambda: self._hmget(self.keys.chunks(job_id), names))
        return [read_record(record) for record in found if record is not None]

    def missing_inputs(self, job_id: str, indices: Sequence[int]) -> list[int]:
        """Return those of some chunks whose input is not there; the inputs themselves stay where they are."""
        if not indices:
            return []
        there = self._scripts.repeat(lambda: self._have_inputs(job_id, indices))
        return [index for index, is_there in zip(indices, there, strict=True) if not is_there]

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
        """Take back expired leases, and end jobs whose deadline has passed, without claiming anything."""
        self._scripts.run(_SWEEP, [])

    def close(self) -> None:
        """Let go of the connections."""
        self._news.close()
        self._redis.close()

    def _sweep_if_allowed(self) -> None:
        try:
            self._scripts.repeat(lambda: self._scripts.read_after(_SWEEP, lambda _: None))
        except RedisRefusedError:
            return  # what is refused below too, is told there

    def _has_ended(self, job_id: str) -> bool:
        state: Any = self._redis.hget(self.keys.job(job_id), "state")
        return state is None or JobState(state.decode()).is_final

    def _pinned_versions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        with translated(self._redis):
            # All ids at once: in pages by place, one would be passed over where another job goes meanwhile.
            ids: Any = self._redis.zrange(self.keys.jobs, 0, -1)
            for start in range(0, len(ids), PIN_PAGE):
                page = [job.decode() for job in ids[start : start + PIN_PAGE]]
                with self._redis.pipeline(transaction=False) as pipe:
                    for job_id in page:
                        pipe.hmget(self.keys.job(job_id), ["state", "model_version"])
                    answers = pipe.execute()
                for job_id, (state, version) in zip(page, answers, strict=True):
                    if state is not None and version is not None and not JobState(state.decode()).is_final:
                        found.setdefault(version.decode(), job_id)
        return found

    def _exist(self, keys: list[str]) -> bool:
        with translated(self._redis):
            return bool(self._redis.exists(*keys))

    def _hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        with translated(self._redis):
            return self._redis.hmget(key, names)  # type: ignore[return-value]

    def _have_inputs(self, job_id: str, indices: Sequence[int]) -> list[bool]:
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            for index in indices:  # HMGET would bring the bytes of all of them
                pipe.hexists(self.keys.inputs(job_id), str(index))
            return pipe.execute()

    def _pressure(self, lane: Lane) -> Pressure:
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(self.keys.rows, f"{lane}:backlog")
            pipe.info("memory")
            backlog, memory = pipe.execute()
        limit = memory.get("maxmemory", 0)
        return Pressure(int(backlog or 0), memory["used_memory"] / limit if limit else None)

    def _workers(self) -> list[dict[str, Any]]:
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.keys.workers)
            self._ask_who_lives(pipe)
            about, *answers = pipe.execute()
        living = Living(answers)
        seen = {worker: at for lane in Lane for worker, at in living.of(lane)}
        return [
            {"id": worker.decode(), "seen_s_ago": (living.now_ms - at) / 1000, **json.loads(about.get(worker, b"{}"))}
            for worker, at in sorted(seen.items())
        ]

    def _status(self, job_id: str) -> JobStatus:
        def ask(pipe: Pipeline) -> None:
            pipe.hgetall(self.keys.job(job_id))
            pipe.zscore(self.keys.deleted, job_id)
            self._ask_who_lives(pipe)

        job, deleted, *answers = self._scripts.read_after(_SWEEP, ask)
        if deleted is not None:
            raise JobDeletedError(f"no job {job_id} in namespace {self.keys.namespace}: it was deleted")
        if not job:
            raise _no_job(job_id, self.keys.namespace)
        return Living(answers).status_of(job_id, job)

    def _job_page(self, newest_ms: float, skip: int) -> list[tuple[float, JobStatus | None]]:
        """Return some jobs, the newest first: when each was made, and its status.

        Args:
            newest_ms: None is younger than this.
            skip: How many of these are passed over.
        """
        with translated(self._redis):
            found: Any = self._redis.zrange(
                self.keys.jobs,
                newest_ms,
                "-inf",
                desc=True,
                byscore=True,
                withscores=True,
                offset=skip,
                num=LIST_PAGE,
            )
            ids = [job.decode() for job, _ in found]
            if not ids:
                return []
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hgetall(self.keys.job(job_id))
                self._ask_who_lives(pipe)
                answers = pipe.execute()
        living = Living(answers[len(ids) :])
        # A job whose results have expired is in the list for a moment longer.
        return [
            (made_ms, living.status_of(job_id, job) if job else None)
            for (_, made_ms), job_id, job in zip(found, ids, answers, strict=False)
        ]

    def _ask_who_lives(self, pipe: Pipeline) -> None:
        """Ask for the time, the term and the workers that gave a sign of life; ``Living`` reads the answers."""
        pipe.time()
        pipe.hget(self.keys.meta, "lease_ms")
        for lane in Lane:
            pipe.zrange(self.keys.listeners(lane), 0, -1, withscores=True)


class Living:
    """Redis's time, and the workers of each lane that live at it."""

    def __init__(self, answers: Sequence[Any]) -> None:
        (seconds, micros), term, *listeners = answers
        self.now_ms: int = seconds * 1000 + micros // 1000
        self._term_ms = int(term or DEFAULT_LEASE_MS)
        self._listeners: dict[Lane, list[tuple[bytes, float]]] = dict(zip(Lane, listeners, strict=True))

    def of(self, lane: Lane) -> list[tuple[bytes, float]]:
        """Return each live worker of a lane, and when it gave the last sign of life."""
        return [(worker, at) for worker, at in self._listeners[lane] if self.now_ms - at <= self._term_ms]

    def status_of(self, job_id: str, job: dict[bytes, bytes]) -> JobStatus:
        """Read a job's hash as it stands now."""
        facts = {name.decode(): value.decode() for name, value in job.items()}
        return read_status(job_id, facts, self.now_ms, live_workers=len(self.of(Lane(facts["lane"]))))


def _no_job(job_id: str, namespace: str) -> JobNotFoundError:
    return JobNotFoundError(
        f"no job {job_id} in namespace {namespace}: it never was, its results expired, or Redis lost it"
    )
