"""The ledger's verbs on a real Redis: rights, order, accounting."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.errors import (
    ContentConflictError,
    JobNotFoundError,
    ProtocolTooNewError,
    RedisRefusedError,
    RedisUnavailableError,
    UploadLostError,
    UsageError,
)
from scorequeue.jobs import JobSpec, JobState, Lane
from scorequeue.keys import Keys
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkUpload, Claim, Commit, LaneRoom, Lease, fold_digest
from scorequeue.settings import Settings
from tests.servers import RedisServer, free_port

EVERYTHING = [LaneRoom(Lane.EXPRESS, 100_000, 100), LaneRoom(Lane.BULK, 100_000, 100)]
NOTHING = [LaneRoom(Lane.BULK, 0, 0)]
SHORT_LEASE_S = 0.5


@pytest.fixture
def hasty(redis_url: str, namespace: str) -> Iterator[Ledger]:
    """The same ledger, where a lease lasts half a second."""
    ledger = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace, lease_s=SHORT_LEASE_S))
    yield ledger
    ledger.close()


def spec(*, lane: Lane = Lane.BULK, chunk_rows: int = 2, **more: object) -> JobSpec:
    return JobSpec.model_validate({"id": uuid.uuid4().hex, "lane": lane, "chunk_rows": chunk_rows, "ttl_s": 60, **more})


def uploads(chunks: int, *, rows: int = 2, word: str = "row") -> list[ChunkUpload]:
    made = []
    for index in range(chunks):
        payload = encode_chunk(Chunk(first_row=1 + index * rows, texts=[f"{word} {index}"] * rows))
        made.append(ChunkUpload(payload, rows, digest(payload)))
    return made


def submit(ledger: Ledger, chunks: int, **more: object) -> str:
    opened = ledger.submit(spec(**more), uploads(chunks))
    return opened.job_id


def seal(ledger: Ledger, job: str, sent: list[ChunkUpload]) -> JobState:
    digest = ""
    for chunk in sent:
        digest = fold_digest(digest, chunk.digest)
    return ledger.seal(job, chunks=len(sent), rows=sum(chunk.rows for chunk in sent), digest=digest)


def claim(
    ledger: Ledger, *, worker: str = "worker-1", lanes: list[LaneRoom] = EVERYTHING, version: str = "v1"
) -> Claim:
    return ledger.claim(worker, lanes, versions=[version], default_version=version)


def commit_of(lease: Lease, *, scored: int = 2, failed: int = 0) -> Commit:
    return Commit(lease, scored, failed, 0, b"results")


def leases_left(ledger: Ledger) -> int:
    return int(ledger._redis.zcard(f"{ledger.keys.prefix}leases"))


def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s"
        time.sleep(0.01)


def test_job_goes_through_its_states_and_counts_every_row(ledger: Ledger) -> None:
    job = ledger.open(spec()).job_id
    assert ledger.status(job).state is JobState.SUBMITTING

    ledger.add_chunks(job, 0, uploads(2))
    seal(ledger, job, uploads(2))
    queued = ledger.status(job)
    leases = [chunk.lease for chunk in claim(ledger).chunks]
    running = ledger.status(job)
    ledger.commit([commit_of(leases[0])])
    half = ledger.status(job)
    ledger.commit([commit_of(leases[1], scored=1, failed=1)])
    done = ledger.status(job)

    assert (queued.state, queued.total, queued.pending) == (JobState.QUEUED, 4, 4)
    assert (running.state, running.model_version) == (JobState.RUNNING, "v1")
    assert (half.scored, half.pending) == (2, 2)
    assert (done.state, done.scored, done.failed, done.pending) == (JobState.COMPLETED, 3, 1, 0)
    assert done.finished_at is not None
    assert done.results_expire_at is not None


def test_job_scored_while_it_uploads_completes_at_seal(ledger: Ledger) -> None:
    job = ledger.open(spec()).job_id
    ledger.add_chunks(job, 0, uploads(1))
    ledger.commit([commit_of(claim(ledger).chunks[0].lease)])
    assert ledger.status(job).state is JobState.SUBMITTING

    state = seal(ledger, job, uploads(1))

    assert state is JobState.COMPLETED


def test_commit_counts_only_with_the_running_lease(hasty: Ledger) -> None:
    """Promise 2: a worker that was thought dead comes back, and its scores are not written twice."""
    job = submit(hasty, 1)
    zombie = claim(hasty, worker="zombie").chunks[0].lease
    heir: list[Lease] = []
    until(lambda: bool(heir.extend(chunk.lease for chunk in claim(hasty, worker="heir").chunks) or heir))

    late = hasty.commit([commit_of(zombie, scored=0, failed=2)])
    first = hasty.commit([commit_of(heir[0])])
    again = hasty.commit([commit_of(heir[0])])

    assert (late, first, again) == (["lost"], ["done"], ["already"])
    assert hasty.status(job).scored == 2


def test_commit_to_a_job_that_is_gone_creates_nothing(ledger: Ledger, redis_url: str) -> None:
    job = submit(ledger, 1)
    lease = claim(ledger).chunks[0].lease
    with redis.Redis.from_url(redis_url) as client:
        keys = client.keys(f"{ledger.keys.job(job)}*")
        client.delete(*keys)

        outcome = ledger.commit([commit_of(lease)])

        assert outcome == ["gone"]
        assert client.keys(f"{ledger.keys.job(job)}*") == []


def test_expired_lease_goes_to_the_front_and_counts_a_death(hasty: Ledger) -> None:
    """Promise 3: work lost with a worker goes ahead of what waits."""
    first = submit(hasty, 1)
    lost = claim(hasty).chunks[0].lease
    later = submit(hasty, 2)

    until(lambda: bool(claim(hasty, lanes=NOTHING)) and leases_left(hasty) == 0)
    again = claim(hasty).chunks

    assert [(c.lease.job_id, c.deaths) for c in again] == [(first, 1), (later, 0), (later, 0)]
    assert again[0].lease.token != lost.token


def test_released_chunks_come_first_in_order_and_count_no_death(ledger: Ledger) -> None:
    job = submit(ledger, 3)
    leases = [chunk.lease for chunk in claim(ledger).chunks]
    other = submit(ledger, 1)

    released = ledger.release(leases)
    again = claim(ledger).chunks

    assert released == 3
    assert [(c.lease.job_id, c.lease.chunk) for c in again] == [(job, 0), (job, 1), (job, 2), (other, 0)]
    assert {c.deaths for c in again} == {0}


def test_renewed_lease_outlives_its_term(hasty: Ledger) -> None:
    submit(hasty, 1)
    lease = claim(hasty).chunks[0].lease
    end = time.monotonic() + 3 * SHORT_LEASE_S

    while time.monotonic() < end:
        assert hasty.renew("worker-1", {}, [Lane.BULK], [lease]).lost == set()
        assert claim(hasty, worker="other").chunks == []

    assert hasty.commit([commit_of(lease)]) == ["done"]


def test_silence_of_redis_is_not_held_against_workers(hasty: Ledger) -> None:
    """After an outage leases get a full term first: nobody could renew them meanwhile."""
    submit(hasty, 1)
    lease = claim(hasty).chunks[0].lease
    time.sleep(1.5 * SHORT_LEASE_S)  # nobody claims or renews: to the ledger it is as if Redis had been away

    after = claim(hasty, worker="other").chunks

    assert after == []
    assert hasty.commit([commit_of(lease)]) == ["done"]


def test_renewal_tells_which_leases_are_lost(ledger: Ledger) -> None:
    submit(ledger, 2)
    mine, given_back = (chunk.lease for chunk in claim(ledger).chunks)
    ledger.release([given_back])

    lost = ledger.renew("worker-1", {"host": "here"}, [Lane.BULK], [mine, given_back]).lost

    assert lost == {given_back}
    assert ledger.workers()[0]["host"] == "here"


def test_jobs_share_a_lane_evenly_and_express_goes_first(ledger: Ledger) -> None:
    big, small = submit(ledger, 4), submit(ledger, 2)
    urgent = submit(ledger, 1, lane=Lane.EXPRESS)

    order = [chunk.lease.job_id for chunk in claim(ledger).chunks]

    assert order == [urgent, big, small, big, small, big, big]


def test_claim_keeps_within_its_room(ledger: Ledger) -> None:
    submit(ledger, 10)

    rows = claim(ledger, lanes=[LaneRoom(Lane.BULK, 5, 100)]).chunks
    chunks = claim(ledger, lanes=[LaneRoom(Lane.BULK, 100, 2)]).chunks

    assert len(rows) == 3  # the chunk that fills the room is the last
    assert len(chunks) == 2


def test_claim_takes_an_even_share_of_what_waits(ledger: Ledger) -> None:
    """A small job on many workers is spread over them."""
    for worker in ("a", "b", "c", "d"):
        ledger.renew(worker, {}, [Lane.BULK], [])
    submit(ledger, 8)

    shares = [len(claim(ledger, worker=worker).chunks) for worker in ("a", "b", "c", "d")]

    assert shares == [2, 2, 1, 1]


def test_job_keeps_the_version_of_its_first_claim(ledger: Ledger) -> None:
    """Promise 6: rows of one job never come from two versions."""
    submit(ledger, 2)
    first = claim(ledger, lanes=[LaneRoom(Lane.BULK, 1, 1)], version="v1").chunks
    with_other = claim(ledger, version="v2")
    with_both = ledger.claim("worker-1", EVERYTHING, versions=["v1", "v2"], default_version="v2")

    assert [c.model_version for c in first] == ["v1"]
    assert (with_other.chunks, with_other.waiting_version) == ([], "v1")
    assert [c.model_version for c in with_both.chunks] == ["v1"]


def test_same_idempotency_key_is_one_job(ledger: Ledger) -> None:
    one, two = spec(idempotency_key="monday"), spec(idempotency_key="monday")
    first = ledger.submit(one, uploads(2))
    second = ledger.submit(two, uploads(2))

    assert second.job_id == first.job_id
    assert (first.is_new, second.is_new, second.chunks) == (True, False, 2)
    with pytest.raises(JobNotFoundError):
        ledger.status(two.id)


def test_chunk_sent_again_must_be_the_same(ledger: Ledger) -> None:
    job = ledger.open(spec()).job_id
    ledger.add_chunks(job, 0, uploads(2))

    assert ledger.add_chunks(job, 0, uploads(3)) == 3
    with pytest.raises(ContentConflictError, match="chunk 1"):
        ledger.add_chunks(job, 1, uploads(3, word="other")[1:2])
    assert ledger.status(job).total == 6


def test_sealed_job_takes_no_more_rows(ledger: Ledger) -> None:
    job = submit(ledger, 1)

    with pytest.raises(UsageError, match="sealed with fewer rows"):
        ledger.add_chunks(job, 1, uploads(2)[1:])


def test_seal_checks_that_all_has_arrived(ledger: Ledger) -> None:
    job = ledger.open(spec()).job_id
    ledger.add_chunks(job, 0, uploads(2))

    with pytest.raises(ContentConflictError):
        ledger.seal(job, chunks=2, rows=4, digest="00")
    with pytest.raises(UploadLostError):
        seal(ledger, job, uploads(3))
    assert ledger.status(job).state is JobState.SUBMITTING


def test_deadline_ends_a_job_and_counts_the_rest_as_cancelled(ledger: Ledger) -> None:
    job = submit(ledger, 3, deadline_s=0.3)
    leases = [chunk.lease for chunk in claim(ledger, lanes=[LaneRoom(Lane.BULK, 3, 2)]).chunks]
    ledger.commit([commit_of(leases[0])])

    until(lambda: ledger.status(job).state is JobState.EXPIRED)
    late = ledger.commit([commit_of(leases[1])])

    status = ledger.status(job)
    assert late == ["closed"]
    assert (status.scored, status.cancelled, status.pending) == (2, 4, 0)
    assert ledger.pressure(Lane.BULK).backlog_rows == 0


def test_ended_job_leaves_nothing_in_its_lane(ledger: Ledger, redis_url: str) -> None:
    done, expired = submit(ledger, 2), submit(ledger, 3, deadline_s=0.05)
    leases = [chunk.lease for chunk in claim(ledger, lanes=[LaneRoom(Lane.BULK, 1, 1)]).chunks]
    until(lambda: ledger.status(expired).state is JobState.EXPIRED)
    leases += [chunk.lease for chunk in claim(ledger).chunks]
    ledger.commit([commit_of(lease) for lease in leases if lease.job_id == done])

    claim(ledger)

    with redis.Redis.from_url(redis_url) as client:
        assert ledger.status(done).state is JobState.COMPLETED
        assert client.zcard(f"{ledger.keys.prefix}lane:bulk") == 0
        assert client.keys(f"{ledger.keys.prefix}ring:*") == []
        assert client.hget(ledger.keys.rows, "bulk:waiting") == b"0"


def test_job_has_at_most_six_keys_however_many_chunks(ledger: Ledger, redis_url: str) -> None:
    job = submit(ledger, 50, idempotency_key="k")
    half = [chunk.lease for chunk in claim(ledger, lanes=[LaneRoom(Lane.BULK, 50, 50)]).chunks]
    ledger.commit([commit_of(lease) for lease in half])

    with redis.Redis.from_url(redis_url) as client:
        keys = set(client.keys(f"{ledger.keys.job(job)}*")) | set(client.keys(f"{ledger.keys.prefix}key:*"))
        every_key = client.keys(f"*{ledger.keys.namespace}*")

    assert len(keys) <= 6
    assert all(key.startswith(ledger.keys.prefix.encode()) for key in every_key)


def test_verbs_survive_a_redis_that_forgot_the_scripts(ledger: Ledger, redis_url: str) -> None:
    """A restart or a failover empties the script cache, in the middle of pipelines too."""
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        job = submit(ledger, 2)
        client.script_flush()
        leases = [chunk.lease for chunk in claim(ledger).chunks]
        client.script_flush()

        assert ledger.commit([commit_of(lease) for lease in leases]) == ["done", "done"]

    assert ledger.status(job).state is JobState.COMPLETED


def test_wait_returns_when_the_job_ends(ledger: Ledger) -> None:
    submit(ledger, 1)
    chunk = claim(ledger).chunks[0]
    ledger.commit([commit_of(chunk.lease)])
    began = time.monotonic()

    ledger.wait_for_change(chunk.lease.job_id, timeout_s=30)

    assert time.monotonic() - began < 10


def test_redis_that_is_down_is_said_in_one_line() -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")

    with pytest.raises(RedisUnavailableError, match="expected Redis at 127"):
        Ledger.connect(settings)


def test_newer_protocol_is_refused(redis_url: str, namespace: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset(Keys(namespace).meta, "protocol", 99)

    with pytest.raises(ProtocolTooNewError, match="99"):
        Ledger.connect(Settings(redis_url=redis_url, namespace=namespace))


def test_renewal_knows_an_old_lease_from_the_new_one_of_the_same_chunk(hasty: Ledger) -> None:
    """A worker that claims its own expired chunk again holds two tokens for a moment."""
    submit(hasty, 1)
    old = claim(hasty).chunks[0].lease
    new: list[Lease] = []
    until(lambda: bool(new.extend(chunk.lease for chunk in claim(hasty).chunks) or new))

    lost = hasty.renew("worker-1", {}, [Lane.BULK], [old, new[0]]).lost

    assert lost == {old}


@pytest.fixture
def small_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, "--maxmemory", "3mb") as server:
        yield server


def fill(ledger: Ledger, job: str) -> int:
    """Add chunks until Redis refuses; returns how many it took."""
    for index in range(1000):
        payload = encode_chunk(Chunk(first_row=1 + 2 * index, texts=["x" * 20_000] * 2))
        try:
            ledger.add_chunks(job, index, [ChunkUpload(payload, 2, digest(payload))])
        except RedisRefusedError:
            return index
    raise AssertionError("a Redis of 3 MB took 40 MB")


def test_full_redis_drains(small_redis: RedisServer) -> None:
    """Out of memory must not keep workers from making room."""
    ledger = Ledger.connect(Settings(redis_url=small_redis.url))
    job = ledger.open(spec()).job_id
    chunks = fill(ledger, job)

    big = [encode_chunk(Chunk(first_row=1 + 2 * index, texts=["x" * 20_000] * 2)) for index in range(chunks)]
    seal(ledger, job, [ChunkUpload(payload, 2, digest(payload)) for payload in big])
    ledger.renew("worker-1", {}, [Lane.BULK], [])
    first, *_ = claim(ledger, lanes=[LaneRoom(Lane.BULK, 100, 2)]).chunks
    ledger.release([first.lease])
    ledger.commit([commit_of(chunk.lease) for chunk in claim(ledger, lanes=[LaneRoom(Lane.BULK, 1000, 1)]).chunks])
    status = ledger.status(job)

    assert chunks > 2
    assert (status.state, status.scored) == (JobState.RUNNING, 2)
    ledger.close()


def test_redis_that_takes_no_writes_is_unavailable_not_broken(tmp_path: Path) -> None:
    """A replica that is lost must not end healthy workers: they wait for what passes by itself."""
    with RedisServer(tmp_path, "--min-replicas-to-write", "1") as server:
        ledger = Ledger.connect(Settings(redis_url=server.url), patience_s=0)

        with pytest.raises(RedisUnavailableError, match="takes no writes"):
            ledger.open(spec())
        with pytest.raises(RedisUnavailableError, match="takes no writes"):
            ledger.submit(spec(), uploads(1))
        with pytest.raises(RedisUnavailableError, match="takes no writes"):
            claim(ledger)
        ledger.close()


def test_lost_end_of_an_upload_is_said_with_the_next_step(ledger: Ledger) -> None:
    """Power loss may take the last second: the producer is told to run again, not that there is a bug."""
    job = ledger.open(spec()).job_id

    with pytest.raises(UploadLostError, match="run the same command again"):
        ledger.add_chunks(job, 5, uploads(6)[5:])
