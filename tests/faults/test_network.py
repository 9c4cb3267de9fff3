"""Connections are cut, bytes vanish, wake-ups get lost: promises 1, 2 and 3 of docs/reliability.md."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scorequeue.jobs import JobState, Lane
from scorequeue.queue import SCORE_TASK, make_app
from scorequeue.records import MOST_WAKE_UPS
from tests.faults.proxy import Proxy
from tests.faults.stage import Stage, check_rows, recovery, sentences, settle, until_scored
from tests.faults.submit import Submit
from tests.processes import until
from tests.shell import Shell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_connections_are_cut(stage: Stage) -> None:
    """A load balancer that drops idle or busy connections: everything connects anew, and no lease runs out."""
    texts = sentences(40_000)
    with Proxy(stage.server.port) as proxy:
        worker = stage.start_worker(rows_per_s=3_000, url=proxy.url)
        job = stage.client.submit(texts)
        until_scored(job)
        for _ in range(5):
            proxy.cut()
            scored = job.status().scored
            with recovery(stage):
                until_scored(job, scored + 1)

        settle(stage, job, texts)
    assert worker.is_running


def test_black_hole(stage: Stage) -> None:
    """Bytes vanish, no connection ends, past the lease: another worker takes over, the lost one's work is refused."""
    texts = sentences(12_000)
    with Proxy(stage.server.port) as proxy:
        cut_off = stage.start_worker(rows_per_s=1_000, url=proxy.url)
        job = stage.client.submit(texts)
        until_scored(job)
        worker_id = cut_off.worker_id()

        proxy.black_hole()
        stage.start_worker(rows_per_s=4_000)
        with recovery(stage):
            until(lambda: stage.held_by(worker_id) == 0, what="its work being taken up again")
        until(lambda: "action=redis_away" in stage.log_of(cut_off), what="a worker that noticed")
        proxy.let_through()

        settle(stage, job, texts)
        until(lambda: "action=redis_back" in stage.log_of(cut_off), timeout_s=60, what="a worker that is back")
    assert cut_off.is_running


def test_answers_of_claims_are_lost(stage: Stage) -> None:
    """What a claim leased without its worker's knowing goes back as soon as Redis answers, and counts as no death."""
    texts = sentences(8_000)
    with Proxy(stage.server.port) as proxy:
        worker = stage.start_worker(rows_per_s=2_000, url=proxy.url)
        worker_id = worker.worker_id()
        proxy.lose_large_answer(2_000)
        job = stage.client.submit(texts)
        until(lambda: stage.held_by(worker_id) > 0, what="a claim that was executed")
        until(lambda: "action=redis_away" in stage.log_of(worker), what="a worker that noticed")
        proxy.let_through()
        with recovery(stage):
            until_scored(job)

        settle(stage, job, texts)
    assert "action=claims_voided" in stage.log_of(worker)
    assert stage.meta("expired") == 0


def test_wake_ups_are_deleted_and_doubled(stage: Stage) -> None:
    """They say nothing: without any, work starts with the next look of the poller; too many do nothing twice."""
    texts = sentences(3_000)
    raw, app = stage.redis(), make_app(stage.settings)
    queues = [stage.ledger.keys.wake_ups(lane) for lane in Lane]
    worker = stage.start_worker()
    worker.pause()
    job = stage.client.submit(texts)
    assert raw.delete(*queues) > 0
    worker.resume()
    with recovery(stage):
        until_scored(job)
    settle(stage, job, texts)

    for _ in range(500):
        app.send_task(SCORE_TASK, args=("bulk",), queue="bulk")
    again = stage.client.submit(texts)
    raw.delete(*queues)

    settle(stage, again, texts)
    until(lambda: sum(raw.llen(queue) for queue in queues) == 0, what="all wake-ups being read")
    app.close()


def test_wake_ups_do_not_pile_up_while_no_worker_reads_them(stage: Stage) -> None:
    """Hundreds of jobs that no worker scores must not fill Redis with messages that all say the same."""
    worker = stage.start_worker()
    worker.pause()
    jobs = [stage.client.submit([text]) for text in sentences(200)]
    waiting = stage.redis().llen(stage.ledger.keys.wake_ups(Lane.EXPRESS))

    worker.resume()
    for job in jobs:
        job.wait(timeout_s=30)

    assert 0 < waiting <= MOST_WAKE_UPS
    stage.account.rows = stage.account.scored = len(jobs)


@pytest.mark.parametrize("years", [-30, 30], ids=["behind", "ahead"])
def test_client_with_a_wrong_clock(stage: Stage, years: int, tmp_path: Path) -> None:
    """Time comes from Redis: deadlines, expiry and order do not care for a client's clock."""
    shell = Shell(tmp_path, stage.settings)
    shift = tmp_path / "wrong_clock.py"
    shift.write_text(
        "import sys, time\n"
        f"shift_s = {years} * 365 * 86_400\n"
        "now, now_ns = time.time, time.time_ns\n"
        "time.time, time.time_ns = lambda: now() + shift_s, lambda: now_ns() + shift_s * 10**9\n"
        "from producer.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    texts = sentences(500)
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    before = stage.client.submit(["First."])

    run = subprocess.run(
        [sys.executable, str(shift), "submit", "in.txt", "--deadline", "60s", "--ttl", "1h"],
        env=shell.env | {"PYTHONPATH": str(Path.cwd())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = stage.client.submit(["Last."])

    assert run.returncode == 0, run.stderr
    job = stage.client.job(run.stdout.strip())
    assert [listed.id for listed in stage.client.jobs()] == [after.id, job.id, before.id]
    stage.start_worker()
    settle(stage, job, texts)
    status = job.status()
    assert status.results_expire_at is not None
    assert abs(status.results_expire_at.timestamp() - time.time() - 3600) < 120


def test_producer_in_a_black_hole(stage: Stage) -> None:
    """Its connections go silent in mid-upload, and come back: it goes on, and says what it waits for."""
    texts = sentences(60_000)
    with Proxy(stage.server.port) as proxy:
        producer = Submit(stage, "--wait", "--format", "jsonl", "--output", "out.jsonl", url=proxy.url)
        producer.send(texts[:40_000])
        until(lambda: any(job.chunks >= 96 for job in stage.client.jobs()), what="half of the upload")

        proxy.black_hole()
        # It may have to wait until the producer reads again.
        sender = threading.Thread(target=producer.send, args=(texts[40_000:],))
        sender.start()
        silent_until = time.monotonic() + 5
        until(lambda: time.monotonic() > silent_until, what="a while of silence")
        proxy.let_through()
        stage.start_worker(rows_per_s=60_000)
        with recovery(stage):
            sender.join(60)
            status = producer.finish()

    assert status == 0, producer.said
    assert "Redis does not answer" in producer.said
    assert "Redis is back" in producer.said
    (job,) = stage.client.jobs()
    assert job.state is JobState.COMPLETED
    check_rows(stage, stage.client.job(job.id), texts)
