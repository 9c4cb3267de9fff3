"""How a worker ends, and what it does about what it cannot read or reach: real processes, a Redis of their own."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer import Client
from scorequeue.jobs import JobSpec, JobState, Lane
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkUpload
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def worker(server: RedisServer, tmp_path: Path) -> Iterator[WorkerProcess]:
    publish_tiny(tmp_path / "registry")
    settings = {"redis_url": server.url, "namespace": "n", "registry": tmp_path / "registry", "backend": "fake"}
    with WorkerProcess(tmp_path / "worker.log", **settings, lease_s=1) as worker:
        yield worker


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_drains(worker: WorkerProcess, signum: signal.Signals) -> None:
    assert worker.send(signum) == 0
    assert "action=drained" in worker.log.read_text()


def test_quit_ends_at_once(worker: WorkerProcess) -> None:
    assert worker.send(signal.SIGQUIT) in (0, 1)  # 0 where the drain had nothing to do and was faster
    assert "action=drain " in worker.log.read_text()


def test_stop_while_redis_is_away_is_clean(worker: WorkerProcess, server: RedisServer) -> None:
    """A rolling restart during an outage: what was held runs out by itself, and nothing failed."""
    server.kill()
    until(lambda: "action=redis_away" in worker.log.read_text(), what="a worker that noticed")

    status = worker.terminate()

    assert status == 0
    assert "Traceback" not in worker.log.read_text()


def test_worker_goes_on_when_redis_is_back(worker: WorkerProcess, server: RedisServer) -> None:
    server.kill()
    until(lambda: "action=redis_away" in worker.log.read_text(), what="a worker that noticed")
    server.start()

    with Client(server.url, "n") as client:
        job = client.submit(["The cat sat."] * 1000)
        job.wait(timeout_s=30)

        assert job.audit().is_clean
        assert job.status().scored == 1000


def test_unreadable_chunk_neither_stops_nor_busies_the_worker(worker: WorkerProcess, server: RedisServer) -> None:
    """A chunk of a newer format waits for a worker that reads it; other jobs go on meanwhile."""
    ledger = Ledger.connect(Settings(redis_url=server.url, namespace="n"))
    spec = JobSpec(id=uuid.uuid4().hex, lane=Lane.BULK, chunk_rows=1, ttl_s=60)
    ledger.submit(spec, [ChunkUpload(b"\x09\0\0\0\0", 1, "00" * 16)])
    until(lambda: "action=chunk_unreadable" in worker.log.read_text(), what="a worker that met the chunk")

    with Client(server.url, "n") as client:
        for _ in range(3):
            client.submit(["The cat sat."] * 100, lane="bulk").wait(timeout_s=30)

    assert worker.log.read_text().count("action=chunk_unreadable") <= 10
    assert ledger.status(spec.id).state is JobState.RUNNING
    ledger.close()
