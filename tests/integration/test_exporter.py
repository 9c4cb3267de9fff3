"""producer exporter as Prometheus meets it: a process, a port, a server that comes and goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from producer import Client
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, environment, until
from tests.servers import RedisServer, password_of, server_with_users
from tests.shell import Shell
from tests.tiny import publish_tiny

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

AWAY = {"scorequeue_redis_up": 0, "scorequeue_redis_writable": 0}


class Exporter:
    """``producer exporter`` on a free port, and what it answers."""

    def __init__(self, log: Path, **settings: object) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "producer", "exporter", "--port", "0"],
                env=environment(**settings),
                cwd=log.parent,
                stderr=file,
                # A shell's background job ignores SIGINT, and its children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        until(lambda: self._port() is not None, what="an exporter that listens")

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port()}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def samples(self) -> dict[str, float]:
        """Values by name and lane: ``scorequeue_backlog_rows:bulk``."""
        return {
            ":".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
        }

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(timeout=20)

    def _port(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"port=(\d+)", self.log.read_text())
        return found[1] if found else None


@contextmanager
def exporting(folder: Path, **settings: object) -> Iterator[Exporter]:
    exporter = Exporter(folder / "exporter.log", **settings)
    try:
        yield exporter
    finally:
        if exporter.process.poll() is None:
            exporter.process.kill()
            exporter.process.wait()


def documented() -> dict[str, tuple[str, str]]:
    """Type and labels by name, from the table of the docs."""
    rows = re.findall(r"^\| `(scorequeue_\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    return {name: (kind, label.strip("`") if label.startswith("`") else "") for name, kind, label in rows}


def test_gauges_are_those_of_the_docs_and_of_no_other_kind(tmp_path: Path, redis_url: str, namespace: str):
    """Names are what dashboards and alerts are written against."""
    with exporting(tmp_path, redis_url=redis_url, namespace=namespace) as exporter:
        text = exporter.scrape()

    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = (family.type, ",".join(sample.labels))
    assert found == documented()
    assert "_created" not in text
    assert "python_" not in text


def test_backlog_shows_without_a_worker_and_goes_away_with_one(tmp_path: Path, redis_url: str, namespace: str):
    """Scaling from zero depends on it: the exporter is there when no worker is."""
    publish_tiny(tmp_path / "registry")
    settings = {"redis_url": redis_url, "namespace": namespace}
    with exporting(tmp_path, **settings) as exporter, Client(redis_url, namespace) as client:
        assert exporter.samples()["scorequeue_backlog_seconds:bulk"] == 0

        job = client.submit(["The cat sat."] * 1_000)
        waiting = exporter.samples()
        assert waiting["scorequeue_backlog_rows:bulk"] == 1_000
        assert waiting["scorequeue_backlog_rows:express"] == 0
        assert waiting["scorequeue_backlog_seconds:bulk"] == float("inf")
        assert waiting["scorequeue_oldest_pending_seconds:bulk"] > 0
        assert waiting["scorequeue_live_workers"] == 0

        worker = WorkerProcess(tmp_path / "worker.log", **settings, registry=tmp_path / "registry", backend="fake")
        with worker:
            job.wait(60)
            scored = exporter.samples()
            assert scored["scorequeue_live_workers"] == 1
            assert scored["scorequeue_backlog_rows:bulk"] == 0
            assert scored["scorequeue_oldest_pending_seconds:bulk"] == 0
            assert scored["scorequeue_backlog_seconds:bulk"] == 0
            assert scored["scorequeue_redis_memory_bytes"] > 0

            until(lambda: worker.about()["rows"] >= 1_000, what="a worker that says what it has done")
            worker.pause()
            client.submit(["The cat sat."] * 500)
            assert 0 < exporter.samples()["scorequeue_backlog_seconds:bulk"] < float("inf")
            worker.resume()


def test_no_old_number_is_shown_while_redis_is_away(tmp_path: Path):
    """A gauge that stands still looks like a queue that stands still."""
    # always: with everysec a write may stay behind a slow sync of the disk, and go with the server.
    with (
        RedisServer(tmp_path, "--appendfsync", "always") as server,
        exporting(tmp_path, redis_url=server.url) as exporter,
    ):
        with Client(server.url) as client:
            client.submit(["The cat sat."] * 100)
        assert exporter.samples()["scorequeue_backlog_rows:bulk"] == 100

        server.kill()
        assert exporter.samples() == AWAY
        assert exporter.samples() == AWAY

        server.start()
        until(lambda: exporter.samples().get("scorequeue_backlog_rows:bulk") == 100, what="gauges that are back")
        log = exporter.log.read_text()

    assert log.count("redis_away") == 1
    assert log.count("redis_back") == 1
    assert "Traceback" not in log


def test_exporter_starts_before_redis_does(tmp_path: Path):
    server = RedisServer(tmp_path)

    with exporting(tmp_path, redis_url=server.url) as exporter:
        assert exporter.samples() == AWAY
        with server:
            until(lambda: exporter.samples()["scorequeue_redis_up"] == 1, what="a Redis that is seen")


def test_exporter_s_own_user_is_enough(tmp_path: Path):
    """deploy/redis/users.acl: it may read, and nothing else; nothing that it does is refused."""
    with server_with_users(tmp_path) as server:
        with Client(server.url_of("producer", password_of("producer"))) as client:
            client.submit(["The cat sat."] * 100)
            client.submit(["The cat sat."] * 100).cancel()
        url = server.url_of("exporter", password_of("exporter"))
        with exporting(tmp_path, redis_url=url) as exporter:
            samples = exporter.samples()
            log = exporter.log.read_text()

    assert samples["scorequeue_redis_up"] == 1
    assert samples["scorequeue_backlog_rows:bulk"] == 100
    assert password_of("exporter") not in log


def test_wrong_password_is_said_in_the_log_and_shown_as_down(tmp_path: Path):
    with (
        server_with_users(tmp_path) as server,
        exporting(tmp_path, redis_url=server.url_of("exporter", "wrong-password")) as exporter,
    ):
        assert exporter.samples() == AWAY
        log = exporter.log.read_text()

    assert "check the user and password" in log
    assert "wrong-password" not in log


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_0(tmp_path: Path, redis_url: str, signum: signal.Signals):
    with exporting(tmp_path, redis_url=redis_url) as exporter:
        exporter.scrape()

        assert exporter.end(signum) == 0


def test_port_that_is_taken_and_an_address_that_cannot_be_are_one_line(tmp_path: Path, redis_url: str):
    sh = Shell(tmp_path, Settings(redis_url=redis_url))
    with exporting(tmp_path, redis_url=redis_url) as exporter:
        port = exporter._port()
        assert port is not None

        assert "name another --port" in sh.error("exporter", "--port", port, code=2)
    assert "expected an address" in sh.error("exporter", "--redis-url", "redis://host/0?bogus=1", code=3)
    assert os.listdir(tmp_path) == ["exporter.log"]
