"""The client against a real Redis: uploads, resumption, back-pressure, results, audit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import producer.chunks
import producer.gate
from producer import Client
from producer.inputs import Inputs
from producer.join import join
from producer.readers import ReaderOptions
from producer.upload import UploadProgress
from scorequeue import codec
from scorequeue.errors import (
    ContentConflictError,
    InputError,
    JobNotFoundError,
    NotFinishedError,
    RedisUnavailableError,
    UsageError,
)
from scorequeue.jobs import ErrorCode, JobState, Lane, Row, RowError
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.integration.scoring import FAILS, VERSION, score_of, score_waiting, scoring


@pytest.fixture
def settings(redis_url: str, namespace: str) -> Settings:
    return Settings(redis_url=redis_url, namespace=namespace, chunk_rows=10)


def sentences(count: int) -> list[str]:
    return [f"Sentence {'x' * (n % 50)} number {n}." for n in range(1, count + 1)]


def test_a_job_comes_back_in_input_order(client, ledger):
    job = client.submit(sentences(95))
    score_waiting(ledger)

    status = job.wait(10)
    results = list(job.results())

    assert (status.state, status.lane, status.total, status.scored) == (JobState.COMPLETED, Lane.BULK, 95, 95)
    assert [result.row for result in results] == list(range(1, 96))
    assert [result.scores["acceptable"] for result in results] == [score_of(text) for text in sentences(95)]
    assert {result.model_version for result in results} == {VERSION}


@pytest.mark.parametrize(("count", "lane"), [(1, Lane.EXPRESS), (64, Lane.EXPRESS), (65, Lane.BULK)])
def test_small_jobs_are_express(client, count, lane):
    assert client.submit(sentences(count)).status().lane is lane


def test_a_lane_can_be_named(client):
    assert client.submit(["a"], lane="bulk").status().lane is Lane.BULK


def test_texts_pairs_and_rows_may_be_mixed_and_faulty(client, ledger):
    """Nothing that a caller hands in stops the job; what cannot be scored fails in its place."""
    values = ["one", ("k2", "two"), Row("three", "k3"), "", ("k5", 5), 6, "\ud800", "x" * 20_000, ("k9", " ")]
    values.append(Row("", "k10", "in.csv", 7, RowError(ErrorCode.INVALID_CSV, "why")))
    job = client.submit(values)  # type: ignore[arg-type]
    score_waiting(ledger)

    results = list(job.results())

    assert [result.id for result in results] == ["1", "k2", "k3", "4", "k5", "6", "7", "8", "k9", "k10"]
    assert [result.error.code.value if result.error else None for result in results] == [
        *[None] * 3,
        "empty_text",
        "wrong_type",
        "wrong_type",
        "invalid_utf8",
        "text_too_long",
        "empty_text",
        "invalid_csv",
    ]
    assert (results[-1].source, results[-1].line) == ("in.csv", 7)
    assert job.audit().is_clean


def test_what_is_asked_for_is_kept_with_the_job(client):
    job = client.submit(
        ["a"],
        model_version="v1",
        idempotency_key="k",
        metadata={"team": "x"},
        deadline_s=60,
        ttl_s=120,
        source=["mine"],
    )

    status = job.status()
    assert (status.model_version, status.idempotency_key, status.metadata) == ("v1", "k", {"team": "x"})
    assert status.source == ("mine",)
    assert status.deadline_at is not None


@pytest.mark.parametrize(
    ("rows", "options", "error"),
    [
        ([], {}, InputError),
        ("one text", {}, UsageError),
        (["a"], {"lane": "fast"}, UsageError),
        (["a"], {"deadline_s": -1}, UsageError),
        (["a"], {"chunk_rows": 0}, UsageError),
        (["a"], {"ttl_s": 0}, UsageError),
    ],
)
def test_what_cannot_be_submitted_is_refused(client, rows, options, error):
    with pytest.raises(error):
        client.submit(rows, **options)


def test_redis_that_is_not_there_is_one_clear_error():
    with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1"):
        Client("redis://127.0.0.1:1/0")


def test_a_job_that_is_not_there_is_told_from_a_wrong_id(client):
    with pytest.raises(JobNotFoundError, match="32 hex digits"):
        client.job("nonsense")
    with pytest.raises(JobNotFoundError, match="no job"):
        client.job("0" * 32).status()
    with pytest.raises(JobNotFoundError, match="no job"):
        client.job("0" * 32).wait(5)


def test_results_before_the_end_are_refused_unless_partial(client, ledger):
    job = client.submit(sentences(100))
    score_waiting(ledger, most_chunks=1)

    with pytest.raises(NotFinishedError, match="90 rows pending"):
        job.results()
    assert [result.row for result in job.results(partial=True)] == list(range(1, 11))


def test_waiting_ends_with_the_job_and_reports_on_the_way(client, settings):
    states = []
    job = client.submit(sentences(300))
    with scoring(settings):
        status = job.wait(20, on_status=lambda status: states.append(status.state))

    assert status.state is JobState.COMPLETED
    assert states[-1] is JobState.COMPLETED
    assert states.count(JobState.COMPLETED) == 1


def test_waiting_gives_up_and_says_what_is_left(client):
    job = client.submit(sentences(5))

    with pytest.raises(NotFinishedError, match="5 rows pending and 0 live workers; it goes on"):
        job.wait(0.1)


# --- the same key again ---


@pytest.mark.parametrize("count", [5, 95, 20_000])
def test_the_same_rows_under_the_same_key_are_one_job(client, ledger, count):
    """One call, several chunks in one call, and several calls take different ways."""
    first = client.submit(sentences(count), idempotency_key="k")
    second = client.submit(sentences(count), idempotency_key="k")

    assert first.id == second.id
    assert second.status().total == count
    score_waiting(ledger)
    assert client.submit(sentences(count), idempotency_key="k").status().state is JobState.COMPLETED


@pytest.mark.parametrize(
    ("before", "after"), [(95, 96), (96, 95), (90, 100), (100, 90), (5, 6), (9000, 100), (100, 9000)]
)
def test_more_or_fewer_rows_under_the_same_key_are_refused(client, before, after):
    job = client.submit(sentences(before), idempotency_key="k")

    with pytest.raises(ContentConflictError):
        client.submit(sentences(after), idempotency_key="k")
    assert job.status().total == before


@pytest.mark.parametrize("count", [5, 95])
def test_another_text_under_the_same_key_is_refused(client, count):
    client.submit(sentences(count), idempotency_key="k")

    with pytest.raises(ContentConflictError, match="another key"):
        client.submit([*sentences(count - 1), "Another one."], idempotency_key="k")


def test_another_chunk_size_under_the_same_key_is_refused(client):
    client.submit(sentences(95), idempotency_key="k")

    with pytest.raises(ContentConflictError, match="chunk rows 10, got 20"):
        client.submit(sentences(95), idempotency_key="k", chunk_rows=20)


def test_other_reader_options_under_the_same_key_are_refused(client, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("a,text\nx,y\n")
    with Inputs.open([path]) as inputs:
        client.submit(inputs, idempotency_key="k")

    with (
        Inputs.open([path], ReaderOptions(text_field="text")) as inputs,
        pytest.raises(ContentConflictError, match="reader options"),
    ):
        client.submit(inputs, idempotency_key="k")


def test_an_upload_that_broke_off_goes_on_where_it_stopped(client, ledger, monkeypatch):
    """Promise 7: a producer that died in mid-upload is run again with the same key."""
    monkeypatch.setattr(producer.chunks, "CALL_ROWS", 50)
    rows = sentences(1000)

    def until_it_dies():
        yield from rows[:430]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.submit(until_it_dies(), idempotency_key="k")
    score_waiting(ledger, most_chunks=5)
    sent = []
    monkeypatch.setattr(Ledger, "add_chunks", _counted(Ledger.add_chunks, sent))
    job = client.submit(rows, idempotency_key="k")
    score_waiting(ledger)

    assert 500 < sum(sent) <= 1000 - 350
    assert [result.row for result in job.results()] == list(range(1, 1001))
    assert job.audit().is_clean


def test_an_upload_that_broke_off_refuses_other_rows(client, monkeypatch):
    monkeypatch.setattr(producer.chunks, "CALL_ROWS", 50)

    def until_it_dies():
        yield from sentences(430)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.submit(until_it_dies(), idempotency_key="k")

    with pytest.raises(ContentConflictError, match="chunk 0 differs"):
        client.submit([f"Other {n}." for n in range(430)], idempotency_key="k")


def _counted(method, sent: list[int]):
    def count(self, job_id, first_index, chunks):
        sent.append(sum(chunk.rows for chunk in chunks))
        return method(self, job_id, first_index, chunks)

    return count


# --- back-pressure ---


def test_an_upload_waits_while_the_lane_is_full_and_says_why(client, ledger, monkeypatch):
    monkeypatch.setattr(producer.chunks, "CALL_ROWS", 50)
    monkeypatch.setattr(producer.gate, "_POLL_S", 0.01)
    causes: list[str] = []
    most_waiting = 0

    def on_progress(progress: UploadProgress) -> None:
        nonlocal most_waiting
        most_waiting = max(most_waiting, ledger.pressure(Lane.BULK).backlog_rows)
        if progress.waiting_for:
            causes.append(progress.waiting_for)
            score_waiting(ledger, most_chunks=20)

    job = client.submit(sentences(1000), max_outstanding=200, on_progress=on_progress)

    assert "more than 200 (--max-outstanding)" in causes[0]
    assert most_waiting <= 250
    assert job.status().total == 1000


def test_an_upload_gives_up_at_its_time_out(client, monkeypatch):
    monkeypatch.setattr(producer.chunks, "CALL_ROWS", 50)

    with pytest.raises(NotFinishedError, match=r"gave up uploading: .* rows wait in lane bulk"):
        client.submit(sentences(1000), max_outstanding=100, timeout_s=0.3)


def test_a_full_redis_stops_uploads(client, monkeypatch):
    from scorequeue.records import Pressure

    monkeypatch.setattr(Ledger, "pressure", lambda self, lane: Pressure(0, 0.85))

    with pytest.raises(NotFinishedError, match=r"Redis uses 85% of its maxmemory, more than 80%"):
        client.submit(sentences(5), timeout_s=0.0)


def test_one_client_serves_several_threads(client, settings):
    ended = []

    def work(name: str) -> None:
        job = client.submit([(f"{name}-{n}", text) for n, text in enumerate(sentences(200))])
        job.wait(30)
        ended.append((name, {result.id.partition("-")[0] for result in job.results()}))

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    with scoring(settings):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(ended) == [(f"t{n}", {f"t{n}"}) for n in range(4)]


# --- audit ---


def test_an_audit_recounts_jobs_in_every_stage(client, ledger):
    job = client.submit(sentences(95))
    assert (job.audit().pending, job.audit().scored) == (95, 0)

    score_waiting(ledger, most_chunks=3)
    audit = job.audit()
    assert (audit.scored, audit.pending, audit.is_clean) == (30, 65, True)

    score_waiting(ledger)
    audit = job.audit()
    assert (audit.total, audit.scored, audit.chunks, audit.is_clean) == (95, 95, 10, True)


def test_an_audit_names_what_was_tampered_with(client, ledger, redis_url):
    """An audit that trusted the counters would see none of these."""
    import redis

    job = client.submit(sentences(95))
    score_waiting(ledger)
    results = ledger.keys.results(job.id)
    with redis.Redis.from_url(redis_url) as server:
        first, second = server.hmget(results, "0", "1")
        server.hset(results, "1", first)
        server.hdel(results, "2")
        server.hset(results, "3", second[:50])
        server.hincrby(ledger.keys.job(job.id), "scored", 1)
        differences = "\n".join(job.audit().differences)

    assert "chunk 1: expected rows from 11, its results begin with 1" in differences
    assert "chunk 2: committed with 10 rows, but its results are missing" in differences
    assert "chunk 3: expected a result" in differences
    assert "the counters say 96 scored, the recount 75" in differences


def test_an_audit_sees_a_chunk_that_nobody_can_score(client, ledger, redis_url):
    """Without its input a pending chunk is leased by nobody: the job would run for ever and look well."""
    import redis

    job = client.submit(sentences(95))
    score_waiting(ledger, most_chunks=2)
    with redis.Redis.from_url(redis_url) as server:
        server.hdel(ledger.keys.inputs(job.id), "3")

    (difference,) = job.audit().differences

    assert "chunk 3: 10 rows are pending, and their input is gone" in difference
    score_waiting(ledger)
    assert job.status().state is JobState.RUNNING, "the job of this test is not stuck"
    assert not job.audit().is_clean


@pytest.mark.parametrize("change", ["commit", "cancel"])
def test_an_audit_knows_work_that_went_on_from_work_that_is_lost(client, ledger, monkeypatch, change):
    """A commit takes a chunk's input away, and so does an early end: between two reads that is no difference."""
    job = client.submit(sentences(95))
    score_waiting(ledger, most_chunks=2)
    look = Ledger.missing_inputs

    def look_late(self: Ledger, job_id: str, indices: list[int]) -> list[int]:
        if change == "commit":
            score_waiting(ledger, most_chunks=3)
        else:
            ledger.cancel(job_id)
        return look(self, job_id, indices)

    monkeypatch.setattr(Ledger, "missing_inputs", look_late)
    audit = job.audit()

    assert audit.differences == ()
    assert (audit.scored, audit.pending) == (20, 75)


def test_an_audit_compares_what_is_pending(client, ledger, redis_url):
    """The status derives it from the other counters: their sum is right by itself, whatever they say."""
    import redis

    job = client.submit(sentences(95))
    with redis.Redis.from_url(redis_url) as server:
        server.hincrby(ledger.keys.job(job.id), "cancelled", 10)
        assert "the counters say 85 pending, the recount 95" in job.audit().differences

        server.hincrby(ledger.keys.job(job.id), "cancelled", 90)
        assert "the counters say -5 pending, the recount 95" in job.audit().differences
        assert "the counters account for 100 rows of 95" in job.audit().differences


def test_an_audit_of_a_completed_job_sees_records_that_are_pending(client, ledger, redis_url):
    import redis

    job = client.submit([f"{FAILS} {number}" for number in range(10)])
    score_waiting(ledger)
    with redis.Redis.from_url(redis_url) as server:
        rows, digest, *_, token = server.hget(ledger.keys.chunks(job.id), "0").split()
        server.hset(ledger.keys.chunks(job.id), "0", b" ".join([rows, digest, b"10 0 0 0 0 0", token]))

    assert job.audit().differences == ("the job is completed, and the records of its chunks have 10 rows pending",)


def test_an_audit_counts_what_it_does_not_name(client, ledger, redis_url):
    import redis

    job = client.submit(["Short."] * 300)
    score_waiting(ledger)
    with redis.Redis.from_url(redis_url) as server:
        server.delete(ledger.keys.results(job.id))

    audit = job.audit()

    assert audit.difference_count == 31
    assert len(audit.differences) == 21
    assert audit.differences[-1] == "and 11 more differences"
    assert audit.to_dict()["difference_count"] == 31
    assert not audit.is_clean


def test_an_audit_sees_rows_without_scores(client, ledger, redis_url):
    import redis

    job = client.submit(sentences(5))
    score_waiting(ledger)
    results = ledger.keys.results(job.id)
    with redis.Redis.from_url(redis_url) as server:
        decoded = codec.decode_result(server.hget(results, "0"))
        decoded.scores[2] = float("nan")
        server.hset(results, "0", codec.encode_result(decoded))

    assert "chunk 0: 1 rows have neither scores nor an error" in job.audit().differences


def test_results_that_vanish_are_no_empty_job(client, ledger, redis_url):
    import redis

    job = client.submit(sentences(95))
    score_waiting(ledger)
    with redis.Redis.from_url(redis_url) as server:
        server.delete(ledger.keys.results(job.id))

    with pytest.raises(JobNotFoundError, match="gone"):
        list(job.results())


@pytest.fixture
def slow_reader(settings: Settings) -> Iterator[Client]:
    """A client that reads two chunks a round trip, so that something may happen in between."""
    with Client(settings=settings.model_copy(update={"page_rows": 20})) as client:
        yield client


@pytest.mark.parametrize("end", ["cancelled", "still running"])
@pytest.mark.parametrize("how", ["deleted", "expired", "discarded"])
def test_results_that_vanish_while_read_are_no_short_download(slow_reader, ledger, redis_url, end, how):
    """A job that did not complete has rows without results: what vanished must not be taken for one of these."""
    import redis

    job = slow_reader.submit(sentences(95))
    score_waiting(ledger, most_chunks=8)
    if end == "cancelled":
        job.cancel()
    rows = job.results(partial=True)
    first = [next(rows) for _ in range(5)]

    if how == "deleted":
        job.delete()
    else:
        with redis.Redis.from_url(redis_url) as server:  # as Redis does when their time is over
            server.delete(*([ledger.keys.results(job.id)] if how == "discarded" else server.keys(f"*{job.id}*")))

    assert len(first) == 5
    with pytest.raises(JobNotFoundError, match="gone"):
        list(rows)


def test_joined_results_that_vanish_while_read_are_not_called_cancelled(slow_reader, ledger, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{text}\n" for text in sentences(95)))
    with Inputs.open([path]) as inputs:
        job = slow_reader.submit(inputs)
    score_waiting(ledger, most_chunks=8)
    job.cancel()

    reader = job.reader()
    with Inputs.reopen([path], reader.reader_options(), names=reader.status.source) as inputs:
        chunks = join(reader, inputs)
        next(chunks)
        job.discard()

        with pytest.raises(JobNotFoundError, match="gone"):
            list(chunks)


@pytest.mark.parametrize("partial", [False, True])
def test_a_job_that_ended_early_gives_all_that_it_has(slow_reader, ledger, partial):
    job = slow_reader.submit(sentences(95))
    score_waiting(ledger, most_chunks=4)
    if not partial:
        job.cancel()

    assert [result.row for result in job.results(partial=partial)] == list(range(1, 41))


def test_a_job_that_ended_in_the_middle_of_a_retry_gives_all_that_it_has(slow_reader, ledger):
    """Rows that were to be tried again are failed, and their results still say so."""
    job = slow_reader.submit([f"{FAILS} {number}" if number % 3 else "Good." for number in range(95)])
    score_waiting(ledger)
    job.retry()
    score_waiting(ledger, most_chunks=4, heal=True)

    between = list(job.results(partial=True))
    status = job.cancel()

    after = list(job.results())
    assert len(between) == len(after) == status.scored + status.failed == 95
    assert sum(result.error is not None for result in after) == status.failed > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"model_version": "no/such"},
            r"model_version: expected text that matches \^\[A-Za-z0-9._-\].*, got 'no/such'",
        ),
        ({"idempotency_key": "a\udcff"}, r"idempotency_key: expected text in UTF-8, got 'a\\udcff'"),
        ({"metadata": {"a": "\udcff"}}, r"metadata.a: expected text in UTF-8, got '\\udcff'"),
        ({"chunk_rows": 0}, "chunk_rows: expected more than 0, got 0"),
        ({"chunk_rows": 10**6}, "chunk_rows: expected at most 65536, got 1000000"),
        ({"max_outstanding": 0}, "max_outstanding: expected at least 1, got 0"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_in_our_words(client, given, said):
    """Pydantic's own say what a machine expected, and in whose class; the command refuses the same."""
    with pytest.raises(UsageError, match=f"^{said}$"):
        client.submit(["One."], **given)


def test_rows_in_a_dict_and_an_id_that_is_no_text_are_refused(client):
    with pytest.raises(UsageError, match="expected several rows, got a dict"):
        client.submit({"a": "One."})
    with pytest.raises(JobNotFoundError, match="expected a job id of 32 hex digits, as submit prints it, got None"):
        client.job(None)
