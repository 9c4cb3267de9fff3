"""Sentinels promote a replica when their master dies: promises 1, 2 and 4 of docs/reliability.md."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from producer import Client
from scorequeue.settings import Settings
from tests.faults.stage import NAMESPACE, Stage, recovery, sentences, settle, until_scored
from tests.processes import until
from tests.refusing import replica_of
from tests.servers import RedisServer, free_port, server_binary
from tests.shell import Shell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

MASTER = "scores"


def test_master_dies_and_sentinels_promote_its_replica(stage: Stage) -> None:
    """Worker and producer find the new master by themselves; what it had acknowledged stays."""
    texts = sentences(20_000)
    replica_folder = stage.folder / "replica"
    replica_folder.mkdir()
    with (
        RedisServer(replica_folder, *replica_of(stage.server.port)) as replica,
        sentinels(stage.folder, stage.server.port) as url,
        Client(settings=Settings(redis_url=url, namespace=NAMESPACE, lease_s=stage.lease_s)) as client,
    ):
        worker = stage.start_worker(rows_per_s=2_000, url=url)
        job = client.submit(texts)
        until_scored(job)
        with redis.Redis.from_url(stage.server.url) as master:
            master.set("probe", "x")
            until(lambda: master.wait(1, 1_000) >= 1, what="a replica that has the whole job")

        stage.server.kill()
        stage.account.kills += 1
        with recovery(stage):
            before = client.job(job.id).status().scored  # asks until there is a new master
            until_scored(job, before + 1)
        assert Shell(stage.folder, Settings(redis_url=url, namespace=NAMESPACE))("status", job.id).returncode == 0

        stage.move_to(replica)
        settle(stage, stage.client.job(job.id), texts)
        assert worker.is_running
        assert "Traceback" not in stage.log_of(worker)
        assert worker.terminate() == 0


@contextmanager
def sentinels(folder: Path, master_port: int) -> Iterator[str]:
    """Three sentinels that watch a master; the address that leads to it through them."""
    with ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        for port in ports:
            config = folder / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
            )
            with (folder / f"sentinel-{port}.log").open("w") as log:
                process = subprocess.Popen([server_binary(), config, "--sentinel"], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for port in ports:
            client = stack.enter_context(redis.Redis(port=port))
            until(lambda client=client: knows_all(client), what="a sentinel that knows replica and peers")
        yield f"sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{MASTER}"


def knows_all(client: redis.Redis) -> bool:
    try:
        (state,) = (client.execute_command("INFO", "sentinel")["master0"],)
    except (redis.exceptions.ConnectionError, KeyError):
        return False
    return bool(state["slaves"] == 1 and state["sentinels"] == 3 and state["status"] == "ok")
