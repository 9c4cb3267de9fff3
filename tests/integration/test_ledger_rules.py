"""Rules of the ledger that one verb alone does not show: deaths, wake-ups, versions, the term, late calls."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

import scorequeue.keys
from producer.client import new_job_id
from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.errors import (
    JobClosedError,
    JobDeletedError,
    JobNotFoundError,
    ProtocolTooNewError,
    RedisRefusedError,
)
from scorequeue.inquiries import Inquiries
from scorequeue.jobs import JobSpec, JobState, Lane
from scorequeue.keys import PROTOCOL, Keys
from scorequeue.ledger import Ledger, new_token
from scorequeue.records import AWAKE_MS, MOST_WAKE_UPS, ChunkUpload, Claim, Commit, LaneRoom, Lease, fold_digest
from scorequeue.settings import Settings
from tests.processes import until

EVERYTHING = [LaneRoom(Lane.EXPRESS, 100_000, 1_000), LaneRoom(Lane.BULK, 100_000, 1_000)]
LONG_AGO_MS = 1


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def submit(ledger: Ledger, chunks: int, *, rows: int = 2, **more: object) -> str:
    spec = JobSpec.model_validate({"id": new_job_id(), "lane": Lane.BULK, "chunk_rows": rows, "ttl_s": 60, **more})
    made = []
    for index in range(chunks):
        payload = encode_chunk(Chunk(first_row=1 + index * rows, texts=[f"row {index}"] * rows))
        made.append(ChunkUpload(payload, rows, digest(payload)))
    return ledger.submit(spec, made).job_id


def claim(ledger: Ledger, *, worker: str = "w1", versions: tuple[str, ...] = ("v1",), **more: object) -> Claim:
    lanes = more.pop("lanes", EVERYTHING)
    return ledger.claim(worker, lanes, versions=versions, default_version=versions[0], **more)  # type: ignore[arg-type]


def die(ledger: Ledger, raw: redis.Redis, *leases: Lease) -> None:
    """Let leases run out, and have it noticed."""
    raw.zadd(f"{ledger.keys.prefix}leases", {f"{lease.job_id}:{lease.chunk}": LONG_AGO_MS for lease in leases}, xx=True)
    ledger.sweep()


def refuse_since(ledger: Ledger, raw: redis.Redis, version: str, *, since_s: int) -> None:
    """Let a version have been refused for so long."""
    seconds, _ = raw.time()
    raw.hset(ledger.keys.meta, f"refused:{version}", (seconds - since_s) * 1000)


# --- deaths ---


def test_each_lease_that_runs_out_is_a_death_of_its_chunk(ledger: Ledger, raw: redis.Redis) -> None:
    """A text that kills the tokenizer is found by it."""
    submit(ledger, 2)
    deaths = []
    for _ in range(3):
        first, second = claim(ledger).chunks
        deaths.append((first.deaths, second.deaths))
        die(ledger, raw, first.lease)
        ledger.release([second.lease])

    assert deaths == [(0, 0), (0, 1), (1, 1)], "the one that came back last goes first"


def test_commit_forgets_deaths(ledger: Ledger, raw: redis.Redis) -> None:
    """Rows that are tried again begin anew."""
    job = submit(ledger, 1)
    die(ledger, raw, *(chunk.lease for chunk in claim(ledger).chunks))
    (chunk,) = claim(ledger).chunks
    ledger.commit([Commit(chunk.lease, 1, 1, 0, b"results", 1, b"kept")])
    ledger.retry(job)

    (again,) = claim(ledger).chunks

    assert (chunk.deaths, again.deaths) == (1, 0)


# --- wake-ups ---


@pytest.fixture
def woken() -> list[Lane]:
    return []


@pytest.fixture
def waking(settings: Settings, woken: list[Lane]) -> Iterator[Ledger]:
    """The ledger as a producer has it."""
    with closing(Ledger.connect(settings, wake_up=woken.append)) as ledger:
        yield ledger


def live(ledger: Ledger, *workers: str) -> None:
    for worker in workers:
        ledger.renew(worker, {}, [Lane.BULK], [])


def test_sleeping_worker_is_woken(waking: Ledger, woken: list[Lane]) -> None:
    live(waking, "w1")

    job = submit(waking, 1)
    (chunk,) = claim(waking).chunks
    waking.commit([Commit(chunk.lease, 1, 1, 0, b"results", 1, b"kept")])
    asleep_at = time.monotonic() + 2 * AWAKE_MS / 1000
    until(lambda: time.monotonic() > asleep_at, what="the end of the moment in which it is awake")
    waking.retry(job)

    assert woken == [Lane.BULK, Lane.BULK]


def test_no_live_worker_is_no_reason_for_a_wake_up(waking: Ledger, woken: list[Lane]) -> None:
    """Messages would pile up, and a worker that starts looks by itself."""
    submit(waking, 1)
    live(waking, "w1")
    waking.depart("w1", [Lane.BULK])
    submit(waking, 1)

    assert woken == []


def test_worker_that_has_just_claimed_is_not_woken(waking: Ledger, woken: list[Lane]) -> None:
    """It looks again by itself: a message costs a producer as much as half a job."""
    live(waking, "w1")

    def submits_unwoken() -> bool:
        submit(waking, 1)
        claim(waking)
        before = len(woken)
        submit(waking, 1)
        claim(waking)
        return len(woken) == before

    until(submits_unwoken, timeout_s=10, what="a submit within the moment in which the worker is awake")


def test_sleeping_worker_is_woken_beside_a_busy_one(waking: Ledger, woken: list[Lane]) -> None:
    """Or one worker would do all the work."""
    live(waking, "busy", "idle")
    submit(waking, 1)
    claim(waking, worker="busy")

    submit(waking, 1)

    assert woken == [Lane.BULK, Lane.BULK]


def test_wake_ups_that_wait_are_enough(waking: Ledger, woken: list[Lane], raw: redis.Redis) -> None:
    live(waking, "w1")
    raw.lpush(waking.keys.wake_ups(Lane.BULK), *["message"] * MOST_WAKE_UPS)

    submit(waking, 1)

    assert woken == []


# --- what an idle worker asks ---


def test_poll_finds_what_a_claim_would(ledger: Ledger, raw: redis.Redis) -> None:
    def poll() -> set[Lane]:
        return ledger.poll(list(Lane), versions=["v1"])

    live(ledger, "w1")
    assert poll() == set()
    submit(ledger, 1)
    assert poll() == {Lane.BULK}
    (chunk,) = claim(ledger).chunks
    assert poll() == set()
    ledger.release([chunk.lease])
    assert poll() == {Lane.BULK}


@pytest.mark.parametrize("key", ["leases", "deadlines", "endings"])
def test_poll_finds_what_has_run_out(ledger: Ledger, raw: redis.Redis, key: str) -> None:
    """Any claim takes it back, in whichever lane."""
    raw.zadd(f"{ledger.keys.prefix}{key}", {"x": LONG_AGO_MS})

    assert len(ledger.poll(list(Lane), versions=["v1"])) == 1


def test_poll_finds_a_version_that_must_be_loaded(ledger: Ledger) -> None:
    submit(ledger, 1, model_version="v9")

    assert ledger.poll([Lane.EXPRESS], versions=["v1"]) == {Lane.EXPRESS}
    assert ledger.poll([Lane.EXPRESS], versions=["v1", "v9"]) == set()


def test_poll_writes_nothing(ledger: Ledger, raw: redis.Redis) -> None:
    submit(ledger, 1, model_version="v9")
    before = {key: raw.dump(key) for key in raw.scan_iter(f"{ledger.keys.prefix}*")}

    ledger.poll(list(Lane), versions=["v1"])

    assert {key: raw.dump(key) for key in raw.scan_iter(f"{ledger.keys.prefix}*")} == before


# --- versions ---


def test_work_that_nobody_here_can_do_hides_nothing(ledger: Ledger) -> None:
    """Many chunks of another version that came back, and many jobs of it, must not be in the way."""
    submit(ledger, 300, model_version="v9")
    other = ledger.claim("w9", [LaneRoom(Lane.BULK, 100_000, 1_000)], versions=["v9"], default_version="v9").chunks
    ledger.release([chunk.lease for chunk in other])
    for _ in range(50):
        submit(ledger, 1, model_version="v9")
    mine = submit(ledger, 1)

    found = claim(ledger, lanes=[LaneRoom(Lane.BULK, 100, 1)])

    assert len(other) == 300
    assert [chunk.lease.job_id for chunk in found.chunks] == [mine]
    assert found.waiting_version == "v9"


def test_version_that_has_waited_longest_is_named(ledger: Ledger, raw: redis.Redis) -> None:
    for version, waited_s in (("v2", 10), ("v3", 50), ("v4", 30)):
        submit(ledger, 1, model_version=version)
        seconds, _ = raw.time()
        raw.zadd(f"{ledger.keys.prefix}waits", {version: (seconds - waited_s) * 1000}, xx=True)

    found = claim(ledger, versions=("v1",))
    then = claim(ledger, versions=("v3",), worker="w3")
    after = claim(ledger, versions=("v1",))

    assert (found.chunks, found.waiting_version) == ([], "v3")
    assert 49 <= found.waited_s <= 60
    assert [chunk.model_version for chunk in then.chunks] == ["v3"]
    assert after.waiting_version == "v4"


def test_version_that_could_not_be_loaded_is_named_last(ledger: Ledger, raw: redis.Redis) -> None:
    """A version that was never there must not keep one that is there from being loaded."""
    for version, waited_s in (("v2", 50), ("v3", 40)):
        submit(ledger, 1, model_version=version)
        seconds, _ = raw.time()
        raw.zadd(f"{ledger.keys.prefix}waits", {version: (seconds - waited_s) * 1000}, xx=True)

    assert claim(ledger, refused={"v2": "no such version"}).waiting_version == "v3"
    assert claim(ledger, refused={"v2": "no such version", "v3": "damaged"}).waiting_version == "v2"


def test_job_whose_version_no_worker_can_load_fails_after_ten_minutes(ledger: Ledger, raw: redis.Redis) -> None:
    """It must not wait for ever for a version that was never there, or is damaged."""
    job = submit(ledger, 2, model_version="v9")
    busy = submit(ledger, 1)
    refused = {"v9": "no such version"}
    claim(ledger, refused=refused)
    assert ledger.status(job).state is JobState.QUEUED

    refuse_since(ledger, raw, "v9", since_s=601)
    claim(ledger, refused=refused)

    failed = ledger.status(job)
    assert (failed.state, failed.cancelled, failed.pending) == (JobState.FAILED, 4, 0)
    assert failed.error == "workers could not load version v9: no such version"
    assert ledger.status(busy).state is JobState.RUNNING


def test_version_that_some_worker_has_is_not_given_up(ledger: Ledger, raw: redis.Redis) -> None:
    """One host may lack a folder that another one has."""
    job = submit(ledger, 2, model_version="v9")
    claim(ledger, refused={"v9": "no such version"})
    refuse_since(ledger, raw, "v9", since_s=601)
    ledger.claim("w9", [], versions=["v9"], default_version="v9")

    claim(ledger, refused={"v9": "no such version"})

    assert ledger.status(job).state is JobState.QUEUED


def test_jobs_of_two_versions_take_turns(ledger: Ledger) -> None:
    """Fairness is between jobs, whichever version they need."""
    jobs = [submit(ledger, 3, model_version=version) for version in ("v1", "v2")] + [submit(ledger, 3)]

    order = [chunk.lease.job_id for chunk in claim(ledger, versions=("v1", "v2")).chunks]

    assert order == jobs * 3


# --- the term ---


def test_short_lease_of_a_client_cuts_nobody_elses(ledger: Ledger, redis_url: str, namespace: str) -> None:
    """A status asked for with another setting used to cut the leases of workers, which then lost their work."""
    slow = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace, lease_s=60))
    hasty = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace, lease_s=0.5))
    slow.renew("slow", {}, [Lane.BULK], [], is_first=True)
    job = submit(slow, 1)
    (chunk,) = slow.claim("slow", EVERYTHING, versions=["v1"], default_version="v1").chunks

    hasty.status(job)
    hasty.sweep()
    hasty.renew("hasty", {}, [Lane.BULK], [], is_first=True)
    time.sleep(0.7)
    hasty.sweep()

    assert slow.commit([Commit(chunk.lease, 2, 0, 0, b"results")]) == ["done"]
    assert {worker["id"] for worker in hasty.workers()} == {"slow", "hasty"}
    slow.close()
    hasty.close()


def test_worker_that_comes_alone_sets_the_term(
    ledger: Ledger, redis_url: str, namespace: str, raw: redis.Redis
) -> None:
    hasty = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace, lease_s=2))
    ledger.renew("old", {}, [Lane.BULK], [], is_first=True)
    hasty.renew("beside", {}, [Lane.BULK], [], is_first=True)
    beside = raw.hget(ledger.keys.meta, "lease_ms")
    for worker in ("old", "beside"):
        ledger.depart(worker, list(Lane))

    hasty.renew("alone", {}, [Lane.BULK], [], is_first=True)

    assert (beside, raw.hget(ledger.keys.meta, "lease_ms")) == (b"15000", b"2000")
    hasty.close()


# --- late calls ---


def test_claim_that_comes_after_it_was_given_up_leases_nothing(ledger: Ledger) -> None:
    submit(ledger, 1)
    token = new_token()

    assert ledger.void([token]) == 0
    assert claim(ledger, token=token).chunks == []
    assert len(claim(ledger).chunks) == 1


def test_claim_that_was_executed_goes_back_when_it_is_given_up(ledger: Ledger) -> None:
    submit(ledger, 3)
    token = new_token()
    lost = claim(ledger, token=token).chunks

    released = ledger.void([token])
    again = claim(ledger).chunks

    assert released == 3
    assert {chunk.lease.chunk for chunk in again} == {chunk.lease.chunk for chunk in lost}
    assert {chunk.deaths for chunk in again} == {0}


def test_deleted_job_is_known_as_deleted(ledger: Ledger) -> None:
    job = submit(ledger, 1)
    (chunk,) = claim(ledger).chunks
    ledger.delete(job)

    with pytest.raises(JobDeletedError, match="was deleted"):
        ledger.status(job)
    with pytest.raises(JobDeletedError):
        ledger.open(JobSpec(id=job, lane=Lane.BULK, chunk_rows=2, ttl_s=60))
    assert ledger.commit([Commit(chunk.lease, 2, 0, 0, b"late")]) == ["gone"]
    assert ledger.renew("w1", {}, [Lane.BULK], [chunk.lease]).lost == {chunk.lease}


# --- protocol, names, lists ---


@pytest.mark.parametrize(
    ("protocol", "error"), [(PROTOCOL + 1, ProtocolTooNewError), (PROTOCOL - 1, RedisRefusedError)]
)
def test_every_verb_refuses_another_protocol(
    ledger: Ledger, raw: redis.Redis, protocol: int, error: type[Exception]
) -> None:
    """A program that is running when the namespace is taken over must not go on as if nothing had happened."""
    job = submit(ledger, 1)
    (chunk,) = claim(ledger).chunks
    raw.hset(Keys(ledger.keys.namespace).meta, "protocol", protocol)

    for verb in (
        lambda: claim(ledger),
        lambda: ledger.renew("w1", {}, [Lane.BULK], [chunk.lease]),
        lambda: ledger.commit([Commit(chunk.lease, 2, 0, 0, b"results")]),
        lambda: ledger.release([chunk.lease]),
        lambda: ledger.poll(list(Lane), versions=["v1"]),
        lambda: ledger.status(job),
        lambda: ledger.cancel(job),
        lambda: ledger.delete(job),
        lambda: submit(ledger, 1),
    ):
        with pytest.raises(error, match=f"expected protocol {PROTOCOL}"):
            verb()
    assert int(raw.hget(ledger.keys.job(job), "scored") or -1) == 0


def test_ledger_has_another_name_after_it_was_emptied(ledger: Ledger, raw: redis.Redis) -> None:
    submit(ledger, 1)
    before = ledger.renew("w1", {}, [Lane.BULK], []).ledger_name
    same = ledger.renew("w1", {}, [Lane.BULK], []).ledger_name

    raw.delete(*raw.keys(f"{ledger.keys.prefix}*"))
    after = ledger.renew("w1", {}, [Lane.BULK], []).ledger_name

    assert before == same
    assert before != after


def test_expired_jobs_leave_the_list(ledger: Ledger, raw: redis.Redis) -> None:
    kept, expired = submit(ledger, 1), submit(ledger, 1)
    raw.delete(*raw.keys(f"{ledger.keys.job(expired)}*"))  # as Redis does when their time is over
    raw.zadd(f"{ledger.keys.prefix}endings", {expired: LONG_AGO_MS})

    listed = [status.id for status in ledger.jobs()]
    ledger.sweep()

    assert listed == [kept]
    assert raw.zrange(ledger.keys.jobs, 0, -1) == [kept.encode()]


def test_list_goes_on_behind_a_page_of_other_states(
    ledger: Ledger, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scorequeue.inquiries.LIST_PAGE", 3)
    jobs = [submit(ledger, 1) for _ in range(8)]
    raw.zadd(ledger.keys.jobs, {job: 1_000 * (1 + at) for at, job in enumerate(jobs)})  # made a second apart
    for job in jobs[2:]:
        ledger.cancel(job)

    assert [status.id for status in ledger.jobs(states=[JobState.QUEUED])] == [jobs[1], jobs[0]]
    assert [status.id for status in ledger.jobs(limit=4)] == jobs[:3:-1]


# --- the life of an upload ---


def start_upload(ledger: Ledger, *, key: str | None = None, job: str | None = None, chunks: int = 2) -> str:
    spec = JobSpec(id=job or new_job_id(), lane=Lane.BULK, chunk_rows=2, ttl_s=60, idempotency_key=key)
    opened = ledger.open(spec)
    payloads = [encode_chunk(Chunk(first_row=1 + 2 * index, texts=["a", "b"])) for index in range(chunks)]
    ledger.add_chunks(opened.job_id, 0, [ChunkUpload(payload, 2, digest(payload)) for payload in payloads])
    return opened.job_id


def sealed_digest(ledger: Ledger, job: str) -> str:
    folded = ""
    for record in ledger.chunk_records(job, 0, 2):
        folded = fold_digest(folded, record.digest)
    return folded


def make_due(ledger: Ledger, raw: redis.Redis, job: str) -> None:
    """Let an upload's hour, or a deadline, be over."""
    raw.zadd(f"{ledger.keys.prefix}deadlines", {job: LONG_AGO_MS}, xx=True)


def test_upload_that_is_held_back_does_not_expire(ledger: Ledger, raw: redis.Redis) -> None:
    job = start_upload(ledger)
    make_due(ledger, raw, job)

    ledger.touch(job)
    ledger.sweep()

    assert ledger.status(job).state is JobState.SUBMITTING


def test_touch_says_that_the_job_has_ended(ledger: Ledger, raw: redis.Redis) -> None:
    job = start_upload(ledger)
    ledger.cancel(job)

    with pytest.raises(JobClosedError, match="ended as cancelled before all of it had arrived"):
        ledger.touch(job)


def test_uploads_get_their_hour_anew_after_redis_was_away(ledger: Ledger, raw: redis.Redis) -> None:
    """Redis away for an hour, or a clock that jumped, is not a producer that stopped."""
    job, late = start_upload(ledger), start_upload(ledger)
    claim(ledger)
    raw.hset(ledger.keys.job(late), "deadline", LONG_AGO_MS)
    for each in (job, late):
        make_due(ledger, raw, each)
    raw.hincrby(ledger.keys.meta, "stamp", -3_700_000)

    claim(ledger)

    assert ledger.status(job).state is JobState.SUBMITTING
    assert (ledger.status(late).state, ledger.status(late).error) == (JobState.EXPIRED, "the deadline passed")


def test_upload_that_expired_gives_its_key_to_the_next_one(ledger: Ledger, raw: redis.Redis) -> None:
    first = start_upload(ledger, key="weekly")
    make_due(ledger, raw, first)
    ledger.sweep()
    assert "the upload stopped" in (ledger.status(first).error or "")

    second = start_upload(ledger, key="weekly")

    assert second != first
    assert start_upload(ledger, key="weekly") == second
    with pytest.raises(JobNotFoundError):
        ledger.status(first)
    assert not raw.keys(f"{ledger.keys.prefix}job:{first}*")


def test_sealed_job_that_expired_keeps_its_key(ledger: Ledger, raw: redis.Redis) -> None:
    job = submit(ledger, 2, idempotency_key="weekly", deadline_s=3600)
    make_due(ledger, raw, job)
    raw.hset(ledger.keys.job(job), "deadline", LONG_AGO_MS)
    ledger.sweep()
    assert ledger.status(job).state is JobState.EXPIRED

    assert submit(ledger, 2, idempotency_key="weekly") == job


def test_job_that_ended_while_it_was_uploaded_cannot_be_sealed(ledger: Ledger) -> None:
    """It used to be accepted, and the producer printed the id of a job without a pending row."""
    job = start_upload(ledger)
    ledger.cancel(job)

    with pytest.raises(JobClosedError):
        ledger.seal(job, chunks=2, rows=4, digest=sealed_digest(ledger, job))


# --- versions that cannot be loaded, again ---


def test_refusal_without_work_leaves_nothing(ledger: Ledger, raw: redis.Redis) -> None:
    """Else a job that comes a day later would fail at once."""
    claim(ledger, refused={"v9": "no such version"})

    assert not raw.hexists(ledger.keys.meta, "refused:v9")


def test_refusals_are_forgotten_with_the_work_that_needed_them(ledger: Ledger, raw: redis.Redis) -> None:
    job = submit(ledger, 1, model_version="v9")
    claim(ledger, refused={"v9": "no such version"})
    assert raw.hexists(ledger.keys.meta, "refused:v9")
    ledger.cancel(job)

    claim(ledger)

    assert not raw.hexists(ledger.keys.meta, "refused:v9")


# --- what one call may cost ---


def test_retry_of_many_chunks_counts_each_row_once(ledger: Ledger, raw: redis.Redis) -> None:
    job = submit(ledger, 2_100, rows=1)
    chunks = claim(ledger, lanes=[LaneRoom(Lane.BULK, 10_000, 10_000)]).chunks
    for start in range(0, len(chunks), 100):
        ledger.commit([Commit(c.lease, 0, 1, 0, b"r", 1, c.payload) for c in chunks[start : start + 100]])

    assert ledger.retry(job) == 2_100

    status = ledger.status(job)
    assert (status.pending, status.failed, raw.zcard(f"{ledger.keys.prefix}lane:bulk")) == (2_100, 0, 2_100)
    again = [chunk for _ in range(11) for chunk in claim(ledger, lanes=[LaneRoom(Lane.BULK, 10_000, 10_000)]).chunks]
    assert [chunk.lease.chunk for chunk in again] == list(range(2_100))
    assert all(chunk.pending == 1 for chunk in again)


def test_leases_are_renewed_and_given_back_in_slices(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorequeue.lease_verbs.LEASES_AT_ONCE", 3)
    submit(ledger, 8, rows=1)
    leases = [chunk.lease for chunk in claim(ledger).chunks]
    foreign = Lease(leases[4].job_id, 4, new_token())

    renewal = ledger.renew("w1", {}, [Lane.BULK], [*leases, foreign])
    released = ledger.release(leases)

    assert renewal.lost == {foreign}
    assert renewal.ledger_name == ledger.renew("w1", {}, [Lane.BULK], []).ledger_name
    assert released == 8
    assert [chunk.lease.chunk for chunk in claim(ledger).chunks] == list(range(8))


def test_scripts_that_redis_forgets_at_every_turn_still_run(
    ledger: Ledger, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that met NOSCRIPT twice used to count as refused, and its rows failed for good."""
    job = submit(ledger, 2)
    chunks = claim(ledger).chunks
    run = ledger._scripts._pipeline

    def forgetful(*args: object, **more: object) -> list[object]:
        raw.script_flush()
        return run(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger._scripts, "_pipeline", forgetful)

    assert ledger.commit([Commit(c.lease, c.pending, 0, 0, b"r") for c in chunks]) == ["done", "done"]
    assert ledger.status(job).state is JobState.COMPLETED


def test_members_of_a_deleted_job_make_nobody_load_its_version(ledger: Ledger, raw: redis.Redis) -> None:
    job = submit(ledger, 2, model_version="v9")
    ledger.release([chunk.lease for chunk in claim(ledger, versions=("v9",)).chunks])
    assert claim(ledger).waiting_version == "v9"

    ledger.delete(job)

    assert claim(ledger).waiting_version is None
    assert not raw.keys(f"{ledger.keys.prefix}front:*")
    assert raw.zrange(f"{ledger.keys.prefix}waits", 0, -1) == []


def test_namespace_that_something_else_wrote_is_refused(redis_url: str, namespace: str, raw: redis.Redis) -> None:
    raw.hset(Keys(namespace).meta, "protocol", "abc")

    with pytest.raises(RedisRefusedError, match="something else wrote it"):
        Ledger.connect(Settings(redis_url=redis_url, namespace=namespace))


@pytest.mark.parametrize("change", ["a job is opened", "a job is deleted"])
def test_list_names_each_job_once_though_jobs_come_and_go_between_its_pages(
    ledger: Ledger, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("scorequeue.inquiries.LIST_PAGE", 3)
    jobs = [submit(ledger, 1) for _ in range(8)]
    raw.zadd(ledger.keys.jobs, {job: 1_000 * (1 + at) for at, job in enumerate(jobs)})  # made a second apart
    read = Inquiries._job_page

    def read_and_change(self: Inquiries, *where: Any) -> Any:
        page = read(self, *where)
        if change == "a job is opened":
            submit(ledger, 1)
        elif jobs[-1].encode() in raw.zrange(ledger.keys.jobs, 0, -1):
            ledger.delete(jobs[-1])  # one that has been listed
        return page

    monkeypatch.setattr(Inquiries, "_job_page", read_and_change)

    assert [status.id for status in ledger.jobs()] == jobs[::-1]


def test_list_goes_on_behind_a_page_of_jobs_of_one_moment(
    ledger: Ledger, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scorequeue.inquiries.LIST_PAGE", 3)
    jobs = [submit(ledger, 1) for _ in range(10)]
    raw.zadd(ledger.keys.jobs, {job: 2_000 if 1 <= at <= 8 else 1_000 * (1 + at) for at, job in enumerate(jobs)})

    listed = [status.id for status in ledger.jobs()]

    assert (listed[0], listed[-1]) == (jobs[9], jobs[0])
    assert sorted(listed) == sorted(jobs)


def test_every_field_of_the_job_and_of_the_namespace_is_in_the_table(ledger: Ledger, raw: redis.Redis) -> None:
    """keys.py is where one looks what a field means, and what another program may rely on."""
    table = scorequeue.keys.__doc__ or ""
    about_meta, about_jobs = (
        {name for line in re.findall(r"^    ([a-z_:A-Z, ]+?)  +\S", part, re.MULTILINE) for name in line.split(", ")}
        for part in re.findall(r"^Fields of [^\n]+:\n\n(.*?)\n\n(?=\S)", table, re.MULTILINE | re.DOTALL)
    )
    found: set[str] = set()

    def look(job: str) -> None:
        found.update(name.decode() for name in raw.hkeys(ledger.keys.job(job)))

    job = submit(ledger, 2, idempotency_key="k", deadline_s=60.0, model_version="v1")
    for leased in claim(ledger).chunks:
        ledger.commit([Commit(leased.lease, 1, 1, 0, b"results", 1, b"kept")])
    look(job)
    ledger.retry(job)
    look(job)
    for leased in claim(ledger).chunks:
        ledger.commit([Commit(leased.lease, 1, 0, 0, b"results")])
    ledger.discard(job, finished_ms=ledger.status(job).finished_ms)
    look(job)
    given_up = submit(ledger, 1, model_version="bad")
    claim(ledger, refused={"bad": "why"})
    refuse_since(ledger, raw, "bad", since_s=601)
    claim(ledger, refused={"bad": "why"})
    look(given_up)
    submit(ledger, 1)
    die(ledger, raw, *(chunk.lease for chunk in claim(ledger).chunks))
    submit(ledger, 1, model_version="bad")
    claim(ledger, refused={"bad": "why"})
    ledger.sync()
    meta = {re.sub("^refused:.*", "refused:VERSION", name.decode()) for name in raw.hkeys(ledger.keys.meta)}

    assert found == about_jobs
    assert meta | {"synced"} == about_meta, "synced is there where the server can wait for its disk"


def test_a_version_has_work_while_its_chunks_wait(ledger: Ledger) -> None:
    submit(ledger, 1, model_version="v9")
    assert (ledger.has_work("v9"), ledger.has_work("v8")) == (True, False)

    (chunk,) = claim(ledger, versions=("v9",)).chunks
    assert not ledger.has_work("v9")

    ledger.release([chunk.lease])
    assert ledger.has_work("v9")
