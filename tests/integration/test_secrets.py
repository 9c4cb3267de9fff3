"""No password on stdout, on stderr or in a log, whatever goes wrong: real programs that say all they can."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from scorequeue.masking import secrets_of
from scorequeue.queue import make_app
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, environment, until
from tests.servers import RedisServer, password_of, server_with_users
from tests.tiny import publish_tiny

NO_JOB = "0" * 32


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with server_with_users(tmp_path) as server:
        yield server


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    publish_tiny(tmp_path / "registry")
    return tmp_path / "registry"


def assert_hidden(url: str, said: str) -> None:
    pieces = {"w:rd", "w%3Ard"} if "w%3Ard" in url else set()
    for secret in {secret for secret in secrets_of(url) if len(secret) > 3} | pieces:
        assert secret not in said, said


def run(url: str, style: str, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command at its most talkative; nothing that it says may hold the address's password."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "--log-level", "debug", "--log-format", style],
        env=environment(redis_url=url, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_hidden(url, done.stdout + done.stderr)
    return done


@pytest.mark.parametrize("style", ["text", "json"])
def test_work_and_an_outage_show_no_password(server, registry, tmp_path, style):
    """Celery and kombu say for themselves that they lost their broker, and which."""
    url = server.url_of("producer", password_of("producer"))
    workers_url = server.url_of("worker", password_of("worker"))
    settings = {"redis_url": workers_url, "namespace": "scorequeue", "registry": registry, "backend": "fake"}
    worker = WorkerProcess(tmp_path / "worker.log", **settings, lease_s=1, log_level="debug", log_format=style)

    def has_said(*texts: str) -> bool:
        return all(text in worker.log.read_text() for text in texts)

    with worker:
        job_id = run(url, style, "producer", "submit", "--text", "The cat sat.").stdout.strip()
        for command in ("status", "audit"):
            assert run(url, style, "producer", command, job_id).returncode == 0
        assert run(url, style, "producer", "submit", "--text", "The dog sat.", "--wait").returncode == 0
        assert run(workers_url, style, "worker", "status").returncode == 0

        server.kill()
        until(lambda: has_said("redis_away", "Cannot connect to"), what="a ledger and a Celery that noticed")
        assert run(url, style, "producer", "status", job_id).returncode == 3
        assert run(url, style, "producer", "submit", "--text", "x").returncode == 3
        server.start()
        until(lambda: has_said("redis_back"), what="a worker that goes on")

        assert run(url, style, "producer", "submit", "--text", "The cow sat.", "--wait").returncode == 0
        assert worker.terminate() == 0

    assert_hidden(workers_url, worker.log.read_text())


@pytest.mark.parametrize("style", ["text", "json"])
def test_password_that_changes_under_a_worker_is_not_shown(server, registry, tmp_path, style):
    """Redis refuses both roads from one moment to the next; what the worker then says is its own and Celery's."""
    url = server.url_of("worker", password_of("worker"))
    settings = {"redis_url": url, "namespace": "scorequeue", "registry": registry, "backend": "fake"}
    worker = WorkerProcess(tmp_path / "worker.log", **settings, lease_s=1, log_level="debug", log_format=style)

    with worker, redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "resetpass", ">another-password")
        admin.execute_command("CLIENT", "KILL", "USER", "worker")
        for line in ("redis_away", "Cannot connect to"):
            until(lambda line=line: line in worker.log.read_text(), what=f"a refused worker that says {line}")
        worker.terminate()

    assert_hidden(url, worker.log.read_text())


def test_remote_control_tells_no_password(registry, tmp_path):
    """Celery's own answer repeats kombu's whole connection: a socket's address, the options of TLS."""
    socket = tmp_path / "redis.sock"
    with server_with_users(tmp_path, "--unixsocket", str(socket)) as server:
        place = f"@127.0.0.1:{server.port}/0"
        url = server.url_of("worker", password_of("worker")).replace("redis:", "unix:").replace(place, f"@{socket}")
        settings = {"redis_url": url, "namespace": "scorequeue", "registry": registry, "backend": "fake"}
        app = make_app(Settings(redis_url=url))

        with WorkerProcess(tmp_path / "worker.log", **settings), closing(app), app.connection_for_write() as connection:
            inspect = app.control.inspect(timeout=1, connection=connection)
            answers: list[Any] = []
            until(lambda: bool(answers.extend((inspect.stats() or {}).values()) or answers), what="a worker's answer")

        assert answers[0]["broker"] == {"address": f"scorequeue+socket://worker:**@{socket}"}
        assert_hidden(url, json.dumps(answers))


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "command", [("producer", "status", NO_JOB), ("producer", "submit", "--text", "x"), ("worker", "start")]
)
def test_wrong_password_is_not_shown(server, registry, style, command):
    url = server.url_of("producer", "wr@ng/w:rd%")

    assert run(url, style, *command, registry=registry, backend="fake").returncode == 3


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("redis://producer:p@ss/w:rd@{place}/0", 3),
        ("redis://producer:12?w:rd@{place}/0", 3),
        ("redis://{place}/0?username=producer&password=w%3Ard&bad=w%3Ard", 3),
        ("redis://producer:w:rd#@{place}/0", 3),
        ("http://producer:w:rd@{place}/0", 2),
        ("producer:w:rd@{place}", 2),
    ],
)
@pytest.mark.parametrize("command", [("producer", "status", NO_JOB), ("worker", "start")])
def test_address_that_cannot_be_read_is_not_shown(redis_server, registry, command, address, code):
    url = address.format(place=f"127.0.0.1:{redis_server.port}")

    done = run(url, "text", *command, registry=registry, backend="fake")

    assert done.returncode == code
    assert "w:rd" not in done.stderr
    assert "w%3Ard" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
