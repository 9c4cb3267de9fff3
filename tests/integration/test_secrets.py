"""No password on stdout, on stderr or in a log, whatever goes wrong: real programs that say all they can."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.exporter import QueueCollector
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
            said = f"a refused worker that says {line}"
            until(lambda line=line: line in worker.log.read_text(), timeout_s=60, what=said)
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

        assert answers[0]["broker"] == {"address": f"redis+socket://worker:**@{socket}"}
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


LONG_PASSWORD = "w:rd-" + "0123456789abcdef" * 20
"""A server repeats 128 bytes of a command that it does not know: only the beginning of this one."""


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that does not know HELLO, as Redis 5."""
    options = ("--requirepass", LONG_PASSWORD, "--rename-command", "HELLO", "")
    server = RedisServer(tmp_path, *options, user="default", password=LONG_PASSWORD)
    server.start(wait=False)
    plain = redis.Redis(port=server.port, password=LONG_PASSWORD, protocol=2)

    def answers() -> bool:
        try:
            return bool(plain.ping())
        except redis.RedisError:
            return False

    with plain:
        until(answers, what="a server")
    yield server
    server.__exit__()


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "command",
    [
        ("producer", "submit", "--text", "x"),
        ("producer", "status", NO_JOB),
        ("producer", "doctor"),
        ("worker", "start"),
        ("worker", "status"),
        ("training.cli", "prune", "--keep", "1"),
    ],
)
def test_server_that_does_not_know_hello_shows_no_password(old_server, registry, style, command):
    """It answers with what came: HELLO 3 AUTH, the user, the password."""
    done = run(old_server.url, style, *command, registry=registry, backend="fake")

    assert done.returncode == 3, done.stderr
    assert LONG_PASSWORD[:5] not in done.stdout + done.stderr
    assert "HELLO" in done.stdout + done.stderr


def test_server_that_does_not_know_hello_is_shown_as_away_by_the_exporter(old_server, caplog):
    collector = QueueCollector(Settings(redis_url=old_server.url))

    assert {sample.value for metric in collector.collect() for sample in metric.samples} == {0.0}

    logged = str([record.__dict__ for record in caplog.records])
    assert "HELLO" in logged
    assert LONG_PASSWORD[:5] not in logged


def test_celery_shows_no_password_of_a_server_that_does_not_know_hello(old_server):
    """A server may be replaced under a worker; then Celery and kombu say what it answered."""
    script = (
        "import logging, sys; from scorequeue import logs; from scorequeue.settings import Settings;"
        "from scorequeue.masking import secrets_of; from scorequeue.queue import make_app;"
        "settings = Settings(); logs.configure('debug', 'text', secrets=secrets_of(settings.redis_url));"
        "app = make_app(settings); log = logging.getLogger('celery')\n"
        "try: app.connection_for_write().default_channel.client.ping()\n"
        "except Exception: log.exception('lost'); sys.exit(7)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(redis_url=old_server.url),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 7, done.stderr
    assert "HELLO" in done.stderr
    assert LONG_PASSWORD[:5] not in done.stderr


class _Redis5(socketserver.StreamRequestHandler):
    """Answers as Redis 5.0 does to what a client begins with."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2].decode())
            if words[0] == "HELLO":
                said = ", ".join(f"`{word}`" for word in words[1:])
                self.wfile.write(f"-ERR unknown command `HELLO`, with args beginning with: {said}\r\n".encode())
            elif words[0] == "INFO":
                self.wfile.write(b"$20\r\nredis_version:5.0.14\r\n")
            else:
                self.wfile.write(b"+OK\r\n")


def test_redis_5_is_refused_by_its_number(registry):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Redis5) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://someone:{LONG_PASSWORD}@127.0.0.1:{server.server_address[1]}/0"
        said = {
            command: run(url, "text", *command, registry=registry, backend="fake").stderr
            for command in [("producer", "submit", "--text", "x"), ("worker", "start")]
        }
        server.shutdown()

    assert set(said.values()) == {"Error: expected Redis 6.2 or newer, got 5.0; update the server\n"}
