"""The Lua ledger against a model of it, on a real Redis, with random verbs, tokens, deaths and clock jumps.

The model knows of each chunk how many rows are pending, who holds it and with how many deaths. After each step the keys
are counted from scratch and must say the same: no row lost, none twice, no chunk where no claim can find it, no key too
many.
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
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.errors import (
    ContentConflictError,
    JobClosedError,
    JobDeletedError,
    JobNotFoundError,
    NotFinishedError,
    ResultsChangedError,
    UsageError,
)
from scorequeue.jobs import JobSpec, JobState, Lane
from scorequeue.ledger import Ledger, new_token
from scorequeue.records import ChunkUpload, Commit, LaneRoom, Lease, fold_digest, read_record
from scorequeue.settings import Settings

CHUNK_ROWS = 3
MOST_JOBS = 4  # few, so that random leases and tokens meet often
LONG_AGO_MS = 1
MOST_JOB_KEYS = 5
LANES = st.sampled_from(list(Lane))
WORKERS = st.sampled_from(["worker-1", "worker-2"])


@dataclass
class ModelChunk:
    """A chunk as the ledger should see it."""

    rows: int
    pending: int
    scored: int = 0
    failed: int = 0
    kept: int = 0
    token: str = "-"
    lease: Lease | None = None
    worker: str = ""
    is_expired: bool = False
    deaths: int = 0
    has_results: bool = False


@dataclass
class ModelJob:
    """A job as the ledger should see it; ``end`` is its final state."""

    lane: Lane
    key: str | None
    chunks: list[ModelChunk] = field(default_factory=list)
    is_sealed: bool = False
    is_retried: bool = False
    is_discarded: bool = False
    end: JobState | None = None
    version: str | None = None

    @property
    def is_full(self) -> bool:
        return all(chunk.rows == CHUNK_ROWS for chunk in self.chunks)

    @property
    def is_open(self) -> bool:
        return self.end is None

    @property
    def is_dropped(self) -> bool:
        return self.end in (JobState.CANCELLED, JobState.EXPIRED)

    @property
    def has_stopped(self) -> bool:
        """Whether its upload stopped for so long that it expired: its key is free then."""
        return self.end is JobState.EXPIRED and not self.is_sealed

    @property
    def pending(self) -> int:
        return sum(chunk.pending for chunk in self.chunks)

    def close_if_done(self) -> None:
        if self.is_open and self.is_sealed and not self.pending:
            self.end, self.is_retried = JobState.COMPLETED, False

    def close(self, state: JobState) -> None:
        self.end = state
        for chunk in self.chunks:
            chunk.lease = None


def upload(index: int, rows: int, word: str = "row") -> ChunkUpload:
    payload = encode_chunk(Chunk(first_row=1 + index * CHUNK_ROWS, texts=[f"{word} {index}"] * rows))
    return ChunkUpload(payload, rows, digest(payload))


class LedgerMachine(RuleBasedStateMachine):
    """Verbs in any order."""

    url: str
    jobs = Bundle("jobs")

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger.connect(Settings(redis_url=self.url, namespace=f"machine-{uuid.uuid4().hex[:12]}"))
        self.redis = redis.Redis.from_url(self.url)
        self.prefix = self.ledger.keys.prefix
        self.model: dict[str, ModelJob] = {}
        self.deleted: set[str] = set()
        self.replaced: set[str] = set()
        self.leases: list[Lease] = []
        self.opened = 0

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            for key in self.redis.scan_iter(f"{self.prefix}*"):
                self.redis.delete(key)
            self.redis.close()
            self.ledger.close()

    def chunk_of(self, lease: Lease) -> ModelChunk | None:
        """The chunk of a lease that is held; None when it is lost, or its job gone or ended."""
        job = self.model.get(lease.job_id)
        if job is None or not job.is_open or job.chunks[lease.chunk].lease != lease:
            return None
        return job.chunks[lease.chunk]

    def gone(self, job_id: str) -> type[JobNotFoundError]:
        """What is raised for a job that is not there: it is known which ones were deleted."""
        return JobNotFoundError if job_id in self.replaced else JobDeletedError

    def draw_lease(self, data: st.DataObject) -> Lease:
        """One that is held, mostly; else any that was given out."""
        held = [lease for lease in self.leases if self.chunk_of(lease) is not None]
        return data.draw(st.sampled_from(held if held and data.draw(st.integers(0, 4)) else self.leases))

    def draw_ended(self, data: st.DataObject, job_id: str) -> bool:
        """Whether a rule that takes a job away may do so: seldom while there is work in it."""
        job = self.model.get(job_id)
        return job is None or not job.is_open or data.draw(st.integers(0, 7)) == 0

    # --- the producer's verbs ---

    @precondition(lambda self: len(self.model) < MOST_JOBS)
    @rule(target=jobs, lane=LANES, key=st.none() | st.sampled_from(["a", "b"]))
    def open(self, lane: Lane, key: str | None) -> str:
        self.opened += 1
        job_id = f"{self.opened:032x}"  # not random: where times are equal, Redis goes by the id
        spec = JobSpec(id=job_id, lane=lane, chunk_rows=CHUNK_ROWS, ttl_s=600, idempotency_key=key)
        opened = self.ledger.open(spec)
        assert opened.is_new is (opened.job_id == spec.id)
        before = next((job_id for job_id, job in self.model.items() if job.key == key and key is not None), None)
        if before is not None and self.model[before].has_stopped:
            del self.model[before]
            self.replaced.add(before)
            before = None
        assert opened.is_new is (before is None)
        if opened.is_new:
            self.model[spec.id] = ModelJob(lane, key)
        assert opened.chunks == len(self.model[opened.job_id].chunks)
        return opened.job_id

    @precondition(lambda self: len(self.model) < MOST_JOBS)
    @rule(target=jobs, lane=LANES, chunks=st.integers(1, 4), is_sealed=st.booleans())
    def submit(self, lane: Lane, chunks: int, is_sealed: bool) -> str:
        job_id = self.open(lane, None)
        self.add_chunks(job_id, chunks, CHUNK_ROWS)
        if is_sealed:
            self.seal(job_id, True)
        return job_id

    @rule(job_id=jobs, count=st.integers(1, 3), last_rows=st.integers(1, CHUNK_ROWS))
    def add_chunks(self, job_id: str, count: int, last_rows: int) -> None:
        job = self.model.get(job_id)
        first = len(job.chunks) if job else 0
        sizes = [CHUNK_ROWS] * (count - 1) + [last_rows]
        uploads = [upload(first + n, rows) for n, rows in enumerate(sizes)]
        if job is None:
            with pytest.raises(self.gone(job_id)):
                self.ledger.add_chunks(job_id, first, uploads)
        elif not job.is_full:
            with pytest.raises(ContentConflictError):
                self.ledger.add_chunks(job_id, first, uploads)
        elif job.is_sealed or not job.is_open:
            with pytest.raises(JobClosedError if job.is_dropped else UsageError):
                self.ledger.add_chunks(job_id, first, uploads)
        else:
            assert self.ledger.add_chunks(job_id, first, uploads) == first + count
            job.chunks += [ModelChunk(rows, rows) for rows in sizes]

    @rule(job_id=jobs, is_same=st.booleans())
    def add_a_chunk_again(self, job_id: str, is_same: bool) -> None:
        job = self.model.get(job_id)
        if job is None or not job.chunks:
            return
        again = [upload(0, job.chunks[0].rows, "row" if is_same else "other")]
        if is_same:
            assert self.ledger.add_chunks(job_id, 0, again) == len(job.chunks)
        else:
            with pytest.raises(ContentConflictError):
                self.ledger.add_chunks(job_id, 0, again)

    @rule(job_id=jobs, is_same=st.booleans())
    def seal(self, job_id: str, is_same: bool) -> None:
        job = self.model.get(job_id)
        if job is None:
            return
        all_digests = ""
        for index, chunk in enumerate(job.chunks):
            all_digests = fold_digest(all_digests, upload(index, chunk.rows).digest)
        rows, chunks = sum(chunk.rows for chunk in job.chunks), len(job.chunks)
        if not is_same:
            with pytest.raises(ContentConflictError):
                self.ledger.seal(job_id, chunks=chunks, rows=rows, digest="00")
            return
        if not job.is_open and not job.is_sealed:
            with pytest.raises(JobClosedError):
                self.ledger.seal(job_id, chunks=chunks, rows=rows, digest=all_digests)
            return
        self.ledger.seal(job_id, chunks=chunks, rows=rows, digest=all_digests)
        job.is_sealed = True
        job.close_if_done()

    @rule(job_id=jobs, data=st.data())
    def cancel(self, job_id: str, data: st.DataObject) -> None:
        if not self.draw_ended(data, job_id):
            return
        job = self.model.get(job_id)
        if job is None:
            with pytest.raises(self.gone(job_id)):
                self.ledger.cancel(job_id)
            return
        if job.is_open:
            job.close(JobState.CANCELLED)
        assert self.ledger.cancel(job_id) is job.end

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        job = self.model.get(job_id)
        if job is None or job.is_discarded:
            with pytest.raises(JobNotFoundError if job is None or job.end is JobState.COMPLETED else UsageError):
                self.ledger.retry(job_id)
        elif job.is_open:
            with pytest.raises(NotFinishedError):
                self.ledger.retry(job_id)
        elif job.end is not JobState.COMPLETED:
            with pytest.raises(UsageError):
                self.ledger.retry(job_id)
        else:
            kept = sum(chunk.kept for chunk in job.chunks)
            assert self.ledger.retry(job_id) == kept
            if not kept:
                return
            job.end, job.is_retried = None, True
            for chunk in job.chunks:
                chunk.pending, chunk.failed, chunk.kept = chunk.kept, chunk.failed - chunk.kept, 0

    @rule(job_id=jobs)
    def discard(self, job_id: str) -> None:
        job = self.model.get(job_id)
        if job is None or job.is_open:
            with pytest.raises(self.gone(job_id) if job is None else NotFinishedError):
                self.ledger.discard(job_id, finished_ms=None)
        else:
            finished_ms = int(self.redis.hget(f"{self.prefix}job:{job_id}", "finished"))
            with pytest.raises(ResultsChangedError):
                self.ledger.discard(job_id, finished_ms=finished_ms - 1)
            discarded = self.ledger.discard(job_id, finished_ms=finished_ms)
            assert discarded == sum(chunk.has_results for chunk in job.chunks)
            job.is_discarded = True

    @rule(job_id=jobs, data=st.data())
    def delete(self, job_id: str, data: st.DataObject) -> None:
        if not self.draw_ended(data, job_id):
            return
        if job_id in self.replaced:
            with pytest.raises(JobNotFoundError):
                self.ledger.delete(job_id)
            return
        assert self.ledger.delete(job_id) is (self.model.pop(job_id, None) is not None)
        self.deleted.add(job_id)

    # --- the worker's verbs ---

    @precondition(lambda self: any(job.is_open for job in self.model.values()))
    @rule(
        worker=WORKERS,
        lanes=st.permutations(list(Lane)),
        room=st.sampled_from([(100, 100), (0, 5), (1, 5), (4, 5), (100, 1)]),
        ready=st.sampled_from([["v1", "v2"], ["v1"], ["v2"]]),
        is_voided=st.integers(0, 9).map(lambda n: n == 9),
    )
    def claim(
        self,
        worker: str,
        lanes: list[Lane],
        room: tuple[int, int],
        ready: list[str],
        is_voided: bool,
    ) -> None:
        rooms = [LaneRoom(lane, *room) for lane in lanes]
        token = new_token()
        if is_voided:  # the call comes late, after its worker had given it up
            assert self.ledger.void([token]) == 0
        foreseen = self.ledger.poll(lanes, versions=ready)
        claim = self.ledger.claim(worker, rooms, versions=ready, default_version=ready[0], token=token)
        self._take_back_expired()
        assert not (is_voided and claim.chunks)
        assert foreseen or not claim.chunks, "an idle worker would never have asked for these"
        for leased in claim.chunks:
            job = self.model[leased.lease.job_id]
            chunk = job.chunks[leased.lease.chunk]
            assert job.is_open
            assert chunk.lease is None, "a leased chunk was claimed"
            assert chunk.pending == leased.pending > 0, "a committed chunk was claimed"
            job.version = job.version or ready[0]
            assert leased.model_version == job.version
            assert job.version in ready
            assert leased.first_row == 1 + leased.lease.chunk * CHUNK_ROWS
            assert leased.deaths == chunk.deaths
            assert leased.payload == (b"kept" if chunk.has_results else upload(leased.lease.chunk, chunk.rows).payload)
            assert leased.before == (b"results" if chunk.has_results else b"")
            chunk.lease, chunk.worker, chunk.is_expired = leased.lease, worker, False
            self.leases.append(leased.lease)

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lease = self.draw_lease(data)
        chunk = self.chunk_of(lease)
        renewal = self.ledger.renew(chunk.worker if chunk else "worker-1", {}, [Lane.BULK], [lease])
        assert renewal.lost == ({lease} if chunk is None else set())
        if chunk is not None:
            chunk.is_expired = False

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data(), failed=st.integers(0, 1), kept=st.integers(0, 1))
    def commit(self, data: st.DataObject, failed: int, kept: int) -> None:
        self._commit(self.draw_lease(data), failed, kept)

    def _commit(self, lease: Lease, failed: int, kept: int) -> None:
        job = self.model.get(lease.job_id)
        at = job.chunks[lease.chunk] if job else None
        failed = min(failed, at.pending) if at else failed
        kept = min(kept, failed)
        pending = at.pending if at and at.pending else 1
        (outcome,) = self.ledger.commit(
            [Commit(lease, pending - failed, failed, 0, b"results", kept, b"kept" if kept else b"")]
        )
        if at is None or job is None:
            assert outcome == "gone"
        elif at.pending == 0:
            assert outcome == ("already" if at.token == lease.token else "lost")
        elif not job.is_open:
            assert outcome == "closed"
        elif at.lease != lease:
            assert outcome == "lost"
        else:
            assert outcome == "done"
            at.lease, at.token, at.has_results = None, lease.token, True
            at.scored, at.failed, at.kept = at.scored + at.pending - failed, at.failed + failed, kept
            at.pending, at.deaths, at.is_expired = 0, 0, False
            job.close_if_done()

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def commit_a_wrong_count(self, data: st.DataObject) -> None:
        lease = self.draw_lease(data)
        if (chunk := self.chunk_of(lease)) is not None:
            (outcome,) = self.ledger.commit([Commit(lease, chunk.pending + 1, 0, 0, b"wrong")])
            assert outcome.startswith("refused")

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = self.draw_lease(data)
        chunk = self.chunk_of(lease)
        released = self.ledger.release([lease])
        if chunk is not None:
            assert released == 1
            chunk.lease, chunk.is_expired = None, False

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        """A claim whose answer was lost: all that it leased goes back, and no death is counted."""
        lease = self.draw_lease(data)
        self.ledger.void([lease.token])
        for job in self.model.values():
            for chunk in job.chunks:
                if chunk.lease is not None and chunk.lease.token == lease.token:
                    chunk.lease, chunk.is_expired = None, False

    # --- several steps at once, so that deep states are met often ---

    @precondition(lambda self: any(job.is_open for job in self.model.values()))
    @rule(worker=WORKERS)
    def crash(self, worker: str) -> None:
        """A worker takes all that there is, and is lost."""
        self.claim(worker, list(Lane), (100, 100), ["v1", "v2"], False)
        self.lose_a_worker(worker)
        self.claim(worker, list(Lane), (0, 0), ["v1"], False)

    @precondition(lambda self: any(job.is_open for job in self.model.values()))
    @rule(worker=WORKERS, data=st.data())
    def work_off(self, worker: str, data: st.DataObject) -> None:
        """A worker takes all that there is, and commits it."""
        self.claim(worker, list(Lane), (100, 100), ["v1", "v2"], False)
        for lease in [lease for lease in self.leases if self.chunk_of(lease) is not None]:
            self._commit(lease, data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1)))

    @precondition(lambda self: any(job.is_open for job in self.model.values()))
    @rule(worker=WORKERS, data=st.data(), is_sealed=st.booleans())
    def work_off_and_retry(self, worker: str, data: st.DataObject, is_sealed: bool) -> None:
        """A worker takes all that there is, some rows fail, and whoever waits asks for them again."""
        if is_sealed:
            for job_id in list(self.model):
                self.seal(job_id, True)
        self.work_off(worker, data)
        for job_id, job in list(self.model.items()):
            if job.end is JobState.COMPLETED:
                self.retry(job_id)

    # --- what happens ---

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def let_a_lease_expire(self, data: st.DataObject) -> None:
        lease = self.draw_lease(data)
        chunk = self.chunk_of(lease)
        if chunk is not None:
            self.redis.zadd(f"{self.prefix}leases", {f"{lease.job_id}:{lease.chunk}": LONG_AGO_MS}, xx=True)
            chunk.is_expired = True

    @rule(worker=WORKERS)
    def lose_a_worker(self, worker: str) -> None:
        """All that a worker holds runs out at once; its last note stands."""
        for job_id, job in self.model.items():
            for index, chunk in enumerate(job.chunks):
                if job.is_open and chunk.lease is not None and chunk.worker == worker:
                    self.redis.zadd(f"{self.prefix}leases", {f"{job_id}:{index}": LONG_AGO_MS}, xx=True)
                    chunk.is_expired = True

    @rule(ahead=st.booleans())
    def redis_was_away(self, ahead: bool) -> None:
        """An outage, or a clock that jumped: the last stamp is old, or lies in the future."""
        seconds, _ = self.redis.time()
        self.redis.hset(f"{self.prefix}meta", "stamp", (seconds + (1000 if ahead else -1000)) * 1000)
        self.ledger.sweep()
        for job in self.model.values():
            for chunk in job.chunks:
                chunk.is_expired = False

    @rule(job_id=jobs, data=st.data())
    def pass_the_deadline(self, job_id: str, data: st.DataObject) -> None:
        job = self.model.get(job_id)
        if job is None or not job.is_open or not self.draw_ended(data, job_id):
            return
        self.redis.zadd(f"{self.prefix}deadlines", {job_id: LONG_AGO_MS})
        self.ledger.sweep()
        self._take_back_expired()
        job.close(JobState.EXPIRED)

    @rule(job_id=jobs, data=st.data())
    def an_hour_passes_without_redis(self, job_id: str, data: st.DataObject) -> None:
        """An upload gets its hour anew; a deadline has passed."""
        job = self.model.get(job_id)
        if job is None or not job.is_open or not (job.is_sealed is False or self.draw_ended(data, job_id)):
            return
        self.redis.zadd(f"{self.prefix}deadlines", {job_id: LONG_AGO_MS})
        self.redis_was_away(False)
        if job.is_sealed:
            job.close(JobState.EXPIRED)

    def _take_back_expired(self) -> None:
        for job in self.model.values():
            for chunk in job.chunks:
                if not chunk.is_expired:
                    continue
                chunk.is_expired = False
                if not job.is_open or chunk.lease is None:
                    continue
                chunk.lease = None
                chunk.deaths += 1

    # --- what must hold after each step ---

    @invariant()
    def counters_say_what_the_model_says(self) -> None:
        for job_id, job in getattr(self, "model", {}).items():
            found = {
                name.decode(): value.decode()
                for name, value in self.redis.hgetall(f"{self.prefix}job:{job_id}").items()
            }
            counts = {name: sum(getattr(chunk, name) for chunk in job.chunks) for name in ("rows", "scored", "failed")}
            dropped = 0 if job.is_open else job.pending
            again = sum(chunk.pending for chunk in job.chunks if chunk.has_results)
            expected = {
                "total": counts["rows"],
                "scored": counts["scored"],
                # What was to be tried again when the job ended early has failed, as before.
                "failed": counts["failed"] + (again if dropped else 0),
                "cancelled": dropped - (again if dropped else 0),
                "leased": sum(c.pending for c in job.chunks if c.lease is not None) if job.is_open else 0,
            }
            assert {name: int(found[name]) for name in expected} == expected
            state = JobState(found["state"])
            assert state is job.end if job.end is not None else not state.is_final
            for index, chunk in enumerate(job.chunks):
                record = read_record(self.redis.hget(f"{self.prefix}job:{job_id}:chunks", str(index)))
                assert (record.rows, record.pending, record.scored, record.failed, record.kept) == (
                    chunk.rows,
                    chunk.pending,
                    chunk.scored,
                    chunk.failed,
                    chunk.kept,
                )

    @invariant()
    def every_pending_chunk_is_in_one_place_where_a_claim_finds_it(self) -> None:
        model = getattr(self, "model", {})
        places: Counter[str] = Counter()
        waiting_versions = (
            {version.decode() for version in self.redis.zrange(f"{self.prefix}waits", 0, -1)} if model else set()
        )
        for key in self.redis.scan_iter(f"{self.prefix}*:*", count=1000) if model else ():
            kind, _, rest = key.decode().removeprefix(self.prefix).partition(":")
            lane, _, version = rest.partition(":")
            if kind == "ring":
                for job_id in map(bytes.decode, self.redis.zrange(key, 0, -1)):
                    job = model[job_id]
                    assert (job.lane, job.version or "") == (lane, version)
                    first, chunks = map(int, self.redis.hmget(f"{self.prefix}job:{job_id}", "next", "chunks"))
                    places.update(f"{job_id}:{n}" for n in range(first, chunks) if job.chunks[n].pending)
            elif kind == "front":
                for member in map(bytes.decode, self.redis.lrange(key, 0, -1)):
                    job_id, _, _ = member.partition(":")
                    places[member] += 1
                    if job_id in model and model[job_id].is_open:
                        job = model[job_id]
                        assert (job.lane, job.version) == (lane, version)
            if kind in ("ring", "front"):
                assert version in waiting_versions
        places.update(member.decode() for member in self.redis.zrange(f"{self.prefix}leases", 0, -1))
        for job_id, job in model.items():
            for index, chunk in enumerate(job.chunks):
                if job.is_open and chunk.pending:
                    assert places[f"{job_id}:{index}"] == 1, f"chunk {index} is in {places[f'{job_id}:{index}']} places"

    @invariant()
    def lanes_count_what_is_pending(self) -> None:
        model = getattr(self, "model", {})
        for lane in Lane if model else ():
            pending = [
                chunk for job in model.values() if job.lane is lane and job.is_open for chunk in job.chunks
                if chunk.pending
            ]  # fmt: skip
            backlog, waiting = self.redis.hmget(f"{self.prefix}rows", f"{lane}:backlog", f"{lane}:waiting")
            assert int(backlog or 0) == sum(chunk.pending for chunk in pending)
            assert int(waiting or 0) == sum(chunk.pending for chunk in pending if chunk.lease is None)

    @invariant()
    def no_key_is_there_that_need_not_be(self) -> None:
        for job_id, job in getattr(self, "model", {}).items():
            keys = list(self.redis.scan_iter(f"{self.prefix}job:{job_id}*", count=1000))
            assert len(keys) + (job.key is not None) <= MOST_JOB_KEYS
            assert self.redis.exists(f"{self.prefix}job:{job_id}:results") == (
                not job.is_discarded and any(chunk.has_results for chunk in job.chunks)
            )
        for job_id in getattr(self, "deleted", ()):
            assert list(self.redis.scan_iter(f"{self.prefix}job:{job_id}*", count=1000)) == []


@pytest.mark.timeout(300)
def test_ledger_agrees_with_its_model_whatever_is_asked_of_it(redis_url: str) -> None:
    """Promises 1, 2, 5 and 6 for every order of verbs, not only for those that somebody thought of."""
    LedgerMachine.url = redis_url
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=250,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
