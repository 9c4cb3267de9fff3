"""The Lua ledger against a model of it, on a real Redis, with random verbs, tokens, expiries and clock jumps.

The model knows of each chunk whether it is pending, leased (and by whom) or done. After each step the keys are
counted from scratch and must say the same: no row lost, none twice, no chunk where no claim can find it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scorequeue.codec import Chunk, digest, encode_chunk
from scorequeue.errors import ContentConflictError, UsageError
from scorequeue.jobs import JobSpec, JobState, Lane
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkUpload, Commit, LaneRoom, Lease
from scorequeue.settings import Settings

CHUNK_ROWS = 3
MOST_JOBS = 4  # few, so that random leases and tokens meet often
LONG_AGO_MS = 1
LANES = st.sampled_from(list(Lane))


@dataclass
class ModelChunk:
    rows: int
    lease: Lease | None = None
    is_expired: bool = False
    token_done: str | None = None
    scored: int = 0
    failed: int = 0


@dataclass
class ModelJob:
    lane: Lane
    chunks: list[ModelChunk] = field(default_factory=list)
    is_sealed: bool = False
    is_expired: bool = False
    version: str | None = None

    @property
    def is_full(self) -> bool:
        return all(chunk.rows == CHUNK_ROWS for chunk in self.chunks)

    @property
    def is_open(self) -> bool:
        return not self.is_expired and not (self.is_sealed and all(chunk.token_done for chunk in self.chunks))


def upload(index: int, rows: int, word: str = "row") -> ChunkUpload:
    payload = encode_chunk(Chunk(first_row=1 + index * CHUNK_ROWS, texts=[f"{word} {index}"] * rows))
    return ChunkUpload(payload, rows, digest(payload))


class LedgerMachine(RuleBasedStateMachine):
    """Verbs in any order."""

    url: str
    jobs = Bundle("jobs")
    leases = Bundle("leases")

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger.connect(Settings(redis_url=self.url, namespace=f"machine-{uuid.uuid4().hex[:12]}"))
        self.redis = redis.Redis.from_url(self.url)
        self.prefix = self.ledger.keys.prefix
        self.model: dict[str, ModelJob] = {}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            for key in self.redis.scan_iter(f"{self.prefix}*"):
                self.redis.delete(key)
            self.redis.close()
            self.ledger.close()

    @precondition(lambda self: len(self.model) < MOST_JOBS)
    @rule(target=jobs, lane=LANES, key=st.none() | st.sampled_from(["a", "b"]))
    def open(self, lane: Lane, key: str | None) -> str:
        spec = JobSpec(id=uuid.uuid4().hex, lane=lane, chunk_rows=CHUNK_ROWS, ttl_s=600, idempotency_key=key)
        opened = self.ledger.open(spec)
        assert opened.is_new is (opened.job_id == spec.id)
        if opened.is_new:
            self.model[spec.id] = ModelJob(lane)
        assert opened.chunks == len(self.model[opened.job_id].chunks)
        return opened.job_id

    @rule(job_id=jobs, count=st.integers(1, 3), last_rows=st.integers(1, CHUNK_ROWS))
    def add_chunks(self, job_id: str, count: int, last_rows: int) -> None:
        job, first = self.model[job_id], len(self.model[job_id].chunks)
        sizes = [CHUNK_ROWS] * (count - 1) + [last_rows]
        uploads = [upload(first + n, rows) for n, rows in enumerate(sizes)]
        if not job.is_full:
            with pytest.raises(ContentConflictError):
                self.ledger.add_chunks(job_id, first, uploads)
        elif job.is_sealed or job.is_expired:
            with pytest.raises(UsageError):
                self.ledger.add_chunks(job_id, first, uploads)
        else:
            assert self.ledger.add_chunks(job_id, first, uploads) == first + count
            job.chunks += [ModelChunk(rows) for rows in sizes]

    @precondition(lambda self: any(job.chunks for job in self.model.values()))
    @rule(job_id=jobs, is_same=st.booleans())
    def add_a_chunk_again(self, job_id: str, is_same: bool) -> None:
        job = self.model[job_id]
        if not job.chunks:
            return
        again = [upload(0, job.chunks[0].rows, "row" if is_same else "other")]
        if is_same:
            assert self.ledger.add_chunks(job_id, 0, again) == len(job.chunks)
        else:
            with pytest.raises(ContentConflictError):
                self.ledger.add_chunks(job_id, 0, again)

    @rule(job_id=jobs, is_short=st.booleans())
    def seal(self, job_id: str, is_short: bool) -> None:
        job = self.model[job_id]
        rows, chunks = sum(chunk.rows for chunk in job.chunks), len(job.chunks)
        if is_short:
            with pytest.raises(ContentConflictError):
                self.ledger.seal(job_id, chunks=chunks + 1, rows=rows)
        else:
            self.ledger.seal(job_id, chunks=chunks, rows=rows)
            job.is_sealed = job.is_sealed or not job.is_expired

    @rule(
        target=leases,
        lanes=st.permutations(list(Lane)),
        room=st.sampled_from([(0, 5), (1, 5), (4, 5), (100, 1), (100, 100)]),
        ready=st.sampled_from([["v1"], ["v2"], ["v1", "v2"]]),
    )
    def claim(self, lanes: list[Lane], room: tuple[int, int], ready: list[str]) -> MultipleResults[Lease]:
        rooms = [LaneRoom(lane, *room) for lane in lanes]
        claim = self.ledger.claim("worker", rooms, versions=ready, default_version=ready[0])
        self._take_back_expired()
        for leased in claim.chunks:
            job = self.model[leased.lease.job_id]
            chunk = job.chunks[leased.lease.chunk]
            assert job.is_open
            assert chunk.lease is None, "a leased chunk was claimed"
            assert chunk.token_done is None, "a committed chunk was claimed"
            job.version = job.version or ready[0]
            assert leased.model_version == job.version
            assert job.version in ready
            chunk.lease = leased.lease
        return multiple(*(leased.lease for leased in claim.chunks))

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        job = self.model[lease.job_id]
        is_held = job.is_open and job.chunks[lease.chunk].lease == lease
        assert self.ledger.renew("worker", {}, [Lane.BULK], [lease]) == (set() if is_held else {lease})
        if is_held:
            job.chunks[lease.chunk].is_expired = False

    @rule(lease=leases, failed=st.integers(0, 1))
    def commit(self, lease: Lease, failed: int) -> None:
        job = self.model[lease.job_id]
        chunk = job.chunks[lease.chunk]
        (outcome,) = self.ledger.commit([Commit(lease, chunk.rows - failed, failed, 0, b"results")])
        if chunk.token_done is not None:
            assert outcome == ("already" if chunk.token_done == lease.token else "lost")
        elif job.is_expired:
            assert outcome == "closed"
        elif chunk.lease != lease:
            assert outcome == "lost"
        else:
            assert outcome == "done"
            chunk.lease, chunk.token_done = None, lease.token
            chunk.scored, chunk.failed = chunk.rows - failed, failed

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        job = self.model[lease.job_id]
        held = job.is_open and job.chunks[lease.chunk].lease == lease
        released = self.ledger.release([lease])
        if held:
            assert released == 1
            job.chunks[lease.chunk].lease = None
            job.chunks[lease.chunk].is_expired = False

    @rule(lease=leases)
    def let_a_lease_expire(self, lease: Lease) -> None:
        if self.model[lease.job_id].chunks[lease.chunk].lease != lease:
            return
        if self.redis.zadd(f"{self.prefix}leases", {f"{lease.job_id}:{lease.chunk}": LONG_AGO_MS}, xx=True, ch=True):
            self.model[lease.job_id].chunks[lease.chunk].is_expired = True

    @rule(ahead=st.booleans())
    def redis_was_away(self, ahead: bool) -> None:
        """An outage, or a clock that jumped: the last stamp is old, or lies in the future."""
        seconds, _ = self.redis.time()
        self.redis.hset(f"{self.prefix}meta", "stamp", (seconds + (1000 if ahead else -1000)) * 1000)
        self.ledger.sweep()
        for job in self.model.values():
            for chunk in job.chunks:
                chunk.is_expired = False

    @rule(job_id=jobs)
    def pass_the_deadline(self, job_id: str) -> None:
        job = self.model[job_id]
        if not job.is_open:
            return
        self.redis.zadd(f"{self.prefix}deadlines", {job_id: LONG_AGO_MS})
        self.ledger.sweep()
        self._take_back_expired()
        job.is_expired = True

    def _take_back_expired(self) -> None:
        for job in self.model.values():
            for chunk in job.chunks:
                if chunk.is_expired:
                    chunk.lease, chunk.is_expired = None, False

    @invariant()
    def counters_say_what_the_model_says(self) -> None:
        for job_id, job in getattr(self, "model", {}).items():
            found = {
                name.decode(): value.decode()
                for name, value in self.redis.hgetall(f"{self.prefix}job:{job_id}").items()
            }
            total = sum(chunk.rows for chunk in job.chunks)
            scored, failed = sum(c.scored for c in job.chunks), sum(c.failed for c in job.chunks)
            cancelled = total - scored - failed if job.is_expired else 0
            assert [int(found[name]) for name in ("total", "scored", "failed", "cancelled")] == [
                total,
                scored,
                failed,
                cancelled,
            ]
            state = JobState(found["state"])
            assert state.is_final is not job.is_open
            leased = sum(chunk.rows for chunk in job.chunks if chunk.lease is not None) if job.is_open else 0
            assert int(found["leased"]) == leased

    @invariant()
    def every_pending_chunk_is_in_one_place_where_a_claim_finds_it(self) -> None:
        model = getattr(self, "model", {})
        places: Counter[str] = Counter()
        for lane in Lane:
            ring = [job.decode() for job in self.redis.lrange(f"{self.prefix}ring:{lane}", 0, -1)]
            assert len(ring) == len(set(ring)), "a job is in the ring twice"
            for job_id in ring:
                found = self.redis.hmget(f"{self.prefix}job:{job_id}", "next", "chunks")
                places.update(f"{job_id}:{index}" for index in range(int(found[0]), int(found[1])))
            places.update(member.decode() for member in self.redis.lrange(f"{self.prefix}front:{lane}", 0, -1))
        places.update(member.decode() for member in self.redis.zrange(f"{self.prefix}leases", 0, -1))
        for job_id, job in model.items():
            for index, chunk in enumerate(job.chunks):
                if job.is_open and chunk.token_done is None:
                    assert places[f"{job_id}:{index}"] == 1

    @invariant()
    def lanes_count_what_is_pending(self) -> None:
        model = getattr(self, "model", {})
        for lane in Lane if model else ():
            pending = [
                chunk for job in model.values() if job.lane is lane and job.is_open for chunk in job.chunks
                if chunk.token_done is None
            ]  # fmt: skip
            backlog, waiting = self.redis.hmget(f"{self.prefix}rows", f"{lane}:backlog", f"{lane}:waiting")
            assert int(backlog or 0) == sum(chunk.rows for chunk in pending)
            assert int(waiting or 0) == sum(chunk.rows for chunk in pending if chunk.lease is None)

    @invariant()
    def no_job_has_more_than_six_keys(self) -> None:
        for job_id in getattr(self, "model", {}):
            keys = list(self.redis.scan_iter(f"{self.prefix}job:{job_id}*", count=1000))
            assert len(keys) <= 5  # and the idempotency key's string


@pytest.mark.timeout(300)
def test_ledger_agrees_with_its_model_whatever_is_asked_of_it(redis_url: str) -> None:
    """Promises 1 and 2 for every order of verbs, not only for those that somebody thought of."""
    LedgerMachine.url = redis_url
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
