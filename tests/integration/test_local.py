"""The embedded Redis: shared by all who use it in a folder, and never in the way of anybody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.processes import until
from tests.servers import RedisServer
from worker.local import LocalRedis

IMPORTS = "import time\nfrom pathlib import Path\nfrom worker.local import LocalRedis\n"


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_second_user_joins_and_the_last_one_stops_the_server(tmp_path: Path) -> None:
    with LocalRedis(tmp_path) as first:
        with LocalRedis(tmp_path) as second:
            assert second.url == first.url
        assert answers(first.url)

    assert not answers(first.url)
    assert not (tmp_path / "local.json").exists()


def test_jobs_survive_a_stop(tmp_path: Path) -> None:
    with LocalRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")

    with LocalRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_server_of_a_killed_user_is_joined(tmp_path: Path) -> None:
    code = f"with LocalRedis(Path({str(tmp_path)!r})): print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", IMPORTS + code], stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"up\n"
        left = json.loads((tmp_path / "local.json").read_text())
        user.kill()

    with LocalRedis(tmp_path) as heir:
        assert heir.url == left["url"]

    until(lambda: not answers(left["url"]), what="the end of the server that was left")


def test_note_of_a_server_that_is_gone_harms_nobody(tmp_path: Path, redis_server: RedisServer) -> None:
    """Port and pid may be somebody else's by now: neither is joined, nor ended."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as innocent:
        (tmp_path / "local.json").write_text(json.dumps({"url": redis_server.url, "pid": innocent.pid}))

        with LocalRedis(tmp_path) as server:
            assert server.url != redis_server.url

        assert innocent.poll() is None
        innocent.kill()
    assert answers(redis_server.url)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to tell a stopped server from a dead one")
def test_server_that_is_slow_is_waited_for_not_replaced(tmp_path: Path) -> None:
    """Two servers would write one append-only file, and ruin it."""
    with LocalRedis(tmp_path) as first:
        pid = json.loads((tmp_path / "local.json").read_text())["pid"]
        code = f"with LocalRedis(Path({str(tmp_path)!r})) as server: print(server.url)"
        os.kill(pid, signal.SIGSTOP)
        with subprocess.Popen([sys.executable, "-c", IMPORTS + code], stdout=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=4)
            os.kill(pid, signal.SIGCONT)
            said, _ = second.communicate(timeout=30)

        assert said.strip() == first.url
