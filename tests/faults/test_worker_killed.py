"""A worker that is killed costs no row: promises 1, 2 and 3 of docs/reliability.md, with real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import Client
from producer.client import Job
from scorequeue.jobs import JobState
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, until
from tests.tiny import publish_tiny

pytestmark = pytest.mark.faults

ROWS = 40_000
LEASE_S = 2.0
RECOVERY_S = 20.0


@pytest.fixture
def client(redis_url: str, namespace: str) -> Iterator[Client]:
    with Client(settings=Settings(redis_url=redis_url, namespace=namespace, lease_s=LEASE_S)) as client:
        yield client


@pytest.fixture
def worker(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    publish_tiny(tmp_path / "registry")
    worker = WorkerProcess(
        tmp_path / "worker.log",
        redis_url=redis_url,
        namespace=namespace,
        registry=tmp_path / "registry",
        lease_s=LEASE_S,
    )
    with worker:
        yield worker


def submit_and_wait_for_first_scores(client: Client) -> Job:
    job = client.submit(f"The dog number {n} sleeps on the sofa." for n in range(ROWS))
    until(lambda: job.status().scored > 0, what="a first scored row")
    assert job.status().pending > 0, "the job was over before the kill; it needs more rows"
    return job


def assert_every_row_once(job: Job) -> None:
    assert job.audit().is_clean, job.audit()
    assert [result.row for result in job.results()] == list(range(1, ROWS + 1))


def test_killed_worker_costs_no_row(client: Client, worker: WorkerProcess) -> None:
    """kill -9 in mid-job, then a restart: the job completes with every row once."""
    job = submit_and_wait_for_first_scores(client)

    worker.kill()
    worker.start()
    back_at = time.monotonic()
    scored = job.status().scored
    until(lambda: job.status().scored > scored, timeout_s=RECOVERY_S, what="a row scored after the kill")
    job.wait(timeout_s=60)

    status = job.status()
    print(f"\nfirst row {time.monotonic() - back_at:.1f} s after the restart at the latest")
    assert (status.state, status.scored, status.failed, status.pending) == (JobState.COMPLETED, ROWS, 0, 0)
    assert_every_row_once(job)


def test_drained_worker_gives_back_what_it_did_not_score(client: Client, worker: WorkerProcess) -> None:
    """SIGTERM is no loss and no death: the rest goes back at once, and the worker ends with 0."""
    job = submit_and_wait_for_first_scores(client)

    exit_status = worker.terminate()
    left = job.status()
    worker.start()
    job.wait(timeout_s=60)

    assert exit_status == 0
    assert left.live_workers == 0
    assert left.pending > 0
    assert job.status().scored == ROWS
    assert_every_row_once(job)
