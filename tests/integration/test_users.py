"""The users of deploy/redis/users.acl on a real server: each can do its work, and what is not its own is refused."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer import Client
from scorequeue.errors import RedisRefusedError
from scorequeue.jobs import JobState, Lane
from scorequeue.keys import Keys
from scorequeue.ledger import Ledger
from scorequeue.queue import make_app
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, environment, until
from tests.servers import RedisServer, password_of, server_with_users
from tests.tiny import publish_tiny
from training.pins import read_pins

DOCS = Path(__file__).parents[2] / "docs" / "redis.md"

NAMESPACE = "scorequeue"
"""The one in the file; each server here is its test's own."""

CELERY = Keys(NAMESPACE).celery_prefix
OWN = f"{{{NAMESPACE}}}:jobs"
OTHER = "{other}:jobs"

DANGEROUS = [
    *("FLUSHALL", "FLUSHDB", "SHUTDOWN NOSAVE", "CONFIG SET appendonly no", "CONFIG GET requirepass"),
    *("ACL LIST", "ACL SETUSER producer +@all", "SAVE", "REPLICAOF NO ONE", "SCRIPT FLUSH", "SCRIPT KILL", "MONITOR"),
    *("CLIENT LIST", "CLIENT KILL TYPE normal", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "SWAPDB 0 1", "SLOWLOG GET"),
    *("MODULE LIST", f"DUMP {OWN}", f"MIGRATE 127.0.0.1 1 {OWN} 0 1", f"RENAME {OWN} {OWN}2", f"OBJECT FREQ {OWN}"),
    *(f"HGETALL {OTHER}", f"HGET {OTHER} a", f"ZRANGE {OTHER} 0 -1", f"LLEN {OTHER}"),
]
INSIDE_SCRIPTS = [
    ("return redis.call('FLUSHALL')", OWN),
    ("return redis.call('KEYS', '*')", OWN),
    ("return redis.call('ZADD', KEYS[1], 1, 'a')", OTHER),
    ("return redis.call('ZADD', ARGV[1], 1, 'a')", OWN),
]
REFUSED = {
    "producer": [
        *(f"BRPOP {CELERY}express 1", f"RPOP {CELERY}express", f"LRANGE {CELERY}express 0 -1"),
        *(f"HSET {OTHER} a b", f"SET {OTHER} a", f"DEL {OTHER}", f"PUBLISH {OTHER} a", f"SUBSCRIBE {OTHER}"),
    ],
    "worker": [
        *(f"HSET {OTHER} a b", f"DEL {OTHER}", f"LPUSH {OTHER} a", f"BRPOP {OTHER} 1", f"RPOP {CELERY}express"),
        *(f"PUBLISH {OTHER} a", f"PSUBSCRIBE {OTHER}", "PSUBSCRIBE *", f"SET {OWN} a", f"HKEYS {OWN}"),
    ],
    "exporter": [
        *(f"HSET {OWN} a b", f"DEL {OWN}", f"LPUSH {OWN} a", f"ZADD {OWN} 1 a", f"SET {OWN} a", f"SADD {OWN} a"),
        *(f"BRPOP {OWN} 1", f"PUBLISH {OWN} a", f"SUBSCRIBE {OWN}", f"PSUBSCRIBE {OWN}", f"PEXPIREAT {OWN} 1", "MULTI"),
        *("SCRIPT LOAD return", f"EVAL return 1 {OWN}", f"EVALSHA {'0' * 40} 1 {OWN}"),
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with server_with_users(tmp_path_factory.mktemp("redis")) as server:
        yield server


def url_of(server: RedisServer, user: str) -> str:
    return server.url_of(user, password_of(user))


@pytest.fixture
def worker(server: RedisServer, tmp_path: Path) -> Iterator[WorkerProcess]:
    publish_tiny(tmp_path / "registry")
    settings = {"redis_url": url_of(server, "worker"), "namespace": NAMESPACE, "registry": tmp_path / "registry"}
    with WorkerProcess(tmp_path / "worker.log", **settings, backend="fake", lease_s=1) as worker:
        yield worker


def refusals(server: RedisServer) -> list[dict[str, Any]]:
    """What the server has refused to users, but for redis-py's telling its own name and WAITAOF: neither is needed."""
    with redis.Redis.from_url(server.url) as admin:
        return [entry for entry in admin.acl_log() if not entry["object"].startswith(("client", "waitaof"))]


# --- what each may ---


def test_job_goes_through_with_a_user_for_each_side(
    server: RedisServer, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Wake-ups too: one that is refused costs a job a quarter of a second, and nobody would notice."""
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_log_reset()
        with Client(url_of(server, "producer"), NAMESPACE) as client, caplog.at_level(logging.WARNING):
            bulk = client.submit(["The cat sat."] * 30_000, deadline_s=60, idempotency_key="bulk")
            express = client.submit(["The cat sat."] * 10)
            assert client.submit(["The cat sat."] * 30_000, idempotency_key="bulk").id == bulk.id
            admin.script_flush()  # as a restart would: scripts go whole again

            assert bulk.wait(timeout_s=30).scored == 30_000
            assert express.wait(timeout_s=30).scored == 10
            assert len(list(bulk.results())) == 30_000
            assert bulk.audit().is_clean
        until(lambda: admin.llen(f"{CELERY}express") + admin.llen(f"{CELERY}bulk") == 0, what="wake-ups that were read")

    assert worker.terminate() == 0
    assert refusals(server) == []
    assert caplog.text == ""
    assert "Traceback" not in worker.log.read_text()


def test_remote_control_reaches_the_worker(server: RedisServer, worker: WorkerProcess) -> None:
    app = make_app(Settings(redis_url=url_of(server, "worker"), namespace=NAMESPACE))

    with closing(app), app.connection_for_write() as connection:
        answers: list[Any] = []
        until(lambda: bool(answers.extend(app.control.ping(timeout=1, connection=connection)) or answers))

    assert refusals(server) == []


def test_monitor_sees_the_worker(server: RedisServer, worker: WorkerProcess) -> None:
    """Flower and `celery events` with the worker's password."""
    app = make_app(Settings(redis_url=url_of(server, "worker"), namespace=NAMESPACE))
    seen: list[dict[str, Any]] = []

    with closing(app), app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})

        def has_seen() -> bool:
            with suppress(TimeoutError):
                receiver.capture(limit=1, timeout=2)
            return bool(seen)

        until(has_seen, what="an event of the worker")

    assert seen[0]["hostname"].startswith("scorequeue-")
    assert refusals(server) == []


def test_exporter_reads_what_it_shows(server: RedisServer, worker: WorkerProcess) -> None:
    ledger = Ledger.connect(Settings(redis_url=url_of(server, "exporter"), namespace=NAMESPACE))

    with closing(ledger), redis.Redis.from_url(url_of(server, "exporter")) as exporter:
        assert worker.pid in [about["pid"] for about in ledger.workers()]
        assert ledger.pressure(Lane.BULK).backlog_rows == 0
        assert exporter.llen(f"{CELERY}bulk") == 0
        assert exporter.zcard(f"{{{NAMESPACE}}}:lane:bulk") == 0
        assert exporter.zcount(OWN, "-inf", "+inf") >= 0


def test_prune_asks_as_one_who_may_only_read(server: RedisServer, worker: WorkerProcess) -> None:
    with Client(url_of(server, "producer"), NAMESPACE) as client:
        job = client.submit(["The cat sat."], model_version="20200101T000000-000000")

        pins = read_pins(Settings(redis_url=url_of(server, "exporter"), namespace=NAMESPACE))

        job.cancel()
    assert pins.in_use["20200101T000000-000000"] == f"job {job.id} is pinned to it"
    assert pins.in_use[worker.about()["model_version"]].startswith("worker ")
    assert refusals(server) == []


def test_jobs_survive_a_killed_server(tmp_path: Path) -> None:
    """A server from 7.0 on drops every script of its own file whose commands the default user may not run."""
    with server_with_users(tmp_path) as server, Client(url_of(server, "producer"), NAMESPACE) as client:
        job = client.submit(["The cat sat."] * 1_000)
        before = job.status()

        server.kill()
        server.start()

        after = job.status()
        assert (after.state, after.total, after.pending) == (JobState.QUEUED, 1_000, 1_000)
        assert after.chunks == before.chunks
        assert job.audit().is_clean, "it looks for the inputs of what is pending"


def test_another_namespace_is_a_change_of_the_file(tmp_path: Path) -> None:
    with server_with_users(tmp_path, namespace="other") as server:
        with Client(url_of(server, "producer"), "other") as client:
            assert client.submit(["The cat sat."]).status().total == 1

        with pytest.raises(RedisRefusedError, match="rights"):
            Client(url_of(server, "producer"), NAMESPACE)


def test_recipe_of_the_docs_makes_a_file_without_passwords(tmp_path: Path) -> None:
    found = re.search(r"```sh\n(cp deploy/redis/users\.acl .*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    (tmp_path / "deploy").symlink_to(DOCS.parents[1] / "deploy")

    made = subprocess.run(["sh", "-euc", found[1]], cwd=tmp_path, capture_output=True, text=True, check=True)

    passwords = dict(line.split() for line in made.stdout.splitlines())
    file = tmp_path / "users.acl"
    assert set(passwords) == {"producer", "worker", "exporter"}
    assert not [word for word in (*passwords.values(), "CHANGE-ME") if word in file.read_text()]
    asked = RedisServer(tmp_path, "--aclfile", str(file), user="producer", password=passwords["producer"])
    with asked as server, redis.Redis.from_url(server.url_of("worker", passwords["worker"])) as client:
        assert client.ping()


# --- what each may not ---


@pytest.mark.parametrize(
    ("user", "command"), [(user, command) for user in REFUSED for command in [*DANGEROUS, *REFUSED[user]]]
)
def test_what_is_not_a_role_s_own_is_refused(server: RedisServer, user: str, command: str) -> None:
    with redis.Redis.from_url(url_of(server, user)) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())


@pytest.mark.parametrize("user", ["producer", "worker"])
@pytest.mark.parametrize(("script", "key"), INSIDE_SCRIPTS)
def test_scripts_are_no_way_round(server: RedisServer, user: str, script: str, key: str) -> None:
    with (
        redis.Redis.from_url(url_of(server, user)) as client,
        pytest.raises(redis.exceptions.ResponseError, match=r"can't|NOPERM|permission"),
    ):
        client.eval(script, 1, key, OTHER)


def test_nobody_comes_in_without_a_name(server: RedisServer) -> None:
    for user, password in ((None, None), ("default", ""), ("default", password_of("producer")), ("producer", "")):
        with (
            redis.Redis(port=server.port, username=user, password=password, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.ping()


@pytest.mark.parametrize(
    "command", [["producer", "status", "0" * 32], ["producer", "submit", "--text", "x"], ["worker", "start"]]
)
@pytest.mark.parametrize("user", ["producer", "worker", "nobody"])
def test_wrong_password_is_one_line_and_exit_3(server, tmp_path, command, user):
    publish_tiny(tmp_path / "registry")
    settings = {
        "redis_url": server.url_of(user, "wrong/password"),
        "registry": tmp_path / "registry",
        "backend": "fake",
    }

    run = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment(**settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (run.returncode, run.stdout) == (3, "")
    (line,) = run.stderr.splitlines()
    assert re.match("Error: Redis refused: .*; check the user and password in --redis-url", line)
    assert "wrong" not in line.replace("WRONGPASS", "").lower()


def test_role_that_may_only_read_lists_jobs(server: RedisServer) -> None:
    """A list ends what has run out first; who may not do that is shown what there is."""
    with Client(url_of(server, "producer"), NAMESPACE) as client:
        job_id = client.submit(["The cat sat."]).id

    with closing(Ledger.connect(Settings(redis_url=url_of(server, "exporter"), namespace=NAMESPACE))) as reader:
        assert job_id in [job.id for job in reader.jobs()]


def test_role_that_may_not_submit_is_told_so(server: RedisServer, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "producer", "submit", "--text", "x"],
        env=environment(redis_url=url_of(server, "exporter")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 3
    assert "Redis refused" in run.stderr
    assert "the user's rights" in run.stderr
    assert len(run.stderr.splitlines()) == 1
