"""What may be done to a job after it was submitted: list, cancel, retry, discard, delete, through the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import producer.chunks
import producer.upload
from producer import Client
from producer.cli.root import _TERMINATED
from producer.upload import UploadProgress
from scorequeue.errors import (
    ContentConflictError,
    ExitCode,
    JobClosedError,
    JobNotFoundError,
    NotFinishedError,
    ResultsChangedError,
    UsageError,
)
from scorequeue.jobs import ErrorCode, JobState
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.integration.scoring import FAILS, score_of, score_waiting
from tests.processes import until
from tests.servers import RedisServer
from tests.shell import Shell

MIXED = f"a good one\n{FAILS}, first\n\nanother good one\n{FAILS}, second\n"


@pytest.fixture
def settings(redis_url: str, namespace: str) -> Settings:
    return Settings(redis_url=redis_url, namespace=namespace, chunk_rows=2)


@pytest.fixture
def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads of a few hundred rows take several calls."""
    monkeypatch.setattr(producer.chunks, "CALL_ROWS", 50)


def status(sh: Shell, job_id: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(sh("status", job_id, "--json").stdout)
    return found


def counts(sh: Shell, job_id: str) -> tuple[object, ...]:
    found = status(sh, job_id)
    return tuple(found[name] for name in ("scored", "failed", "cancelled", "pending"))


# --- list ---


def test_jobs_are_listed_newest_first_and_by_state(sh: Shell, ledger: Ledger) -> None:
    old = sh("submit", "--text", "a").stdout.strip()
    score_waiting(ledger)
    new = sh("submit", "--text", "b").stdout.strip()

    everything = [json.loads(line) for line in sh("list", "--json").stdout.splitlines()]
    waiting = sh("list", "--state", "queued", "--state", "running").stdout.splitlines()

    assert [job["id"] for job in everything] == [new, old]
    assert everything[1] == status(sh, old)
    assert [line.split()[0] for line in waiting] == ["job", new]
    assert len(sh("list", "--limit", "1", "--json").stdout.splitlines()) == 1


def test_a_list_shows_a_job_whose_deadline_has_passed_as_expired(sh: Shell, ledger: Ledger, redis_url: str) -> None:
    """No worker lives to end it, and nobody has asked for its status."""
    job_id = sh("submit", "--text", "a", "--deadline", "1h").stdout.strip()
    with redis.Redis.from_url(redis_url) as raw:
        raw.hset(ledger.keys.job(job_id), "deadline", 1)
        raw.zadd(f"{ledger.keys.prefix}deadlines", {job_id: 1})

    assert [job_id in sh("list", "--state", state).stdout for state in ("expired", "queued")] == [True, False]


def test_a_job_of_many_files_keeps_its_line_short(sh: Shell, client: Client) -> None:
    """One of 2,000 files made a line of tens of thousands of characters; a program still gets all names."""
    job = client.submit(["a"], source=[f"f{number}.csv" for number in range(1, 2001)])

    assert sh("list").stdout.splitlines()[1].endswith("f1.csv and 1,999 more")
    assert "f1.csv and 1,999 more\n" in sh("status", job.id).stdout
    assert len(json.loads(sh("list", "--json").stdout)["source"]) == 2000


def test_an_empty_list_is_said(sh: Shell) -> None:
    done = sh("list")

    assert (done.stdout, done.stderr) == ("", "no jobs\n")


# --- cancel ---


def test_cancel_keeps_what_is_done_and_counts_the_rest(sh: Shell, ledger: Ledger) -> None:
    job_id = sh("submit", "--chunk-rows", "2", *(part for text in "abcdef" for part in ("--text", text))).stdout.strip()
    score_waiting(ledger, most_chunks=1)

    done = sh("cancel", job_id)

    assert "2 rows scored, 0 failed, 4 cancelled" in done.stderr
    assert status(sh, job_id)["state"] == "cancelled"
    assert counts(sh, job_id) == (2, 0, 4, 0)
    assert [json.loads(line)["row"] for line in sh("results", job_id).stdout.splitlines()] == [1, 2]
    assert "every row is accounted for once" in sh("audit", job_id).stdout
    assert score_waiting(ledger) == 0


def test_cancel_of_an_ended_job_changes_nothing(sh: Shell, ledger: Ledger) -> None:
    job_id = sh("submit", "--text", "a").stdout.strip()
    score_waiting(ledger)

    assert json.loads(sh("cancel", job_id, "--json").stdout)["state"] == "completed"


# --- retry ---


def test_retry_scores_what_failed_in_the_model_and_nothing_else(sh: Shell, ledger: Ledger) -> None:
    sh.write("in.txt", MIXED)
    job_id = sh("submit", "in.txt", "--chunk-rows", "2").stdout.strip()
    score_waiting(ledger)
    before = {row["row"]: row for row in map(json.loads, sh("results", job_id).stdout.splitlines())}
    assert counts(sh, job_id) == (2, 3, 0, 0)

    assert "2 rows" in sh("retry", job_id).stderr
    between = counts(sh, job_id)
    assert "every row is accounted for once" in sh("audit", job_id).stdout
    score_waiting(ledger, heal=True)

    after = {row["row"]: row for row in map(json.loads, sh("results", job_id).stdout.splitlines())}
    assert between == (2, 1, 0, 2)
    assert counts(sh, job_id) == (4, 1, 0, 0)
    expected = [score_of(f"{FAILS}, {which}") for which in ("first", "second")]
    assert [after[row]["scores"]["acceptable"] for row in (2, 5)] == expected
    assert after[2]["model_version"] == before[1]["model_version"]
    assert after[3]["error"]["code"] == ErrorCode.EMPTY_TEXT
    assert {row: after[row] for row in (1, 3, 4)} == {row: before[row] for row in (1, 3, 4)}
    assert "every row is accounted for once" in sh("audit", job_id).stdout
    assert json.loads(sh("retry", job_id, "--json").stdout)["retried"] == 0


def test_a_row_may_fail_again_and_be_tried_again(sh: Shell, ledger: Ledger) -> None:
    sh.write("in.txt", MIXED)
    job_id = sh("submit", "in.txt", "--chunk-rows", "2").stdout.strip()
    score_waiting(ledger)

    for _ in range(2):
        sh("retry", job_id)
        score_waiting(ledger)
        assert counts(sh, job_id) == (2, 3, 0, 0)
        assert "every row is accounted for once" in sh("audit", job_id).stdout
    sh("retry", job_id)
    score_waiting(ledger, heal=True)

    assert counts(sh, job_id) == (4, 1, 0, 0)


def test_cancelled_retry_leaves_rows_failed_as_they_were(sh: Shell, ledger: Ledger) -> None:
    """Their results still say why they failed: they must not count as cancelled, which have none."""
    sh.write("in.txt", MIXED)
    job_id = sh("submit", "in.txt", "--chunk-rows", "2").stdout.strip()
    score_waiting(ledger)
    sh("retry", job_id)
    score_waiting(ledger, most_chunks=1, heal=True)

    sh("cancel", job_id)

    assert counts(sh, job_id) == (3, 2, 0, 0)
    assert "every row is accounted for once" in sh("audit", job_id).stdout


def test_results_of_a_retried_job_do_not_expire_meanwhile(sh: Shell, ledger: Ledger, redis_url: str) -> None:
    sh.write("in.txt", MIXED)
    job_id = sh("submit", "in.txt", "--ttl", "1h").stdout.strip()
    score_waiting(ledger)
    keys = [
        ledger.keys.job(job_id),
        ledger.keys.chunks(job_id),
        ledger.keys.results(job_id),
        ledger.keys.inputs(job_id),
    ]
    with redis.Redis.from_url(redis_url) as raw:
        assert all(raw.ttl(key) > 0 for key in keys)

        sh("retry", job_id)

        assert [raw.ttl(key) for key in keys] == [-1] * 4


@pytest.mark.parametrize(("end", "code"), [("cancel", ExitCode.USAGE), (None, ExitCode.NOT_FINISHED)])
def test_only_a_completed_job_is_retried(sh: Shell, end: str | None, code: ExitCode) -> None:
    job_id = sh("submit", "--text", "a").stdout.strip()
    if end is not None:
        sh(end, job_id)

    sh.error("retry", job_id, code=code)


# --- discard ---


def test_discard_empties_redis_once_the_file_is_written(sh: Shell, ledger: Ledger, redis_url: str) -> None:
    sh.write("in.txt", MIXED)
    job_id = sh("submit", "in.txt", "--chunk-rows", "2").stdout.strip()
    score_waiting(ledger)

    sh("results", job_id, "--discard", "--output", "out.jsonl")

    assert len((sh.folder / "out.jsonl").read_text().splitlines()) == 5
    with redis.Redis.from_url(redis_url) as raw:
        assert raw.exists(ledger.keys.results(job_id), ledger.keys.inputs(job_id)) == 0
    audit = sh("audit", job_id).stdout
    assert "results of 3 chunks were discarded" in audit
    assert "every row is accounted for once" in audit
    assert counts(sh, job_id) == (2, 3, 0, 0)
    assert "discarded" in sh.error("results", job_id, code=ExitCode.NO_SUCH_JOB)
    assert "discarded" in sh.error("retry", job_id, code=ExitCode.NO_SUCH_JOB)


def test_discard_after_a_cancel_is_audited_too(sh: Shell, ledger: Ledger) -> None:
    job_id = sh("submit", "--chunk-rows", "1", "--text", "a", "--text", "b", "--text", "c").stdout.strip()
    score_waiting(ledger, most_chunks=2)
    sh("cancel", job_id)

    sh("results", job_id, "--discard", "--output", "out.jsonl")

    audit = json.loads(sh("audit", job_id, "--json").stdout)
    assert (audit["scored"], audit["cancelled"], audit["discarded"], audit["is_clean"]) == (2, 1, 2, True)


def try_again(client: Client, ledger: Ledger, job_id: str) -> None:
    """What another terminal does while somebody reads the results."""
    client.job(job_id).retry()
    score_waiting(ledger, heal=True)


def test_discard_spares_results_that_were_never_read(client: Client, ledger: Ledger) -> None:
    """Between the download and the discard a retry may have completed the job again."""
    job = client.submit(["a good one", f"{FAILS}, once"])
    score_waiting(ledger)
    read = list(job.results())
    try_again(client, ledger, job.id)

    with pytest.raises(ResultsChangedError, match="read them again") as refusal:
        job.discard()

    assert refusal.value.exit_code is ExitCode.NOT_FINISHED
    assert [row.error is None for row in read] == [True, False]
    assert [row.error is None for row in job.results()] == [True, True]
    assert job.discard() == 1
    assert job.discard() == 1, "the same discard again changes nothing"


def test_discard_waits_for_a_retry_that_runs(client: Client, ledger: Ledger) -> None:
    job = client.submit([f"{FAILS}, once"])
    score_waiting(ledger)
    list(job.results())
    client.job(job.id).retry()

    with pytest.raises(NotFinishedError, match="queued"):
        job.discard()


def test_discard_knows_what_was_read_from_what_was_asked_later(client: Client, ledger: Ledger) -> None:
    """A status that is asked for after the download says nothing of what the download saw."""
    job = client.submit(["a good one", f"{FAILS}, once"])
    score_waiting(ledger)
    list(job.results())
    job.retry()
    score_waiting(ledger, heal=True)
    job.wait(timeout_s=10)

    with pytest.raises(ResultsChangedError):
        job.discard()


def test_discard_spares_what_a_retry_replaced_while_it_was_followed(client: Client, ledger: Ledger) -> None:
    """The first end of the job may pass while its follower is busy: the second is not that of what was read."""
    job = client.submit([f"{FAILS}, once", "a good one"], chunk_rows=1)
    score_waiting(ledger, most_chunks=1)
    rows = job.follow(timeout_s=30)
    read = [next(rows)]
    score_waiting(ledger)
    try_again(client, ledger, job.id)
    read += rows

    with pytest.raises(ResultsChangedError, match="read them again"):
        job.discard()

    assert [row.error is None for row in read] == [False, True]
    assert [row.error is None for row in job.results()] == [True, True]
    assert job.discard() == 2


def test_discard_takes_what_was_followed_to_the_end(client: Client, ledger: Ledger) -> None:
    """A retry before the following began is no reason to refuse."""
    job = client.submit([f"{FAILS}, once", "a good one"], chunk_rows=1)
    score_waiting(ledger)
    job.retry()
    rows = job.follow(timeout_s=30)
    score_waiting(ledger, heal=True)
    assert [row.error for row in rows] == [None, None]

    assert job.discard() == 2


def test_discard_does_not_take_what_was_not_followed_to_the_end(client: Client, ledger: Ledger) -> None:
    job = client.submit(["one", "two"], chunk_rows=1)
    score_waiting(ledger, most_chunks=1)
    next(job.follow(timeout_s=30))
    score_waiting(ledger)

    with pytest.raises(ResultsChangedError):
        job.discard()


@pytest.mark.parametrize(
    "args", [[], ["--output", "-"], ["--output", "o.csv", "--errors"], ["--output", "o.csv", "--partial"]]
)
def test_discard_without_a_whole_copy_on_disk_is_refused(sh: Shell, ledger: Ledger, args: list[str]) -> None:
    job_id = sh("submit", "--text", "a").stdout.strip()
    score_waiting(ledger)

    sh.error("results", job_id, "--discard", *args, code=ExitCode.USAGE)

    assert len(sh("results", job_id).stdout.splitlines()) == 1


# --- delete ---


def test_delete_leaves_nothing_behind(sh: Shell, ledger: Ledger, redis_url: str) -> None:
    waiting = sh("submit", "--text", "a", "--idempotency-key", "k").stdout.strip()
    ended = sh("submit", "--text", "b").stdout.strip()
    score_waiting(ledger, most_chunks=1)

    for job_id in (waiting, ended):
        sh("delete", job_id)

    with redis.Redis.from_url(redis_url) as raw:
        found = raw.keys(f"{ledger.keys.prefix}*")
        assert [key for key in found if waiting.encode() in key or ended.encode() in key or b":key:" in key] == []
    assert sh("list").stdout == ""
    assert "deleted" in sh.error("status", ended, code=ExitCode.NO_SUCH_JOB)
    assert "already deleted" in sh("delete", ended).stderr
    assert score_waiting(ledger) == 0
    assert sh("submit", "--text", "a", "--idempotency-key", "k").stdout.strip() != waiting


def test_an_upload_does_not_bring_a_deleted_job_back(client: Client, settings: Settings) -> None:
    def rows() -> Iterator[str]:
        for number in range(40_000):
            if number == 30_000:  # in mid-upload, as if from another terminal
                (job,) = client.jobs()
                client.job(job.id).delete()
            yield f"sentence {number}"

    with pytest.raises(JobNotFoundError, match="deleted"):
        client.submit(rows())

    assert client.jobs() == []


@pytest.mark.parametrize("command", ["cancel", "retry", "delete"])
def test_a_job_that_is_not_there_is_exit_5(sh: Shell, command: str) -> None:
    sh.error(command, "0" * 32, code=ExitCode.NO_SUCH_JOB)


# --- an upload that ends early ---


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, _TERMINATED)])
def test_an_upload_that_is_told_to_end_leaves_no_job_and_no_file(
    sh: Shell, client: Client, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    """Nobody could go on with it: it has no key, and what was on standard input is gone."""
    (tmp_path / "spool").mkdir()
    reader, writer = os.pipe()
    process = subprocess.Popen(
        sh.command("submit", "--wait", "--join", "--chunk-rows", "2"),
        stdin=reader,
        stdout=subprocess.DEVNULL,
        env=sh.env | {"TMPDIR": str(tmp_path / "spool")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(reader)
    os.write(writer, b"one\n" * 4)
    until(lambda: any((tmp_path / "spool").iterdir()), what="a spool")

    process.send_signal(signum)

    assert process.wait(20) == code
    os.close(writer)
    assert list((tmp_path / "spool").iterdir()) == []
    assert client.jobs() == []


def test_an_interrupted_upload_without_a_key_is_taken_back(client: Client) -> None:
    def rows() -> Iterator[str]:
        for number in range(40_000):
            if number == 30_000:
                raise KeyboardInterrupt
            yield f"sentence {number}"

    with pytest.raises(KeyboardInterrupt):
        client.submit(rows())
    assert client.jobs() == []
    with pytest.raises(KeyboardInterrupt):
        client.submit(rows(), idempotency_key="k")

    (left,) = client.jobs()
    assert left.state is JobState.SUBMITTING


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_job_that_ends_in_mid_upload_keeps_what_was_scored(
    client: Client, ledger: Ledger, redis_url: str, end: str, short_calls: None
) -> None:
    """The uploader used to take it away, and the scored rows with it."""

    def rows() -> Iterator[str]:
        for number in range(400):
            if number == 300:
                (job,) = client.jobs()
                score_waiting(ledger, most_chunks=5)
                if end == "cancel":
                    ledger.cancel(job.id)
                else:
                    with redis.Redis.from_url(redis_url) as raw:
                        raw.hset(ledger.keys.job(job.id), "deadline", 1)
                        raw.zadd(f"{ledger.keys.prefix}deadlines", {job.id: 1})
                    ledger.sweep()
            yield f"sentence {number}"

    with pytest.raises(JobClosedError, match="ended as"):
        client.submit(rows())

    (left,) = client.jobs()
    assert left.state is (JobState.CANCELLED if end == "cancel" else JobState.EXPIRED)
    assert left.scored == 10
    assert len(list(client.job(left.id).results())) == 10


@pytest.mark.parametrize("error", [ZeroDivisionError, NotFinishedError])
def test_an_upload_whose_rows_raise_is_taken_back(client: Client, error: type[Exception], short_calls: None) -> None:
    """Scored for nobody, its rows would count in the very backlog that holds others back."""

    def rows() -> Iterator[str]:
        for number in range(400):
            if number == 300:
                raise error
            yield f"sentence {number}"

    with pytest.raises(error):
        client.submit(rows())

    assert client.jobs() == []


def test_an_upload_that_gave_up_waiting_for_room_is_taken_back(client: Client, short_calls: None) -> None:
    with pytest.raises(NotFinishedError):
        client.submit([f"sentence {number}" for number in range(400)], max_outstanding=100, timeout_s=0.5)

    assert client.jobs() == []


def test_an_upload_that_is_held_back_does_not_expire(
    client: Client, ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch, short_calls: None
) -> None:
    """With workers away for more than an hour, the first one that came back expired the job of a waiting producer."""
    monkeypatch.setattr(producer.upload, "TOUCH_EVERY_S", 0.05)
    waits = 0

    def on_progress(progress: UploadProgress) -> None:
        nonlocal waits
        if progress.waiting_for is None:
            return
        waits += 1
        if waits <= 3:  # an hour is over
            with redis.Redis.from_url(redis_url) as raw:  # not asked for by a list, which would end it
                (job_id,) = raw.zrange(ledger.keys.jobs, 0, -1)
                raw.zadd(f"{ledger.keys.prefix}deadlines", {job_id: 1})
        elif waits >= 5:
            score_waiting(ledger)

    job = client.submit((f"row {number}" for number in range(400)), max_outstanding=100, on_progress=on_progress)
    score_waiting(ledger)

    assert waits >= 5
    assert job.status().state is JobState.COMPLETED


def test_a_keyed_upload_that_ended_early_is_not_taken_for_whole(
    client: Client, ledger: Ledger, short_calls: None
) -> None:
    """Killed behind its last chunk and cancelled then: the same command used to print its id and exit 0."""

    def rows() -> Iterator[str]:
        yield from (f"sentence {number}" for number in range(400))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.submit(rows(), idempotency_key="k")
    (left,) = client.jobs()
    ledger.cancel(left.id)

    with pytest.raises(JobClosedError):
        client.submit((f"sentence {number}" for number in range(400)), idempotency_key="k")


def test_waiting_for_a_job_of_files_sends_it_again_when_redis_has_lost_it(
    sh: Shell, client: Client, ledger: Ledger, redis_url: str
) -> None:
    """Power loss may take a job that was acknowledged in the last second: a producer that waits still has it."""
    sh.write("in.txt", "one\ntwo\nthree\n")
    command = sh.command("submit", "in.txt", "--wait", "--format", "jsonl")
    process = subprocess.Popen(command, cwd=sh.folder, env=sh.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: bool(client.jobs()), what="a submitted job")
    (job,) = client.jobs()

    with redis.Redis.from_url(redis_url) as raw:
        raw.delete(*raw.keys(f"{ledger.keys.prefix}*"))  # all that this ledger knows
    until(lambda: [found.id for found in client.jobs()] == [job.id], what="the job being there again")
    score_waiting(ledger)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0, err
    assert [json.loads(line)["row"] for line in out.splitlines()] == [1, 2, 3]
    assert b"sent again" in err


def test_progress_names_the_job_as_soon_as_it_is_whole(client: Client, short_calls: None) -> None:
    """Whoever interrupts the command behind its last row used to be told that nothing keeps the job."""
    seen: list[UploadProgress] = []
    job = client.submit((f"sentence {number}" for number in range(400)), on_progress=seen.append)

    assert [state.whole_job for state in seen if state.whole_job] == [job.id]
    assert seen[-1].whole_job == job.id
    single = client.submit(["one"], on_progress=seen.append)
    assert seen[-1].whole_job == single.id


# --- what would harm the namespace, or a terminal ---


@pytest.mark.parametrize("option", ["ttl_s", "deadline_s"])
@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e16, 0])
def test_times_that_no_ledger_could_hold_are_refused(client: Client, option: str, seconds: float) -> None:
    """One such job used to break the list for everybody, and the script that ended it half-way."""
    with pytest.raises(UsageError, match=option):
        client.submit(["one"], **{option: seconds})  # type: ignore[arg-type]

    assert client.jobs() == []


def test_metadata_that_could_not_be_printed_again_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        client.submit(["one"], metadata={"a": "\udcff"})


def test_control_characters_are_shown_and_not_obeyed(sh: Shell) -> None:
    job_id = sh("submit", "--text", "a", "--metadata", "b=\x1b[2J\nstate  completed").stdout.strip()

    out = sh("status", job_id).stdout

    assert r"b=\x1b[2J\nstate  completed" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("state ")] == ["queued"]
    assert status(sh, job_id)["metadata"] == {"b": "\x1b[2J\nstate  completed"}


def test_the_key_of_a_cancelled_job_says_so(client: Client, ledger: Ledger) -> None:
    """Printing its id and exit 0 looked like rows on their way."""
    job = client.submit(["a", "b"], idempotency_key="k")
    ledger.cancel(job.id)

    with pytest.raises(JobClosedError, match=f"job {job.id} has this idempotency key and is cancelled"):
        client.submit(["a", "b"], idempotency_key="k")


def test_a_producer_that_was_cut_short_by_another_learns_that_it_shares_a_key(
    client: Client, short_calls: None
) -> None:
    def rows() -> Iterator[str]:
        for number in range(400):
            if number == 300:  # what has arrived by now, as another producer's whole input
                (job,) = client.jobs()
                client.submit([f"sentence {n}" for n in range(job.total)], idempotency_key="k")
            yield f"sentence {number}"

    with pytest.raises(ContentConflictError, match="another producer sent other input under the same idempotency key"):
        client.submit(rows(), idempotency_key="k")


def test_status_and_audit_read_a_replica(tmp_path: Path, client: Client, ledger: Ledger, settings: Settings) -> None:
    """They used to try for five minutes: a status takes expired leases back, and a replica takes no writes."""
    job = client.submit(["a", "b"])
    source = redis.connection.parse_url(settings.redis_url)
    with RedisServer(tmp_path, "--replicaof", str(source["host"]), str(source["port"])) as replica:
        until(lambda: _has_copy(replica.url, ledger.keys.job(job.id)), what="a copy of the job")
        with Client(settings=settings.model_copy(update={"redis_url": replica.url})) as reader:
            assert reader.job(job.id).status().state is JobState.QUEUED
            assert reader.job(job.id).audit().is_clean
            assert [listed.id for listed in reader.jobs()] == [job.id]
        replica.kill()  # it has nothing to tidy up, and 6.2 takes its time


def _has_copy(url: str, key: str) -> bool:
    with redis.Redis.from_url(url) as raw:
        try:
            return bool(raw.exists(key))
        except redis.exceptions.BusyLoadingError:  # the whole copy comes at once
            return False
