"""Redis answers, and takes no writes: promises 1, 2 and 4 of docs/reliability.md, and no worker may end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.faults.proxy import Proxy
from tests.faults.stage import Stage, recovery, sentences, settle, until_scored
from tests.processes import WorkerProcess, until
from tests.refusing import fill, is_loading, pad, refuses_writes, replica_of
from tests.servers import RedisServer

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROWS = 20_000
MOST_LINES = 12
"""Lines that a worker may log of an outage of less than a minute: the loss and the return, seen by the ledger's
client and by the parts of Celery."""


def test_planned_failover_to_a_replica(stage: Stage) -> None:
    """The old master lives on as a replica, and keeps its connections: only a new connection finds the new one."""
    texts = sentences(ROWS)
    with Proxy(stage.server.port) as proxy, start_replica(stage) as replica:
        worker = stage.start_worker(rows_per_s=3_000, url=proxy.url)
        idle = stage.start_worker(url=proxy.url, rows_per_s=3_000)
        job = stage.client.submit(texts)
        until_scored(job)

        stage.redis().execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
        until(lambda: role_of(stage.server) == "slave", what="a master that became a replica")
        hold(stage, worker, seconds=5)
        proxy.lead_to(replica.port)
        stage.move_to(replica)
        with recovery(stage):
            scored = stage.ledger.status(job.id).scored
            until_scored(stage.client.job(job.id), scored + 1)
        settle(stage, stage.client.job(job.id), texts)
        assert_unhurt(stage, worker, idle)


def test_replica_is_stopped_for_30_seconds(stage: Stage) -> None:
    """With min-replicas-to-write 1 the master refuses writes until its replica is back."""
    stage.redis_options = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    texts = sentences(ROWS)
    with start_replica(stage) as replica:
        worker = stage.start_worker(rows_per_s=1_500)
        job = stage.client.submit(texts)
        until_scored(job)

        replica.pause()
        until(lambda: refuses_writes(stage.redis()), what="a master that misses its replica")
        hold(stage, worker, seconds=30)
        replica.resume()
        with recovery(stage):
            until_scored(job, job.status().scored + 1)

        settle(stage, job, texts)
        assert_unhurt(stage, worker)


def test_full_disk(stage: Stage, small_disk: Callable[[int], Path]) -> None:
    """The append-only file cannot be written: MISCONF, until there is room again."""
    stage.redis_folder = small_disk(16 * 2**20)
    texts = sentences(ROWS)
    worker = stage.start_worker(rows_per_s=1_500)
    job = stage.client.submit(texts)
    until_scored(job)

    filler = stage.redis_folder / "filler"
    fill(filler)
    until(lambda: refuses_writes(stage.redis()), what="a Redis without room for its file")
    hold(stage, worker, seconds=10)
    filler.unlink()
    with recovery(stage):
        until_scored(job, job.status().scored + 1)

    settle(stage, job, texts)
    assert_unhurt(stage, worker)


def test_loading_for_20_seconds(stage: Stage) -> None:
    """A large Redis reads its file after a start, and answers LOADING meanwhile."""
    stage.redis_options = ("--key-load-delay", "200")
    pad(stage.server)
    texts = sentences(ROWS)
    worker = stage.start_worker(rows_per_s=3_000)
    job = stage.client.submit(texts)
    until_scored(job)

    stage.server.kill()
    stage.account.kills += 1
    stage.server.start(wait=False)
    until(lambda: is_loading(stage.server), what="a Redis that loads")
    until(lambda: not is_loading(stage.server), timeout_s=60, what="a Redis that has loaded")
    with recovery(stage):
        until_scored(job, stage.ledger.status(job.id).scored + 1)

    settle(stage, job, texts)
    assert_unhurt(stage, worker)


def test_no_client_more(stage: Stage) -> None:
    """At maxclients each new connection is refused by a server that works."""
    texts = sentences(ROWS)
    worker = stage.start_worker(rows_per_s=3_000)
    job = stage.client.submit(texts)
    until_scored(job)

    admin = stage.redis()
    admin.config_set("maxclients", 1)
    admin.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    hold(stage, worker, seconds=10)
    admin.config_set("maxclients", 1_000)
    with recovery(stage):
        until_scored(job, job.status().scored + 1)

    settle(stage, job, texts)
    assert_unhurt(stage, worker)


def start_replica(stage: Stage) -> RedisServer:
    """A replica of the stage's Redis, in step with it once its context is entered."""
    folder = stage.folder / "replica"
    folder.mkdir()

    class Replica(RedisServer):
        def start(self, *, wait: bool = True) -> None:
            super().start(wait=wait)
            client = stage.redis()
            until(lambda: "online" in str(client.info("replication").get("slave0")), what="a replica in step")

    return Replica(folder, *replica_of(stage.server.port))


def role_of(server: RedisServer) -> str:
    with redis.Redis.from_url(server.url) as client:
        return str(client.info("replication")["role"])


def hold(stage: Stage, worker: WorkerProcess, *, seconds: float) -> None:
    """Let an outage last, and see that the worker notices it."""
    until(lambda: "action=redis_away" in stage.log_of(worker), what="a worker that noticed")
    threading.Event().wait(seconds)


def assert_unhurt(stage: Stage, *workers: WorkerProcess) -> None:
    """No worker ended, each said little, and the outage is held against none."""
    for worker in workers:
        log = stage.log_of(worker)
        assert worker.is_running, log
        assert "Traceback" not in log
        assert len(log.splitlines()) <= MOST_LINES, log
    assert stage.meta("expired") == 0
