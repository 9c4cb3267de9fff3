"""How a worker ends, and what it does about what it cannot read or reach: real processes, a Redis of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import Client
from scorequeue.errors import ExitCode
from scorequeue.jobs import ErrorCode, JobSpec, JobState, Lane
from scorequeue.keys import Keys
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkUpload
from scorequeue.registry import ManifestDraft, Registry
from scorequeue.settings import Settings
from tests.faults.faulty_worker import TOKEN_HANGING
from tests.processes import WorkerProcess, environment, until
from tests.servers import RedisServer
from tests.tiny import make_tiny_base, publish_tiny


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
    log = worker.log.read_text()
    assert "action=hurry" in log or "action=drained" in log


def test_texts_without_a_token_fail_and_the_worker_lives(server: RedisServer, tmp_path: Path) -> None:
    """A tokenizer that adds no special tokens, and a text of which its normalizer leaves nothing."""
    folder = make_tiny_base(tmp_path / "tiny")
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "no", "1": "yes"}}))
    registry = Registry(tmp_path / "registry")
    registry.publish(folder, draft=ManifestDraft(base_model="tiny", labels=("no", "yes"), max_length=64, golden=()))
    settings = {"redis_url": server.url, "registry": registry.root, "backend": "torch", "device": "cpu"}

    with (
        WorkerProcess(tmp_path / "worker.log", namespace="n", token_budget=512, **settings) as worker,
        Client(settings=Settings(redis_url=server.url, namespace="n")) as client,
    ):
        job = client.submit(["the dog slept", "\u200b", "a cat"] * 100)
        status = job.wait(timeout_s=60)
        codes = [row.error.code if row.error else None for row in job.results()]

        assert (status.scored, status.failed, status.pending) == (200, 100, 0)
        assert codes == [None, ErrorCode.SCORING_FAILED, None] * 100
        assert worker.is_running


def test_stop_while_redis_is_away_is_clean(worker: WorkerProcess, server: RedisServer) -> None:
    """A rolling restart during an outage: what was held runs out by itself, and nothing failed."""
    server.kill()
    until(lambda: "action=redis_away" in worker.log.read_text(), what="a worker that noticed")

    status = worker.terminate()

    assert status == 0
    assert "Traceback" not in worker.log.read_text()


SLOW = {"FAULTS_ROWS_PER_S": "1000"}
"""A worker that holds much for long."""

HASTY = {"FAULTS_HASTY": "1"}
"""A worker that is stuck after a second, not a minute."""


def faulty_worker(server: RedisServer, folder: Path, variables: dict[str, str], **settings: object) -> WorkerProcess:
    publish_tiny(folder / "faulty")
    where = {"redis_url": server.url, "namespace": "n", "registry": folder / "faulty", "backend": "fake"}
    log = folder / "faulty.log"
    return WorkerProcess(log, module="tests.faults.faulty_worker", variables=variables, **where, **settings)


def held_and_expired(server: RedisServer) -> tuple[int, int]:
    with redis.Redis.from_url(server.url) as raw:
        return int(raw.hlen("{n}:holders")), int(raw.hget("{n}:meta", "expired") or 0)


def test_drain_outlasts_an_outage(server: RedisServer, tmp_path: Path) -> None:
    """Redis restarts while a worker drains: what it scored counts, the rest goes back, and no death is noted."""
    with faulty_worker(server, tmp_path, SLOW) as worker, Client(server.url, "n") as client:
        job = client.submit(["The cat sat."] * 8_000, chunk_rows=64)
        until(lambda: job.status().scored > 0, what="a worker that scores")
        server.kill()
        until(lambda: "action=redis_away" in worker.log.read_text(), what="a worker that noticed")

        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: "action=drain " in worker.log.read_text(), what="a worker that drains")
        back_at = time.monotonic() + 3
        until(lambda: time.monotonic() > back_at, what="the outage's end")
        server.start()

        assert worker.wait() == ExitCode.DONE
        assert held_and_expired(server) == (0, 0)
        assert "action=release_unsent" not in worker.log.read_text()


@pytest.mark.parametrize("silence", ["gone", "hanging"])
def test_drain_ends_in_time_when_redis_stays_away(server: RedisServer, tmp_path: Path, silence: str) -> None:
    """A supervisor kills what outlasts it."""
    with faulty_worker(server, tmp_path, SLOW, drain_timeout_s=4) as worker, Client(server.url, "n") as client:
        job = client.submit(["The cat sat."] * 8_000, chunk_rows=64)
        until(lambda: job.status().scored > 0, what="a worker that scores")
        (server.kill if silence == "gone" else server.pause)()
        until(lambda: "action=redis_away" in worker.log.read_text(), what="a worker that noticed")

        began = time.monotonic()
        status = worker.terminate()
        took_s = time.monotonic() - began
        if silence == "hanging":
            server.resume()

    assert took_s < 5.5, "the time-out, and a moment for the process to end"
    assert status == ExitCode.DONE or silence == "hanging"
    assert "Traceback" not in worker.log.read_text()


def test_tokenizer_that_hangs_ends_the_worker(server: RedisServer, tmp_path: Path) -> None:
    """The leases run out then: two deaths later the row is known, where heartbeats would have kept it for ever."""
    with faulty_worker(server, tmp_path, HASTY, lease_s=1) as worker, Client(server.url, "n") as client:
        job = client.submit(["The cat sat."] * 10)
        job.wait(timeout_s=30)
        until(lambda: held_and_expired(server)[0] == 0, what="a worker that holds nothing")
        idle_until = time.monotonic() + 2
        until(lambda: time.monotonic() > idle_until, what="a while without work")
        assert worker.is_running

        client.submit(["The cat sat.", TOKEN_HANGING])

        assert worker.wait() == ExitCode.UNEXPECTED
        assert "action=stuck" in worker.log.read_text()
        assert "Thread" in worker.log.read_text(), "the stacks are in the log"
        assert held_and_expired(server)[0] == 1, "nothing is released: its running out says who did it"


def test_worker_goes_on_when_redis_is_back(worker: WorkerProcess, server: RedisServer) -> None:
    server.kill()
    until(lambda: "action=redis_away" in worker.log.read_text(), what="a worker that noticed")
    server.start()

    with Client(server.url, "n") as client:
        job = client.submit(["The cat sat."] * 1000)
        job.wait(timeout_s=30)

        assert job.audit().is_clean
        assert job.status().scored == 1000


def submit_bytes(server: RedisServer, payload: bytes) -> str:
    """Submit one row as bytes that no producer here would write."""
    ledger = Ledger.connect(Settings(redis_url=server.url, namespace="n"))
    spec = JobSpec(id=uuid.uuid4().hex, lane=Lane.BULK, chunk_rows=1, ttl_s=60)
    ledger.submit(spec, [ChunkUpload(payload, 1, "00" * 16)])
    ledger.close()
    return spec.id


def test_damaged_chunk_fails_its_rows_and_no_other(worker: WorkerProcess, server: RedisServer) -> None:
    """Left pending, it would keep its job from ever ending."""
    damaged = submit_bytes(server, b"\x01\xff\xff\xff\xff")

    with Client(server.url, "n") as client:
        status = client.job(damaged).wait(timeout_s=30)
        (result,) = client.job(damaged).results()

        assert (status.state, status.failed) == (JobState.COMPLETED, 1)
        assert result.error is not None
        assert result.error.code is ErrorCode.SCORING_FAILED
        assert client.job(damaged).audit().is_clean
        assert client.job(damaged).retry() == 0, "there is no text to try again"
    assert "action=chunk_unreadable" in worker.log.read_text()


def test_worker_leaves_a_namespace_that_a_newer_program_serves(worker: WorkerProcess, server: RedisServer) -> None:
    """It must not touch what it does not understand: exit 3, for whoever updates it."""
    with redis.Redis.from_url(server.url) as client:
        client.hset(Keys("n").meta, "protocol", 99)

    assert worker.wait() == ExitCode.REDIS
    assert "action=too_old" in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_job_for_a_version_that_is_not_there_fails(worker: WorkerProcess, server: RedisServer) -> None:
    """Half a minute until it is tried, ten minutes until it is given up; other jobs go on meanwhile."""
    with Client(server.url, "n") as client, redis.Redis.from_url(server.url) as raw:
        lost = client.submit(["The cat sat."], model_version="20200101T000000-aaaaaa")
        raw.zincrby("{n}:waits", -31_000, "20200101T000000-aaaaaa")
        until(lambda: "action=version_failed" in worker.log.read_text(), what="a worker that tried")
        client.submit(["The cat sat."]).wait(timeout_s=30)
        assert lost.status().state is JobState.QUEUED

        since = int(raw.hget("{n}:meta", "refused:20200101T000000-aaaaaa") or 0)
        raw.hset("{n}:meta", "refused:20200101T000000-aaaaaa", since - 601_000)
        status = lost.wait(timeout_s=90)

    assert (status.state, status.cancelled) == (JobState.FAILED, 1)
    assert "20200101T000000-aaaaaa" in str(status.error)


def test_worker_that_is_told_to_stop_while_it_starts_takes_its_redis_along(tmp_path: Path) -> None:
    """A service manager may be in a hurry; an embedded server that nobody owns would stay."""
    publish_tiny(tmp_path / "registry")
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "start", "--local", "--registry", str(tmp_path / "registry")],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(Path.cwd())},
        stderr=subprocess.PIPE,
    )
    note = tmp_path / ".scorequeue" / "local.json"
    until(note.exists, what="an embedded Redis")
    pid = json.loads(note.read_text())["pid"]

    process.terminate()

    assert process.wait(30) == ExitCode.DONE
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of its Redis")
