"""What a person or a program is told of a Redis that answers and takes no writes, by each of the three programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import Client
from producer.exporter import QueueCollector
from scorequeue.errors import ExitCode
from scorequeue.settings import Settings
from tests.processes import environment, until
from tests.refusing import REFUSING
from tests.servers import RedisServer
from tests.shell import Shell
from tests.tiny import publish_tiny


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    publish_tiny(folder)
    return folder


@pytest.fixture(params=REFUSING)
def refusing(
    request: pytest.FixtureRequest, tmp_path: Path, small_disk: Callable[[int], Path]
) -> Iterator[tuple[str, RedisServer]]:
    """The server's word, and a server that says it."""
    with REFUSING[request.param](tmp_path, small_disk) as server:
        yield request.param, server


def start_worker(url: str, registry: Path, *args: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", "start", "--backend", "fake", *args],
        env=environment(redis_url=url, registry=registry, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


def gauges(url: str) -> dict[str, float]:
    collector = QueueCollector(Settings(redis_url=url))
    try:
        return {s.name: s.value for metric in collector.collect() for s in metric.samples if not s.labels}
    finally:
        collector.close()


def test_cause_and_next_step_are_told(refusing: tuple[str, RedisServer], tmp_path: Path, registry: Path):
    """doctor and gauge say it at once, submit and worker start when their patience is over."""
    word, server = refusing
    sh = Shell(tmp_path, Settings(redis_url=server.url))
    sh.env["SCOREQUEUE_REDIS_PATIENCE_S"] = "3"

    doctor = json.loads(sh("doctor", "--json", code=ExitCode.REDIS).stdout)
    failed = [check for check in doctor["checks"] if check["state"] == "fail"]
    submit = sh("submit", "--text", "x", code=ExitCode.REDIS)
    worker = start_worker(server.url, registry, "--start-timeout", "1s")
    found = gauges(server.url)

    assert "takes no writes now" in failed[0]["found"]
    assert word in failed[0]["found"]
    assert failed[0]["next"]
    assert submit.stderr.count("takes no writes now") == 2  # when it begins to wait, and when it gives up
    assert word in submit.stderr.splitlines()[-1]
    assert worker.returncode == ExitCode.REDIS
    assert word in worker.stderr.splitlines()[-1]
    assert "Traceback" not in worker.stderr + submit.stderr
    assert found["scorequeue_redis_writable"] == 0


def test_redis_that_takes_writes_is_writable(redis_url: str):
    assert gauges(redis_url)["scorequeue_redis_writable"] == 1


def test_submit_waits_until_redis_takes_writes(tmp_path: Path):
    with RedisServer(tmp_path, "--min-replicas-to-write", "1") as server, redis.Redis.from_url(server.url) as admin:
        sh = Shell(tmp_path, Settings(redis_url=server.url))
        with sh.start("submit", "--text", "x") as submit:
            assert submit.stderr is not None
            assert "NOREPLICAS" in submit.stderr.readline()
            admin.config_set("min-replicas-to-write", 0)
            said, _ = submit.communicate(timeout=30)

        assert submit.returncode == 0
        with Client(server.url) as client:
            assert [job.id for job in client.jobs()] == [said.strip()]


@pytest.mark.parametrize("cause", ["away", "NOREPLICAS"])
def test_worker_waits_for_redis_at_its_start(tmp_path: Path, registry: Path, cause: str):
    """After a power cut a worker is often there before its Redis."""
    server = RedisServer(tmp_path, "--min-replicas-to-write", str(int(cause != "away")))
    log = tmp_path / "worker.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "start", "--backend", "fake"],
            env=environment(redis_url=server.url, registry=registry),
            stderr=out,
        )
    try:
        if cause != "away":
            server.start()
        until(lambda: "action=redis_away" in log.read_text(), what="a worker that waits")
        if cause == "away":
            server.start()
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("min-replicas-to-write", 0)
        until(lambda: "action=worker_ready" in log.read_text(), what="a ready worker")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        server.__exit__()


def test_worker_that_waits_for_redis_hears_sigterm(tmp_path: Path, registry: Path):
    with (tmp_path / "worker.log").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "start", "--backend", "fake"],
            env=environment(redis_url="redis://127.0.0.1:1/0", registry=registry),
            stderr=out,
        )
    try:
        until(lambda: "action=redis_away" in (tmp_path / "worker.log").read_text(), what="a worker that waits")
        process.terminate()
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()


def test_node_of_a_cluster_is_refused_by_name(tmp_path: Path, registry: Path):
    servers = iter(lambda: RedisServer(tmp_path, "--cluster-enabled", "yes"), None)
    with next(server for server in servers if server.port < 55_000) as server:  # its bus takes a port 10,000 above
        sh = Shell(tmp_path, Settings(redis_url=server.url))
        said = sh.error("submit", "--text", "x", code=ExitCode.REDIS)
        worker = start_worker(server.url, registry)

    assert "Redis Cluster" in said
    assert worker.returncode == ExitCode.REDIS
    assert len(worker.stderr.splitlines()) == 1
    assert "Redis Cluster" in worker.stderr
