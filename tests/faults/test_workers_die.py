"""Workers are killed, stopped and drained: promises 1, 2, 3 and 5 of docs/reliability.md."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import time
from collections import Counter

import pytest

from producer import Job
from scorequeue.errors import ExitCode
from scorequeue.jobs import ErrorCode, JobState
from scorequeue.ledger import Ledger
from scorequeue.records import Commit, LaneRoom
from tests.faults.faulty_worker import (
    ABORT,
    HANGING,
    KILLER,
    POISON,
    TOKEN_HANGING,
    TOKEN_KILLER,
    TOKEN_POISON,
)
from tests.faults.stage import (
    REAL_LEASE_S,
    RECOVERY_S,
    Stage,
    check_rows,
    children_of,
    device_of,
    is_alive,
    recovery,
    sentences,
    settle,
    until_scored,
)
from tests.processes import WorkerProcess, until
from tests.tiny import publish_tiny

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_30_kills_of_three_workers_at_random_moments(stage: Stage) -> None:
    """Promises 1, 2 and 3: with the real lease, every row once, and each worker's work taken up again in time.

    And each worker's device and tokenizer processes end with it, see ``Stage.kill``.
    """
    stage.lease_s = REAL_LEASE_S
    moments = random.Random(20261124)
    texts = sentences(50_000)
    workers = [stage.start_worker(rows_per_s=900, fast=True) for _ in range(3)]
    job = stage.client.submit(texts)
    until_scored(job)

    lost: dict[str, float] = {}
    slowest_s = 0.0
    modules: set[str] = set()

    def look() -> None:
        nonlocal slowest_s
        for worker_id in [worker_id for worker_id in lost if stage.held_by(worker_id) == 0]:
            slowest_s = max(slowest_s, time.monotonic() - lost.pop(worker_id))

    for _ in range(30):
        victim = moments.choice(workers)
        modules |= {child.cmdline()[3] for child in children_of(victim)}
        worker_id = victim.worker_id()
        pause_ends = time.monotonic() + moments.uniform(0.0, 0.7)
        until(lambda ends=pause_ends: time.monotonic() >= ends, what="the next moment")
        stage.kill(victim)
        lost[worker_id] = time.monotonic()
        victim.start()
        look()
    until(lambda: look() is None and not lost, timeout_s=60, what="all lost work being taken up again")

    settle(stage, job, texts, timeout_s=150)
    stage.account.recovered_s = slowest_s
    assert slowest_s <= RECOVERY_S
    assert stage.account.failed == 0
    assert modules >= {"tests.faults.faulty_device", "tests.faults.faulty_tokenizer"}


def test_worker_that_is_killed_while_it_starts(stage: Stage) -> None:
    """Its device process ends as well, though it loads a model, or as soon as its interpreter runs."""
    moments = random.Random(20261127)
    worker = stage.start_worker(load_s=10, wait=False)

    for _ in range(10):
        until(lambda: bool(children_of(worker)), what="a device process")
        pause_ends = time.monotonic() + moments.uniform(0.0, 1.5)
        until(lambda ends=pause_ends: time.monotonic() >= ends, what="the next moment")
        stage.kill(worker, gone_s=5)
        worker.launch()


def test_plain_kill_with_another_worker_alive(stage: Stage) -> None:
    """Promise 3 with the real lease."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(20_000)
    victim, _ = (stage.start_worker(rows_per_s=1_500) for _ in range(2))
    job = stage.client.submit(texts)
    worker_id = victim.worker_id()
    until(lambda: stage.held_by(worker_id) > 0, what="a victim that holds work")

    stage.kill(victim)
    with recovery(stage):
        until(lambda: stage.held_by(worker_id) == 0, timeout_s=60, what="its work being taken up again")

    settle(stage, job, texts)
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S
    assert stage.meta("expired") > 0


def test_plain_kill_with_an_idle_worker_alive(stage: Stage) -> None:
    """Promise 3 with the real lease, for a worker that asks every two seconds and does not write."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(200)
    victim = stage.start_worker(rows_per_s=2)
    job = stage.client.submit(texts, lane="bulk")
    worker_id = victim.worker_id()
    until(lambda: stage.held_by(worker_id) == 1, what="a victim that holds the only chunk")
    stage.start_worker()
    idle_at = time.monotonic() + 10
    until(lambda: time.monotonic() > idle_at, what="a worker at rest")

    stage.kill(victim)
    with recovery(stage):
        until(lambda: stage.held_by(worker_id) == 0, timeout_s=60, what="its work being taken up again")

    settle(stage, job, texts)
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S
    assert stage.meta("expired") == 1


def test_plain_kill_of_the_only_worker(stage: Stage) -> None:
    """Promise 3: within 20 s of a worker being back, though it comes back late."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(20_000)
    victim = stage.start_worker(rows_per_s=2_000)
    job = stage.client.submit(texts)
    until_scored(job)
    worker_id = victim.worker_id()

    stage.kill(victim)
    away_until = time.monotonic() + 10
    until(lambda: time.monotonic() > away_until, what="a while without a worker")
    victim.start()
    with recovery(stage):
        until(lambda: stage.held_by(worker_id) == 0, timeout_s=60, what="its work being taken up again")

    settle(stage, job, texts)
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S


def test_stopped_worker_comes_back_as_a_zombie(stage: Stage) -> None:
    """Promise 2: SIGSTOP past the lease and SIGCONT; what it then commits is refused."""
    texts = sentences(12_000)
    zombie = stage.start_worker(rows_per_s=1_000)
    job = stage.client.submit(texts)
    until_scored(job)
    worker_id = zombie.worker_id()

    zombie.pause()
    stage.start_worker(rows_per_s=4_000)
    with recovery(stage):
        until(lambda: stage.held_by(worker_id) == 0, what="the heir having it all")
    zombie.resume()

    settle(stage, job, texts)
    until(lambda: "action=lease_lost" in stage.log_of(zombie) or "why=lost" in stage.log_of(zombie), what="a refusal")
    assert zombie.is_running


def test_two_workers_after_the_same_chunk(stage: Stage) -> None:
    """Promise 2: a chunk that was claimed twice counts with the running lease only."""
    texts = sentences(64)
    job = stage.client.submit(texts, lane="bulk", chunk_rows=64)
    other = Ledger.connect(stage.settings.model_copy(update={"lease_s": 0.5}))
    (first,) = other.claim("other", [LaneRoom(job.status().lane, 100, 1)], versions=["v"], default_version="v").chunks
    # Its job is pinned to a version that no worker has; the right one is as good for this test.
    stage.redis().hset(stage.ledger.keys.job(job.id), "model_version", _current(stage))
    worker = stage.start_worker()

    settle(stage, job, texts)

    assert other.release([first.lease]) == 0
    assert other.renew("other", {}, [], [first.lease]).lost == {first.lease}
    other.close()
    assert worker.is_running


def test_poison_row(stage: Stage) -> None:
    """Promise 5: it ends as a failed row with a reason; its neighbours are scored, and no worker is lost."""
    texts = sentences(5_000)
    texts[1_234] = texts[4_321] = POISON
    worker = stage.start_worker()

    job = stage.client.submit(texts)

    settle(stage, job, texts, failed=[1_234, 4_321])
    assert _codes(job) == {ErrorCode.SCORING_FAILED: 2}
    assert worker.is_running


@pytest.mark.parametrize("row", [KILLER, HANGING, ABORT], ids=["kills", "hangs", "aborts"])
def test_row_that_ends_the_device_process(stage: Stage, row: str) -> None:
    """Promise 5 with the real lease and a model that loads in 2 s: no worker ends, and no neighbour fails."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(300)
    texts[200] = row
    worker = stage.start_worker(load_s=2)

    with recovery(stage):
        job = stage.client.submit(texts)
        job.wait(timeout_s=60)

    settle(stage, job, texts, failed=[200])
    assert _codes(job) == {ErrorCode.WORKER_LOST: 1}
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S
    assert worker.is_running
    assert stage.meta("expired") == 0
    hung = "action=device_hangs" in stage.log_of(worker)
    assert hung == (row == HANGING)


def test_killer_row_in_a_batch_of_thousands(stage: Stage) -> None:
    """Promise 5: the rows of a large batch are tried again in groups first, so that it takes no longer."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(6_000)
    texts[4_321] = KILLER
    worker = stage.start_worker(load_s=2, rows_per_s=2_000)

    with recovery(stage):
        job = stage.client.submit(texts)
        job.wait(timeout_s=60)

    settle(stage, job, texts, failed=[4_321])
    assert _codes(job) == {ErrorCode.WORKER_LOST: 1}
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S
    assert worker.is_running


def test_abort_in_the_middle_of_two_batches(stage: Stage) -> None:
    """Promise 5: the rows of both are tried again, and the batch that did no harm loses none."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(1_000)
    texts[10] = ABORT
    worker = stage.start_worker(load_s=2, rows_per_s=500, depth=2, token_budget=2_048)

    with recovery(stage):
        job = stage.client.submit(texts, lane="bulk", chunk_rows=1_000)
        job.wait(timeout_s=60)

    settle(stage, job, texts, failed=[10])
    assert _codes(job) == {ErrorCode.WORKER_LOST: 1}
    assert "batches=2" in stage.log_of(worker)
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S
    assert worker.is_running


def test_30_kills_of_a_device_process_at_random_moments(stage: Stage) -> None:
    """Promise 5: no row is to blame for them, and the worker lives."""
    stage.lease_s = REAL_LEASE_S
    moments = random.Random(20261127)
    texts = sentences(30_000)
    worker = stage.start_worker(rows_per_s=1_500, token_budget=2_048)
    job = stage.client.submit(texts)
    until_scored(job)

    for kills in range(1, 31):
        pause_ends = time.monotonic() + moments.uniform(0.05, 0.7)
        until(lambda ends=pause_ends: time.monotonic() >= ends, what="the next moment")
        stage.kill_device(worker)
        with recovery(stage):
            until(lambda kills=kills: _restarts(stage, worker) == kills, what="a fresh device process")
    assert job.status().pending > 0, "the job was over before the kills; it needs more rows"

    settle(stage, job, texts)
    assert stage.account.failed == 0
    assert worker.is_running
    assert stage.meta("expired") == 0


def test_device_process_that_is_stopped(stage: Stage) -> None:
    """Promise 5: one that lives and does nothing is ended like one that hangs."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(5_000)
    worker = stage.start_worker(rows_per_s=2_000, load_s=2, token_budget=2_048)
    job = stage.client.submit(texts)
    until_scored(job)
    device = device_of(worker)

    device.suspend()
    with recovery(stage):
        until(lambda: _restarts(stage, worker) == 1, what="a fresh device process")
        until_scored(job, job.status().scored + 1)

    settle(stage, job, texts)
    assert not is_alive(device)
    assert worker.is_running
    assert stage.meta("expired") == 0


def test_express_rows_beside_a_device_that_recovers(stage: Stage) -> None:
    """A lone sentence meets a killer row of another job: it waits for the recovery, and is no part of it."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(5_000)
    texts[777] = KILLER
    worker = stage.start_worker(rows_per_s=1_000, load_s=2, token_budget=2_048)
    job = stage.client.submit(texts)
    until(lambda: "action=device_lost" in stage.log_of(worker), what="a lost device process")

    with recovery(stage):
        lone = stage.client.submit(["Is this in time?"])
        lone.wait(timeout_s=60)

    assert job.status().pending > 0, "the job was over before the lone sentence; it needs more rows"
    check_rows(stage, lone, ["Is this in time?"])
    settle(stage, job, texts, failed=[777])
    assert stage.account.recovered_s is not None
    assert stage.account.recovered_s <= RECOVERY_S


def test_worker_that_is_told_to_stop_while_its_device_recovers(stage: Stage) -> None:
    """A rolling restart meets a hanging row: it does not wait for the recovery, and the next worker finds the row."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(300)
    texts[200] = HANGING
    worker = stage.start_worker(load_s=2)
    job = stage.client.submit(texts)
    until(lambda: "action=device_hangs" in stage.log_of(worker), what="a device process that hangs")
    worker_id = worker.worker_id()

    with recovery(stage):
        status = worker.terminate()

    assert status == ExitCode.DONE
    assert (stage.held_by(worker_id), stage.meta("expired"), job.status().failed) == (0, 0, 0)
    worker.start()
    settle(stage, job, texts, failed=[200])


def test_killer_row_of_the_tokenizer(stage: Stage) -> None:
    """Promise 5: it ends two workers; then it is tokenised in a process of its own, and fails alone."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(2_000)
    texts[777] = TOKEN_KILLER
    workers = [stage.start_worker(load_s=2) for _ in range(2)]

    with recovery(stage):
        job = stage.client.submit(texts)
        until(lambda: _is_over(stage, job, workers), timeout_s=120, what="the end of the job")

    settle(stage, job, texts, failed=[777])
    assert _codes(job) == {ErrorCode.WORKER_LOST: 1}
    assert stage.account.kills == 2


def test_hanging_row_of_the_tokenizer(stage: Stage) -> None:
    """Promise 5: two workers end themselves; then the row hangs in a process of its own, and fails alone."""
    texts = sentences(300)
    texts[200] = TOKEN_HANGING
    worker = stage.start_worker(hasty=3)

    with recovery(stage):
        job = stage.client.submit(texts)
        until(lambda: _is_over(stage, job, [worker]), timeout_s=120, what="the end of the job")

    settle(stage, job, texts, failed=[200])
    assert _codes(job) == {ErrorCode.WORKER_LOST: 1}
    assert stage.account.kills == 2
    assert "action=stuck" in stage.log_of(worker)
    assert "Thread" in stage.log_of(worker), "the stacks are in the log"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (TOKEN_KILLER, ErrorCode.WORKER_LOST),
        (TOKEN_HANGING, ErrorCode.WORKER_LOST),
        (TOKEN_POISON, ErrorCode.SCORING_FAILED),
    ],
    ids=["kills", "hangs", "raises"],
)
def test_row_against_a_tokenizer_process(stage: Stage, row: str, code: ErrorCode) -> None:
    """Promise 5 where processes tokenise for a GPU: no worker ends, and no neighbour fails."""
    stage.lease_s = REAL_LEASE_S
    texts = sentences(300)
    texts[200] = row
    worker = stage.start_worker(fast=True, hasty=3)

    with recovery(stage):
        job = stage.client.submit(texts)
        job.wait(timeout_s=60)

    settle(stage, job, texts, failed=[200])
    assert _codes(job) == {code: 1}
    assert worker.is_running
    assert stage.meta("expired") == 0


def test_version_that_kills_each_process_that_loads_it(stage: Stage) -> None:
    """The job that asks for it fails after ten minutes, like one whose version cannot be loaded; no worker ends."""
    version = _publish_another(stage)
    loads = stage.folder / "loads"
    worker = stage.start_worker(kills_loading=version, load_after=0.2, loads=loads)
    job = stage.client.submit(sentences(10), model_version=version)
    texts = sentences(500)
    other = stage.client.submit(texts)

    until(lambda: loads.read_text().split().count(version) >= 2, what="a second try")
    field = f"refused:{version}"
    since = int(stage.redis().hget(stage.ledger.keys.meta, field))
    stage.redis().hset(stage.ledger.keys.meta, field, since - 600_000)

    status = job.wait(timeout_s=30)
    assert (status.state, status.cancelled, status.pending) == (JobState.FAILED, 10, 0)
    assert "was lost: signal 9" in (status.error or "")
    settle(stage, other, texts)
    assert worker.is_running


@pytest.mark.parametrize("harm", ["raises", "dies", "hangs"])
def test_sick_device(stage: Stage, harm: str) -> None:
    """Nothing is counted as failed: the work goes back, and the worker ends for its supervisor to act."""
    sick = stage.folder / "sick"
    texts = sentences(10_000)
    worker = stage.start_worker(rows_per_s=3_000, token_budget=2_048, sick=sick, hasty=1)
    job = stage.client.submit(texts)
    until_scored(job)

    sick.write_text(harm)
    status = worker.wait(60)

    assert status == ExitCode.UNEXPECTED
    assert "action=device_sick" in stage.log_of(worker)
    assert job.status().failed == 0
    with recovery(stage):
        scored = job.status().scored
        stage.start_worker()
        until_scored(job, scored + 1)
    settle(stage, job, texts)
    assert stage.meta("expired") == 0, "what goes back is no death"


def test_rolling_restart_under_load(stage: Stage) -> None:
    """Drain: SIGTERM to one worker after the other; each exits with 0, and nothing has to run out."""
    texts = sentences(20_000)
    workers = [stage.start_worker(rows_per_s=1_000) for _ in range(2)]
    job = stage.client.submit(texts)
    until_scored(job)

    for worker in workers:
        worker_id = worker.worker_id()
        assert worker.terminate() == ExitCode.DONE
        left = job.status()
        assert (left.live_workers, stage.held_by(worker_id)) == (1, 0), "it let go of everything before it ended"
        assert left.pending > 0, "the job was over before the restart; it needs more rows"
        worker.start()

    settle(stage, job, texts)
    assert stage.meta("expired") == 0


def test_second_signal_ends_a_worker_at_once(stage: Stage) -> None:
    """A batch that takes long is not waited for; what is held goes back all the same."""
    texts = sentences(200)
    worker = stage.start_worker(rows_per_s=5)
    job = stage.client.submit(texts, lane="bulk", chunk_rows=200)
    worker_id = worker.worker_id()
    until(lambda: stage.held_by(worker_id) > 0, what="a worker that holds work")

    began = time.monotonic()
    for _ in range(2):
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: "action=drain " in stage.log_of(worker), what="a worker that drains")
    status = worker.wait(15)

    assert status == ExitCode.UNEXPECTED
    assert time.monotonic() - began < 10
    assert stage.held_by(worker_id) == 0
    assert stage.meta("expired") == 0
    stage.start_worker()
    settle(stage, job, texts)


def test_retry_against_a_zombie(stage: Stage) -> None:
    """A late commit from before a retry must not stand for it."""
    texts = [*sentences(3), POISON]
    job = stage.client.submit(texts, lane="bulk")
    zombie_ledger = Ledger.connect(stage.settings.model_copy(update={"lease_s": 0.5}))
    lanes = [LaneRoom(job.status().lane, 100, 1)]
    version = _current(stage)
    (zombie,) = zombie_ledger.claim("zombie", lanes, versions=[version], default_version=version).chunks
    stage.start_worker()
    job.wait(timeout_s=30)
    assert job.status().failed == 1

    assert job.retry() == 1
    # As many rows as are pending: nothing but its token tells this commit from one that counts.
    outcome = zombie_ledger.commit([Commit(zombie.lease, 1, 0, 0, b"late")])
    settle(stage, job, texts, failed=[3])

    assert outcome == ["lost"]
    zombie_ledger.close()


def test_cancel_under_load(stage: Stage) -> None:
    """What is done stays, the rest counts as cancelled; late commits are refused and create nothing."""
    texts = sentences(20_000)
    worker = stage.start_worker(rows_per_s=3_000)
    job = stage.client.submit(texts)
    until_scored(job, 1_000)

    cancelled = job.cancel()

    assert cancelled.state is JobState.CANCELLED
    lone = stage.client.submit(["Still there?"])
    lone.wait(timeout_s=30)
    until(lambda: stage.held_by(worker.worker_id()) == 0, what="the worker having let go")
    check_rows(stage, job, texts, cancelled=True)
    assert "level=error" not in stage.log_of(worker)


def test_deadline_under_load(stage: Stage) -> None:
    texts = sentences(20_000)
    stage.start_worker(rows_per_s=2_000)

    job = stage.client.submit(texts, deadline_s=3)
    status = job.wait(timeout_s=30)

    assert status.state is JobState.EXPIRED
    assert status.scored > 0
    check_rows(stage, job, texts, cancelled=True)


def _is_over(stage: Stage, job: Job, workers: list[WorkerProcess]) -> bool:
    """Whether the job has ended; as a supervisor does, start workers anew that have."""
    for worker in [worker for worker in workers if not worker.is_running]:
        stage.account.kills += 1
        worker.start()
    return job.status().state.is_final


def _restarts(stage: Stage, worker: WorkerProcess) -> int:
    return stage.log_of(worker).count("action=device_restarted")


def _publish_another(stage: Stage) -> str:
    with contextlib.redirect_stderr(io.StringIO()):
        return publish_tiny(stage.registry, seed=1)


def _current(stage: Stage) -> str:
    return (stage.registry / "current").read_text().strip()


def _codes(job: Job) -> Counter[ErrorCode]:
    return Counter(row.error.code for row in job.results() if row.error is not None)
