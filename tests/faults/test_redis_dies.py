"""Redis is killed, emptied, filled up, loses power: promises 1, 2, 4 and 7 of docs/reliability.md."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from scorequeue.errors import ExitCode, JobNotFoundError
from scorequeue.jobs import JobState, Lane
from tests.faults.stage import REAL_LEASE_S, Stage, check_rows, recovery, sentences, settle, until_scored
from tests.faults.submit import Submit
from tests.processes import until
from tests.shell import Shell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_redis_is_killed_and_restarted(stage: Stage) -> None:
    """Promise 4: nothing acknowledged is lost, workers and a waiting client go on by themselves."""
    texts = sentences(20_000)
    worker = stage.start_worker(rows_per_s=3_000)
    job = stage.client.submit(texts)
    until_scored(job)
    before = job.status()

    stage.server.kill()
    stage.account.kills += 1
    until(lambda: "action=redis_away" in stage.log_of(worker), what="a worker that noticed")
    stage.server.start()
    with recovery(stage):
        after = stage.ledger.status(job.id)  # what its file has brought back is no recovery
        until_scored(job, after.scored + 1)

    assert after.scored >= before.scored, "rows that were acknowledged are gone"

    settle(stage, job, texts)
    assert worker.is_running
    assert stage.meta("expired") == 0, "an outage is not held against workers"


def test_three_outages_of_20_seconds_in_a_row(stage: Stage) -> None:
    """Each is longer than a lease; none may cost a row, or count as a death."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(30_000)
    workers = [stage.start_worker(rows_per_s=1_500) for _ in range(2)]
    job = stage.client.submit(texts)
    until_scored(job)

    for _ in range(3):
        stage.server.kill()
        stage.account.kills += 1
        back_at = time.monotonic() + 20
        until(lambda ends=back_at: time.monotonic() > ends, what="the outage's end")
        stage.server.start()
        with recovery(stage):
            scored = stage.ledger.status(job.id).scored
            until_scored(job, scored + 1)

    settle(stage, job, texts)
    assert all(worker.is_running for worker in workers)
    assert stage.meta("expired") == 0


def test_worker_and_redis_are_killed_together(stage: Stage) -> None:
    texts = sentences(10_000)
    worker = stage.start_worker(rows_per_s=2_000)
    job = stage.client.submit(texts)
    until_scored(job)

    stage.kill(worker)
    stage.server.kill()
    stage.account.kills += 1
    stage.server.start()
    with recovery(stage):
        scored = job.status().scored
        worker.start()
        until_scored(job, scored + 1)

    settle(stage, job, texts)


def test_power_loss_while_rows_are_scored(stage: Stage) -> None:
    """Promise 4: the last second of history is gone, commits in it too; what was lost is scored again."""
    texts = sentences(20_000)
    stage.start_worker(rows_per_s=4_000)
    job = stage.client.submit(texts)
    # The upload stays, for these rows cannot be sent again from here; half of what comes after it goes.
    sealed = stage.server.append_only_file.stat().st_size
    until_scored(job, 8_000)

    lose_power(stage, keep=lambda size: (sealed + size) // 2)
    lost = job.status()
    with recovery(stage):
        until_scored(job, lost.scored + 1)

    settle(stage, job, texts)


def test_power_loss_while_a_producer_uploads(stage: Stage) -> None:
    """Promise 4: a producer that still runs asks what arrived and sends the rest, from standard input too."""
    texts = sentences(60_000)
    stage.start_worker(rows_per_s=30_000)
    producer = Submit(stage, "--wait", "--format", "jsonl", "--output", "out.jsonl")
    producer.send(texts[:40_000])
    until(lambda: any(job.chunks >= 96 for job in stage.client.jobs()), what="half of the upload")

    lose_power(stage, keep=lambda size: size * 2 // 3)
    producer.send(texts[40_000:])
    done = producer.finish()

    assert done == 0, producer.said
    assert "sent again" in producer.said
    (status,) = stage.client.jobs()
    check_rows(stage, stage.client.job(status.id), texts)
    assert len((stage.folder / "out.jsonl").read_text().splitlines()) == len(texts)


def test_power_loss_takes_a_whole_job(stage: Stage) -> None:
    """The job and its seal were acknowledged in the last second: whoever waits for it sends it again."""
    older, texts = sentences(500), sentences(1_000, start=500)
    (stage.folder / "in.txt").write_text("\n".join(texts) + "\n")
    kept = stage.client.submit(older)
    history = stage.server.append_only_file.stat().st_size
    producer = Submit(stage, "in.txt", "--wait", "--format", "jsonl", "--output", "out.jsonl")
    until(lambda: _states(stage) == [JobState.QUEUED] * 2, what="a submitted job")

    lose_power(stage, keep=lambda size: history)
    stage.start_worker()

    assert producer.finish() == 0, producer.said
    assert "sent again" in producer.said
    assert len((stage.folder / "out.jsonl").read_text().splitlines()) == len(texts)
    lost, _ = stage.client.jobs()
    check_rows(stage, stage.client.job(lost.id), texts)
    settle(stage, kept, older)


def test_emptied_redis(stage: Stage) -> None:
    """Promise 4: a lost job says "gone" and nothing hangs; workers say so, and serve what comes next."""
    shell = Shell(stage.folder, stage.settings)
    worker = stage.start_worker(rows_per_s=4_000)
    job = stage.client.submit(sentences(40_000))
    until_scored(job)
    waits, pool = threading.Event(), stage.stack.enter_context(ThreadPoolExecutor(1))
    waiter = pool.submit(stage.client.job(job.id).wait, 60, on_status=lambda _: waits.set())
    assert waits.wait(30)

    stage.server.kill()
    stage.account.kills += 1
    stage.server.append_only_file.unlink()
    stage.server.start()

    with pytest.raises(JobNotFoundError, match="Redis lost it"):
        waiter.result(30)
    assert "Redis lost it" in shell.error("status", job.id, code=ExitCode.NO_SUCH_JOB)
    until(lambda: "action=ledger_replaced" in stage.log_of(worker), what="a worker that says so")
    texts = sentences(5_000)
    with recovery(stage):
        after = stage.client.submit(texts)
        until_scored(after)
    settle(stage, after, texts)
    assert "level=error" not in stage.log_of(worker)


def test_redis_without_its_file_is_flushed_on_the_fly(stage: Stage) -> None:
    """The connection stays, everything else is gone: wake-ups and consumers too must find their way back."""
    worker = stage.start_worker(rows_per_s=4_000)
    job = stage.client.submit(sentences(40_000))
    until_scored(job)

    stage.redis().flushall()

    with pytest.raises(JobNotFoundError):
        job.wait(timeout_s=60)
    texts = sentences(5_000)
    with recovery(stage):
        after = stage.client.submit(texts)
        until_scored(after)
    settle(stage, after, texts)
    until(lambda: stage.redis().llen(stage.ledger.keys.wake_ups(Lane.BULK)) == 0, what="wake-ups being read")
    assert worker.is_running


def test_redis_at_maxmemory(stage: Stage) -> None:
    """It drains: uploads wait, workers make room, everything is scored, and nothing has failed."""
    stage.redis_options = ("--maxmemory", "6mb")
    texts = [f"{text} {'and so on ' * 60}" for text in sentences(20_000)]  # about 13 MB
    waits: list[str] = []
    outcome: list[object] = []

    def submit() -> None:
        try:
            outcome.append(
                stage.client.submit(texts, on_progress=lambda p: waits.append(p.waiting_for) if p.waiting_for else None)
            )
        except BaseException as exc:
            outcome.append(exc)

    client = stage.client
    thread = threading.Thread(target=submit)
    thread.start()
    until(lambda: bool(waits), what="an upload that waits")
    full = stage.redis().info("memory")
    stage.start_worker(rows_per_s=30_000)
    thread.join(120)

    (job,) = outcome
    assert not isinstance(job, BaseException), job
    settle(stage, client.job(job.id), texts)  # type: ignore[attr-defined]
    assert full["used_memory"] > 0.75 * full["maxmemory"]
    assert "maxmemory" in waits[0]


SHIFT = """
redis.call('HINCRBY', KEYS[1], 'stamp', ARGV[1])
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do redis.call('ZINCRBY', KEYS[2], ARGV[1], member) end
"""


def test_clock_of_redis_jumps(stage: Stage) -> None:
    """A jump forwards must not take leases back, and one backwards must not keep them for ever."""
    texts = sentences(20_000)
    worker = stage.start_worker(rows_per_s=3_000)
    job = stage.client.submit(texts)
    until_scored(job)
    raw, keys = stage.redis(), stage.ledger.keys

    for hours in (-2, 2):  # seen from the ledger: its stamp and its leases lie so far in the past, in the future
        shift_ms = hours * 3_600_000
        # In one step: a claim in between would find a stamp and leases of different clocks.
        raw.eval(SHIFT, 2, keys.meta, f"{keys.prefix}leases", shift_ms)
        scored = job.status().scored
        with recovery(stage):
            until_scored(job, scored + 1)
    assert worker.is_running
    assert stage.meta("expired") == 0
    stage.kill(worker)
    worker.start()

    settle(stage, job, texts)


def _states(stage: Stage) -> list[JobState]:
    return [job.state for job in stage.client.jobs()]


def lose_power(stage: Stage, *, keep: Callable[[int], int]) -> None:
    """Kill Redis, cut bytes off the end of its file as a power loss would, and start it again."""
    stage.server.kill()
    stage.account.kills += 1
    file = stage.server.append_only_file
    size = file.stat().st_size
    kept = max(0, min(size, keep(size)))
    os.truncate(file, kept)
    stage.account.note = f"{size - kept:,} bytes cut"
    stage.server.start()
