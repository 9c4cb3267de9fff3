"""An idle worker costs Redis next to nothing: counted, not timed."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import Client
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny

WATCHED_S = 20.0
HEARTBEAT_S = 5.0
COMMANDS_PER_S = 2.0
FILE_BYTES_PER_DAY = 5_000_000
NAMESPACE = "scorequeue"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Watched:
    """Commands that clients send, without those that scripts call, until the time is over."""

    def __init__(self, server: RedisServer) -> None:
        self.commands: Counter[str] = Counter()
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began = threading.Event()

    def for_s(self, seconds: float) -> Counter[str]:
        self._thread.start()
        assert self._began.wait(10)
        over_at = time.monotonic() + seconds
        until(lambda: time.monotonic() > over_at, timeout_s=2 * seconds, what="the end of the watch")
        self._is_over.set()
        with redis.Redis.from_url(self._server.url) as raw:
            raw.echo("over")
        self._thread.join(10)
        return self.commands

    def _watch(self) -> None:
        with redis.Redis.from_url(self._server.url) as raw, raw.monitor() as monitor:
            self._began.set()
            for entry in monitor.listen():
                if self._is_over.is_set():
                    return
                if entry["client_type"] != "lua":
                    self.commands[entry["command"].split()[0].upper()] += 1


def test_idle_worker_writes_nothing_but_its_heartbeat(server: RedisServer, tmp_path: Path) -> None:
    """5 MB of append-only file a day and two commands a second, with both lanes."""
    publish_tiny(tmp_path / "registry")
    settings = {"redis_url": server.url, "namespace": NAMESPACE, "registry": tmp_path / "registry", "backend": "fake"}
    with WorkerProcess(tmp_path / "worker.log", **settings), Client(server.url, NAMESPACE) as client:
        client.submit(["The cat sat."] * 1_000).wait(timeout_s=30)
        idle_at = time.monotonic() + 10  # eight seconds after work the poller has come to rest
        until(lambda: time.monotonic() > idle_at, what="a worker at rest")

        before = os.stat(server.append_only_file).st_size
        commands = Watched(server).for_s(WATCHED_S)
        written = os.stat(server.append_only_file).st_size - before

    assert commands["EVALSHA"] <= WATCHED_S / 2 + WATCHED_S / HEARTBEAT_S + 2, "a poll every two seconds, heartbeats"
    assert commands.total() <= COMMANDS_PER_S * WATCHED_S, commands
    # One heartbeat more may fall into the time.
    assert 0 < written <= FILE_BYTES_PER_DAY / 86_400 * (WATCHED_S + HEARTBEAT_S)
