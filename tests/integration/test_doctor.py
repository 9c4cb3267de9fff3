"""producer doctor against real servers that are set up well, badly or not at all."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.doctor import diagnose
from producer.facts import gather
from scorequeue.jobs import Lane
from scorequeue.keys import Keys
from scorequeue.ledger import Ledger
from scorequeue.records import LaneRoom
from scorequeue.settings import Settings
from tests.integration.scoring import VERSION
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer, password_of, server_with_users
from tests.shell import Shell
from tests.tiny import publish_tiny

WELL = ("--maxmemory", "1gb", "--lazyfree-lazy-expire", "yes")


def shell(folder: Path, url: str, **settings: Any) -> Shell:
    return Shell(folder, Settings(redis_url=url, **settings))


def checks_of(sh: Shell, *args: str, code: int = 0) -> dict[str, dict[str, str]]:
    (line,) = sh("doctor", "--json", *args, code=code).stdout.splitlines()
    return {check["name"]: check for check in json.loads(line)["checks"]}


def test_all_is_well_where_all_is_set_up(tmp_path: Path):
    """A server as docs/redis.md asks for, a worker, its registry: no line has a next step."""
    version = publish_tiny(tmp_path / "registry")
    with RedisServer(tmp_path, *WELL) as server:
        worker = WorkerProcess(
            tmp_path / "worker.log",
            redis_url=server.url,
            namespace="scorequeue",
            registry=tmp_path / "registry",
            backend="fake",
        )
        with worker:
            sh = shell(tmp_path, server.url)
            checks = checks_of(sh, "--registry", "registry", "--verify")
            lines = sh("doctor", "--registry", "registry").stdout.splitlines()

    assert {name: check["state"] for name, check in checks.items()} == dict.fromkeys(checks, "ok")
    assert {check["next"] for check in checks.values()} == {None}
    assert checks["worker versions"]["found"] == f"{version} (1)"
    assert "have their checksums" in checks["registry"]["found"]
    assert [line.split()[0] for line in lines] == ["ok"] * len(checks)


def test_settings_that_lose_rows_are_exit_3_with_what_to_type(tmp_path: Path):
    with RedisServer(tmp_path, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru") as server:
        sh = shell(tmp_path, server.url)
        checks = checks_of(sh, code=3)
        said = sh("doctor", code=3)

    assert [name for name, check in checks.items() if check["state"] == "fail"] == ["appendonly", "maxmemory-policy"]
    assert "CONFIG SET maxmemory-policy noeviction" in checks["maxmemory-policy"]["next"]
    assert said.stdout.splitlines()[3].startswith("fail     appendonly")
    assert f"2 of {len(checks)} checks failed: appendonly, maxmemory-policy" in said.stderr


def test_advice_mends_what_it_is_for(tmp_path: Path):
    """What the lines say to type is typed."""
    with RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru", "--appendonly", "no") as server:
        sh = shell(tmp_path, server.url)
        advice = [check["next"] or "" for check in checks_of(sh, code=3).values()]
        with redis.Redis.from_url(server.url) as admin:
            for step in advice:
                if "CONFIG SET " in step:
                    name, value = step.partition("CONFIG SET ")[2].partition(",")[0].split()
                    admin.config_set(name, value)
        after = checks_of(sh)

    assert {after[name]["state"] for name in ("appendonly", "maxmemory-policy", "lazyfree-lazy-expire", "memory")} == {
        "ok"
    }


def test_redis_that_is_away_is_one_line_and_exit_3(tmp_path: Path):
    sh = shell(tmp_path, "redis://someone:hidden-word@127.0.0.1:1/0")

    checks = checks_of(sh, code=3)
    said = sh("doctor", code=3)

    assert checks["redis"]["state"] == "fail"
    assert "worker start --local" in checks["redis"]["next"]
    assert "hidden-word" not in said.stdout + said.stderr


def test_wrong_password_and_a_newer_namespace_are_said_as_such(tmp_path: Path):
    with server_with_users(tmp_path) as server:
        refused = checks_of(shell(tmp_path, server.url_of("producer", "wrong")), code=3)
        with redis.Redis.from_url(server.url) as admin:
            admin.hset(Keys("scorequeue").meta, "protocol", 99)
        newer = checks_of(shell(tmp_path, server.url), code=3)

    assert "check the user and password" in refused["redis"]["next"]
    assert "got 99" in newer["redis"]["found"]
    assert "update this program" in newer["redis"]["next"]


@pytest.mark.parametrize("user", ["producer", "exporter"])
def test_user_with_few_rights_is_told_what_it_cannot_see(tmp_path: Path, user: str):
    """It is no fault that a producer may not read the server's settings: rights are few on purpose."""
    with server_with_users(tmp_path, *WELL) as server:
        checks = checks_of(shell(tmp_path, server.url_of(user, password_of(user))))

    assert [name for name, check in checks.items() if check["state"] == "unknown"] == [
        *(["writes"] if user == "exporter" else []),
        "appendfsync",
        "lazyfree-lazy-expire",
        "registry",
    ]
    assert checks["appendonly"]["state"] == checks["maxmemory-policy"]["state"] == checks["memory"]["state"] == "ok"


def test_leases_of_a_dead_worker_are_taken_back(tmp_path: Path, redis_url: str, namespace: str):
    """Who looks after a queue should find it in order afterwards."""
    settings = Settings(redis_url=redis_url, namespace=namespace, lease_s=4)
    shell(tmp_path, redis_url, namespace=namespace)("submit", "--text", "a", "--quiet")
    with closing(Ledger.connect(settings)) as ledger:
        ledger.renew("dead", {}, list(Lane), [], is_first=True)
        ledger.claim("dead", [LaneRoom(Lane.EXPRESS, 64, 1)], versions=[VERSION], default_version=VERSION)

        def has_run_out() -> bool:
            ledger.renew("another", {}, list(Lane), [])  # the ledger knows that Redis was there all the time
            return ledger.overview().overdue_leases == 1

        until(has_run_out, what="a lease that ran out")
        found = {check.name: check for check in diagnose(gather(settings)).checks}

        assert "1 had run out, 1 of them went back" in found["leases"].found
        assert ledger.overview().leases == 0
        assert ledger.overview().lanes[0].waiting_rows == 1


def test_leases_that_ran_out_unseen_get_a_full_term_first(tmp_path: Path, redis_url: str, namespace: str):
    """Nobody stamped the ledger meanwhile: it may have been Redis that was away, and the worker may live."""
    settings = Settings(redis_url=redis_url, namespace=namespace, lease_s=0.5)
    sh = shell(tmp_path, redis_url, namespace=namespace)
    sh("submit", "--text", "a", "--quiet")
    with closing(Ledger.connect(settings)) as ledger:
        ledger.renew("dead", {}, list(Lane), [], is_first=True)
        ledger.claim("dead", [LaneRoom(Lane.EXPRESS, 64, 1)], versions=[VERSION], default_version=VERSION)
        until(lambda: ledger.overview().overdue_leases == 1, what="a lease that ran out")

        found = checks_of(sh)["leases"]

        assert "1 had run out, 0 of them went back" in found["found"]
        assert "a full term first" in found["next"]


def test_damaged_version_is_exit_6_and_its_checksums_are_compared_on_request(tmp_path: Path, redis_url: str):
    version = publish_tiny(tmp_path / "registry")
    sh = shell(tmp_path, redis_url, namespace="doctor-registry")
    config = tmp_path / "registry" / "versions" / version / "config.json"
    config.chmod(0o644)
    config.write_text(config.read_text() + "\n")

    assert checks_of(sh, "--registry", "registry")["registry"]["state"] == "ok"
    assert "sha256" in checks_of(sh, "--registry", "registry", "--verify", code=6)["registry"]["found"]
    config.unlink()
    assert "lacks config.json" in checks_of(sh, "--registry", "registry", code=6)["registry"]["found"]


def run_on_a_terminal(sh: Shell, *args: str, **variables: str) -> str:
    """Run a command whose stdout is a terminal, and return what it wrote there."""
    leader, follower = pty.openpty()
    with subprocess.Popen(sh.command(*args), cwd=sh.folder, env=sh.env | variables, stdout=follower, stderr=follower):
        os.close(follower)
        said = b""
        try:
            while part := os.read(leader, 65_536):
                said += part
        except OSError:  # Linux's word for the end of a terminal
            pass
    os.close(leader)
    return said.decode()


def test_colours_are_for_terminals_and_no_color_turns_them_off(tmp_path: Path, redis_url: str, namespace: str):
    sh = shell(tmp_path, redis_url, namespace=namespace)

    assert "\x1b[32mok" in run_on_a_terminal(sh, "doctor")
    assert "\x1b" not in run_on_a_terminal(sh, "doctor", NO_COLOR="1")
    assert "\x1b" not in sh("doctor").stdout
