"""The embedded Redis: shared by all who use it in a folder, and never in the way of anybody else's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from tests.processes import environment, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny
from worker.local import local_redis

IMPORTS = "import time\nfrom pathlib import Path\nfrom worker.local import local_redis\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    publish_tiny(folder)
    return folder


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_second_user_joins_and_the_last_one_stops_the_server(tmp_path: Path) -> None:
    with local_redis(tmp_path) as first:
        with local_redis(tmp_path) as second:
            assert second == first
        assert answers(first)

    until(lambda: not answers(first), what="a server that stopped")
    assert not (tmp_path / "local.json").exists()


def test_jobs_survive_a_stop(tmp_path: Path) -> None:
    with local_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        client.set("kept", "yes")

    with local_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_killed_user_leaves_no_server_behind(tmp_path: Path) -> None:
    code = f"with local_redis(Path({str(tmp_path)!r})): print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", IMPORTS + code], stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"up\n"
        left = json.loads((tmp_path / "local.json").read_text())
        user.kill()

    until(lambda: not Path(f"/proc/{left['pid']}").exists(), what="the end of the server that was left")
    with local_redis(tmp_path) as heir:
        assert answers(heir)


def test_who_comes_while_the_server_stops_gets_a_new_one(tmp_path: Path) -> None:
    """The one that stops still writes the append-only file, so the next one must wait for its end."""
    with local_redis(tmp_path) as first:
        pid = json.loads((tmp_path / "local.json").read_text())["pid"]
        with redis.Redis.from_url(first) as client:
            client.set("kept", "yes")
        os.kill(pid, signal.SIGSTOP)
    until(lambda: not (tmp_path / "local.json").exists(), what="a server that is told to stop")
    code = (
        f"with local_redis(Path({str(tmp_path)!r})) as server:\n"
        " import redis; print(redis.Redis.from_url(server).get('kept'))"
    )
    with subprocess.Popen([sys.executable, "-c", IMPORTS + code], stdout=subprocess.PIPE, text=True) as second:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=2)
        os.kill(pid, signal.SIGCONT)
        said, _ = second.communicate(timeout=30)

    assert said.strip() == "b'yes'"


@pytest.mark.parametrize("gap_s", [0.0, 0.001, 0.005, 0.02])
@pytest.mark.parametrize("after", ["launch", "redis", "ready"])
def test_two_quick_signals_leave_no_server_behind(tmp_path: Path, registry: Path, after: str, gap_s: float) -> None:
    """A supervisor that is in a hurry, or Ctrl-C pressed twice, at any time of a worker's life."""
    log, note = tmp_path / "worker.log", tmp_path / ".scorequeue" / "local.json"
    reached = {
        "launch": lambda: (tmp_path / ".scorequeue" / "local.lock").exists(),
        "redis": note.exists,
        "ready": lambda: "action=worker_ready" in log.read_text(),
    }
    with log.open("w") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker", "start", "--local", "--backend", "fake"],
            env=environment(registry=registry),
            cwd=tmp_path,
            stderr=out,
        )
    try:
        until(reached[after], what=after)
        worker.send_signal(signal.SIGTERM)
        threading.Event().wait(gap_s)
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    finally:
        worker.kill()
        worker.wait()

    until(lambda: servers_in(tmp_path) == [], what="no server in the folder")
    assert not note.exists()


def servers_in(folder: Path) -> list[str]:
    """Command lines of what still runs for a folder."""
    lines = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in lines if str(folder) in line and "redis" in line]


def test_note_of_a_server_that_is_gone_harms_nobody(tmp_path: Path, redis_server: RedisServer) -> None:
    """Port and pid may be somebody else's by now: neither is joined, nor ended."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as innocent:
        (tmp_path / "local.json").write_text(json.dumps({"url": redis_server.url, "pid": innocent.pid}))

        with local_redis(tmp_path) as server:
            assert server != redis_server.url

        assert innocent.poll() is None
        innocent.kill()
    assert answers(redis_server.url)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to tell a stopped server from a dead one")
def test_server_that_is_slow_is_waited_for_not_replaced(tmp_path: Path) -> None:
    """Two servers would write one append-only file, and ruin it."""
    with local_redis(tmp_path) as first:
        pid = json.loads((tmp_path / "local.json").read_text())["pid"]
        code = f"with local_redis(Path({str(tmp_path)!r})) as server: print(server)"
        os.kill(pid, signal.SIGSTOP)
        with subprocess.Popen([sys.executable, "-c", IMPORTS + code], stdout=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=4)
            os.kill(pid, signal.SIGCONT)
            said, _ = second.communicate(timeout=30)

        assert said.strip() == first
