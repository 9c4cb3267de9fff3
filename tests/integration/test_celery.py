"""Who knows Celery knows this worker: `celery -A worker.app ...` and Flower show and stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import Client
from scorequeue.jobs import Lane
from scorequeue.keys import Keys
from scorequeue.queue import SCORE_TASK
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, environment, until
from tests.servers import RedisServer, free_port, password_of, server_with_users
from tests.tiny import publish_tiny

NAMESPACE = "scorequeue"
TIMEOUT_S = 60

Celery = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def settings(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("worker")
    publish_tiny(folder / "registry")
    return {"redis_url": server.url, "namespace": NAMESPACE, "registry": folder / "registry", "backend": "fake"}


@pytest.fixture(scope="module")
def worker(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path_factory.mktemp("log") / "worker.log", **settings) as worker:
        yield worker


@pytest.fixture(scope="module")
def celery(settings: dict[str, Any]) -> Celery:
    """Run ``celery -A worker.app`` as a user would, with the worker's environment."""

    def run(*args: str, **changes: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker.app", *args],
            env=environment(**(settings | changes)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run


def nodes(worker: WorkerProcess, celery: Celery, *command: str) -> dict[str, Any]:
    """What each node answers to a command of remote control, once one answers."""
    answers: dict[str, Any] = {}

    def is_answered() -> bool:
        run = celery(*command, "--json")
        said = json.loads(run.stdout) if run.returncode == 0 else {}
        for part in said if isinstance(said, list) else [said]:  # inspect gives an object, control a list of them
            answers.update(part)
        return bool(answers)

    until(is_answered, timeout_s=TIMEOUT_S, what=f"an answer to {command}")
    return answers


# --- celery -A worker.app ---


def test_ping_finds_the_worker_by_a_readable_name(worker: WorkerProcess, celery: Celery) -> None:
    ((name, answer),) = nodes(worker, celery, "inspect", "ping").items()

    assert answer == {"ok": "pong"}
    assert name == f"scorequeue-{worker.worker_id()[:6]}@{os.uname().nodename}"


def test_registered_names_the_one_task(worker: WorkerProcess, celery: Celery) -> None:
    assert list(nodes(worker, celery, "inspect", "registered").values()) == [[SCORE_TASK]]


def test_active_lists_the_feeder_that_runs(server: RedisServer, settings: dict[str, Any], celery: Celery, tmp_path):
    slow = WorkerProcess(
        tmp_path / "slow.log",
        module="tests.faults.faulty_worker",
        variables={"FAULTS_ROWS_PER_S": "500"},
        **settings | {"namespace": "slow"},
    )
    with slow as worker, Client(server.url, "slow") as client:
        until(lambda: bool(celery("inspect", "ping", namespace="slow").stdout), what="a worker that answers")
        client.submit(["The cat sat."] * 20_000, lane="bulk")

        (tasks,) = nodes(worker, lambda *args: celery(*args, namespace="slow"), "inspect", "active").values()

        assert [(task["name"], task["args"]) for task in tasks] == [(SCORE_TASK, ["bulk"])]


def test_status_counts_the_worker(worker: WorkerProcess, celery: Celery) -> None:
    run = celery("status")

    assert run.returncode == 0, run.stderr
    assert "1 node online." in run.stdout


def test_events_can_be_switched_on(worker: WorkerProcess, celery: Celery) -> None:
    (answer,) = nodes(worker, celery, "control", "enable_events").values()

    assert "ok" in answer


def test_celery_starts_no_worker_of_its_own(celery: Celery) -> None:
    """It would have no model."""
    run = celery("worker")

    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == (
        "Error: start a worker with: worker start (it loads and checks the model before it takes work)"
    )


def test_setting_that_is_wrong_is_named(celery: Celery) -> None:
    run = celery("status", redis_url="nonsense://x")

    assert run.returncode != 0
    assert "expected an address like redis://" in run.stderr


@pytest.mark.parametrize("command", [("inspect", "stats"), ("inspect", "conf"), ("report",)])
def test_no_password_is_shown(tmp_path: Path, settings: dict[str, Any], celery: Celery, command: tuple[str, ...]):
    """Whoever may look at workers need not know how to reach their Redis (celery/celery#9563)."""
    with server_with_users(tmp_path, namespace=NAMESPACE) as server:
        secret = password_of("worker")
        with_users = settings | {"redis_url": server.url_of("worker", secret)}
        with WorkerProcess(tmp_path / "worker.log", ledger_url=server.url, **with_users) as worker:
            run = lambda *args: celery(*args, redis_url=with_users["redis_url"])  # noqa: E731
            said = json.dumps(nodes(worker, run, *command)) if len(command) > 1 else run(*command).stdout

    assert str(server.port) in said
    assert secret not in said
    assert "p@ss" not in said


# --- Flower ---


@contextmanager
def flower(settings: dict[str, Any], log: Path) -> Iterator[Callable[[str], Any]]:
    """Run Flower; yields a function that asks its API."""
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "worker.app", "flower"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--address=127.0.0.1", f"--port={port}"],
            env=environment(**settings) | {"FLOWER_UNAUTHENTICATED_API": "true"},
            stdout=out,
            stderr=out,
        )

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:  # not there yet
            assert process.poll() is None, log.read_text()
            return {}

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(20)


def test_flower_shows_the_worker_online_and_its_tasks(
    worker: WorkerProcess, server: RedisServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    with flower(settings, tmp_path / "flower.log") as ask, Client(server.url, NAMESPACE) as client:
        until(lambda: bool(ask("/api/workers?refresh=1&status=1")), timeout_s=TIMEOUT_S, what="Flower's workers")
        client.submit(["The cat sat."]).wait(timeout_s=30)
        until(
            lambda: any(task["state"] == "SUCCESS" for task in ask("/api/tasks").values()),
            timeout_s=TIMEOUT_S,
            what="a task that Flower lists",
        )
        online = ask("/api/workers?status=1")
        tasks = ask("/api/tasks")

    assert list(online.values()) == [True]
    task = next(task for task in tasks.values() if task["state"] == "SUCCESS")
    assert task["name"] == SCORE_TASK
    assert task["runtime"] > 0


# --- what a worker outlives, and how it ends ---

GARBAGE = [
    b"not json",
    b"\xff\xfe\x00",
    b"",
    b"{}",
    b"[]",
    b'"text"',
    b"null",
    b'{"body": 1, "headers": null, "properties": {}}',
    b'{"body": "e30=", "content-type": "application/json", "headers": {}, "properties": '
    b'{"delivery_tag": "1", "delivery_info": {}, "body_encoding": "base64"}}',
    b'{"body": "!", "content-type": "application/x-python-serialize", "content-encoding": "binary", "headers": '
    b'{"task": "scorequeue.score", "id": "1"}, "properties": {"delivery_tag": "1", "delivery_info": {}, '
    b'"body_encoding": "base64"}}',
    b'{"body": "W1sibm93aGVyZSJdLHt9LHt9XQ==", "content-type": "application/json", "content-encoding": "utf-8", '
    b'"headers": {"task": "no.such.task", "id": "1"}, "properties": {"delivery_tag": "1", "delivery_info": {}, '
    b'"body_encoding": "base64"}}',
    b'{"body": "W1sibm93aGVyZSJdLHt9LHt9XQ==", "content-type": "application/json", "content-encoding": "utf-8", '
    b'"headers": {"task": "scorequeue.score", "id": "1"}, "properties": {"delivery_tag": "1", "delivery_info": {}, '
    b'"body_encoding": "base64"}}',
]


def test_malformed_messages_are_logged_and_dropped(worker: WorkerProcess, server: RedisServer) -> None:
    """Stock kombu ends the worker at the first one (celery/celery#7975), and its successor at the next."""
    queue = Keys(NAMESPACE).wake_ups(Lane.BULK)
    with redis.Redis.from_url(server.url) as raw, Client(server.url, NAMESPACE) as client:
        raw.lpush(queue, *GARBAGE)
        until(lambda: raw.llen(queue) == 0, what="messages that were read")

        assert client.submit(["The cat sat."] * 500, lane="bulk").wait(timeout_s=30).scored == 500
    assert worker.is_running
    assert worker.log.read_text().count("action=message_malformed") >= 6


def test_control_shutdown_drains(server: RedisServer, settings: dict[str, Any], celery: Celery, tmp_path: Path):
    """As SIGTERM does: what is on the device is committed, the rest goes back, and the next worker goes on."""
    where = settings | {"namespace": "drains"}
    module, slow = "tests.faults.faulty_worker", {"FAULTS_ROWS_PER_S": "2000"}
    with (
        WorkerProcess(tmp_path / "first.log", module=module, variables=slow, **where) as first,
        Client(settings=Settings(redis_url=server.url, namespace="drains")) as client,
        redis.Redis.from_url(server.url) as raw,
    ):
        nodes(first, lambda *args: celery(*args, namespace="drains"), "inspect", "ping")
        job = client.submit(["The cat sat."] * 12_000)
        until(lambda: job.status().scored > 0, what="a worker that scores")

        celery("control", "shutdown", namespace="drains")

        assert first.wait(60) == 0
        assert "action=drained" in first.log.read_text()
        assert raw.hlen(f"{Keys('drains').prefix}holders") == 0
        assert raw.hget(Keys("drains").meta, "expired") is None
        with WorkerProcess(tmp_path / "second.log", **where):
            status = job.wait(timeout_s=60)
        assert (status.scored, status.pending) == (12_000, 0)
        assert job.audit().is_clean
