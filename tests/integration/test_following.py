"""Results while a job runs: in input order, to the end of the job, whatever end that is."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice

import pytest

import producer.chunks
from producer import Client, RowResult
from scorequeue.errors import JobDeletedError, JobNotFoundError, NotFinishedError
from scorequeue.jobs import JobState, Lane
from scorequeue.ledger import Ledger
from scorequeue.records import LaneRoom
from scorequeue.settings import Settings
from tests.integration.scoring import FAILS, VERSION, WORKER, score_chunk, score_waiting, scoring
from tests.servers import RedisServer
from tests.shell import Shell


@pytest.fixture
def settings(redis_url: str, namespace: str) -> Settings:
    return Settings(redis_url=redis_url, namespace=namespace, chunk_rows=10, page_rows=20)


def sentences(count: int) -> list[str]:
    return [f"Sentence number {n}." for n in range(1, count + 1)]


# --- the client ---


def test_rows_come_in_order_while_the_job_runs(client, ledger):
    job = client.submit(sentences(95))
    rows = job.follow(timeout_s=30)

    score_waiting(ledger, most_chunks=3)
    first = [row.row for row in islice(rows, 30)]
    assert job.status().state is JobState.RUNNING
    score_waiting(ledger)
    rest = [row.row for row in rows]

    assert first + rest == list(range(1, 96))


def test_a_chunk_that_is_done_early_waits_for_those_before_it(client, ledger):
    """Two workers do not end in input order; who follows must not notice."""
    job = client.submit(sentences(20), lane="bulk")
    rows = job.follow(timeout_s=30)
    claim = ledger.claim(WORKER, [LaneRoom(Lane.BULK, 1000, 2)], versions=[VERSION], default_version=VERSION)
    first, second = claim.chunks

    ledger.commit([score_chunk(second)])
    with pytest.raises(NotFinishedError, match="it goes on"):
        next(job.follow(timeout_s=0.3))
    ledger.commit([score_chunk(first)])

    assert [row.row for row in rows] == list(range(1, 21))


def test_rows_come_while_later_ones_are_still_uploaded(client, ledger, monkeypatch):
    """A job of hours is followed from its first minute."""
    monkeypatch.setattr(producer.chunks, "CALL_ROWS", 10)
    found: list[str] = []
    is_known, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        yield from sentences(100)
        go_on.wait(30)
        yield from sentences(20)

    def note(progress) -> None:
        if progress.job_id is not None:
            found[:] = [progress.job_id]
            is_known.set()

    upload = threading.Thread(target=client.submit, args=(slow(),), kwargs={"on_progress": note})
    upload.start()
    assert is_known.wait(30)
    rows = client.job(found[0]).follow(timeout_s=30)
    score_waiting(ledger, most_chunks=2)

    first = list(islice(rows, 20))
    go_on.set()
    upload.join()
    score_waiting(ledger)

    assert [row.row for row in [*first, *rows]] == list(range(1, 121))


def test_a_cancelled_job_ends_with_what_there_is(client, ledger):
    job = client.submit(sentences(95))
    score_waiting(ledger, most_chunks=3)
    rows = job.follow(timeout_s=30)

    first = list(islice(rows, 5))
    job.cancel()

    assert len(first) + len(list(rows)) == 30


def test_a_job_that_is_tried_again_is_followed_to_the_end_of_that(client, ledger):
    """What failed before is not written as if it were the outcome."""
    texts = sentences(40)
    texts[14] = FAILS
    job = client.submit(texts)
    score_waiting(ledger)
    assert job.retry() == 1
    rows = job.follow(timeout_s=30)

    assert [row.row for row in islice(rows, 10)] == list(range(1, 11))
    with pytest.raises(NotFinishedError):
        list(job.follow(timeout_s=0.3))
    score_waiting(ledger, heal=True)
    rest = list(rows)

    assert [row.row for row in rest] == list(range(11, 41))
    assert all(row.error is None for row in rest)


def test_a_deleted_job_ends_the_following_with_its_name(client, ledger):
    job = client.submit(sentences(95))
    score_waiting(ledger, most_chunks=2)
    rows = job.follow(timeout_s=30)
    list(islice(rows, 20))

    job.delete()

    with pytest.raises(JobDeletedError, match=job.id):
        list(rows)


def test_results_that_were_discarded_are_said_to_be(client, ledger):
    job = client.submit(sentences(20))
    score_waiting(ledger)
    rows = job.follow()
    next(rows)
    job.discard()

    with pytest.raises(JobNotFoundError, match=r"discarded"):
        list(client.job(job.id).follow())


def test_columns_are_those_of_the_results(client, settings):
    job = client.submit([*sentences(95), "", FAILS])
    with scoring(settings):
        followed = list(job.follow_chunks(timeout_s=30))

    assert followed == list(job.result_chunks())


def test_a_follower_outlasts_a_restart_of_redis(tmp_path):
    """Who follows a job of hours must not lose his place because Redis was updated."""
    with RedisServer(tmp_path) as server:
        settings = Settings(redis_url=server.url, namespace="n", chunk_rows=10)
        with Client(settings=settings) as client:
            job = client.submit(sentences(95))
            ledger = Ledger.connect(settings)
            score_waiting(ledger, most_chunks=3)
            rows = job.follow(timeout_s=60)
            first = list(islice(rows, 30))
            server.kill()
            rest: list[RowResult] = []
            follower = threading.Thread(target=lambda: rest.extend(rows))
            follower.start()
            server.start()
            score_waiting(ledger)
            follower.join(60)
            ledger.close()

    assert [row.row for row in [*first, *rest]] == list(range(1, 96))


# --- the command ---


def following(sh: Shell, *args: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return sh.start("results", *args, "--follow")


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_lines_are_written_as_soon_as_their_chunk_is_done(client, ledger, sh):
    job = client.submit(sentences(95))
    with following(sh, job.id) as process:
        score_waiting(ledger, most_chunks=1)
        first = lines_of(process, 10)
        assert process.poll() is None
        score_waiting(ledger)
        rest, said = process.communicate(timeout=30)

    assert process.returncode == 0, said
    assert "".join(first) + rest == sh("results", job.id).stdout


@pytest.mark.parametrize(
    "args",
    [
        ["--format", "csv"],
        ["--format", "tsv", "--errors"],
        ["--format", "table"],
        ["--join", "in.csv"],
        ["--join", "in.csv", "--format", "table"],
    ],
    ids=" ".join,
)
def test_every_format_is_followed_as_it_would_be_downloaded(sh, settings, args):
    sh.write("in.csv", "text\n" + "".join(f"{text}\n" for text in sentences(50)) + '\n""\n' + FAILS + "\n")
    job_id = sh("submit", "in.csv", "--chunk-rows", "7").stdout.strip()

    with following(sh, job_id, *args) as process, scoring(settings):
        out, said = process.communicate(timeout=30)

    assert process.returncode == 0, said
    assert out == sh("results", job_id, *args).stdout
    assert len(out.splitlines()) > 1


def test_a_followed_file_appears_once_it_is_whole(client, ledger, sh):
    job = client.submit(sentences(30))
    with following(sh, job.id, "--output", "out.csv") as process:
        score_waiting(ledger, most_chunks=1)
        assert not (sh.folder / "out.csv").exists()
        score_waiting(ledger)
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert len((sh.folder / "out.csv").read_text().splitlines()) == 31


def test_a_named_pipe_gets_rows_while_the_job_runs(client, ledger, sh):
    job = client.submit(sentences(30))
    os.mkfifo(sh.folder / "pipe")
    with following(sh, job.id, "--output", "pipe", "--format", "csv") as process, open(sh.folder / "pipe") as pipe:
        score_waiting(ledger, most_chunks=1)
        head = [pipe.readline() for _ in range(11)]
        assert process.poll() is None
        score_waiting(ledger)
        rest = pipe.readlines()
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert head[10].startswith("10,")
    assert len(rest) == 20


def test_a_reader_that_goes_away_ends_it_though_nothing_is_written(client, ledger, sh):
    """``results --follow | head`` must not wait for the next chunk of a job of hours."""
    job = client.submit(sentences(30))
    score_waiting(ledger, most_chunks=1)
    with following(sh, job.id) as process:
        lines_of(process, 10)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == 141

    assert "Error" not in said
    assert job.status().state is JobState.RUNNING


def test_an_interrupted_follower_says_how_to_come_back(client, ledger, sh):
    job = client.submit(sentences(30))
    score_waiting(ledger, most_chunks=1)
    with following(sh, job.id) as process:
        lines_of(process, 10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert f"Interrupted. Job {job.id} goes on; see: producer results {job.id} --follow" in said


def test_a_job_deleted_meanwhile_is_exit_5(client, ledger, sh):
    job = client.submit(sentences(30))
    score_waiting(ledger, most_chunks=1)
    with following(sh, job.id) as process:
        lines_of(process, 10)
        job.delete()
        _, said = process.communicate(timeout=30)

    assert process.returncode == 5
    assert f"no job {job.id}" in said
    assert "it was deleted" in said


@pytest.mark.parametrize("other", [["--partial"], ["--discard", "--output", "out.csv"]])
def test_following_does_not_go_with_what_needs_an_end_or_none(sh, other):
    assert "--follow" in sh.error("results", "0" * 32, "--follow", *other, code=2)
