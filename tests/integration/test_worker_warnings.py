"""What a worker warns of at its start, though it serves all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from scorequeue.registry import Registry
from tests.processes import WorkerProcess
from tests.servers import RedisServer, password_of, server_with_users
from tests.tiny import publish_tiny


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two registries that were not meant to be two."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    for seed, folder in enumerate(folders):
        publish_tiny(folder, seed=seed)
    return folders


def log_of_start(folder: Path, url: str, registry: Path) -> str:
    log = folder / "started.log"
    settings = {"redis_url": url, "namespace": "scorequeue", "registry": registry, "backend": "fake"}
    with WorkerProcess(log, **settings) as worker:
        assert worker.terminate() == 0
    return log.read_text()


def test_server_that_evicts_is_warned_of(tmp_path: Path, registries: tuple[Path, Path]):
    """At maxmemory it would drop rows, and no error would say so."""
    with RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        log = log_of_start(tmp_path, server.url, registries[0])

    assert log.count("action=redis_evicts maxmemory_policy=allkeys-lru") == 1


def test_live_workers_of_another_registry_are_warned_of(tmp_path: Path, registries: tuple[Path, Path]):
    """Which version a job gets would be a matter of luck."""
    ours, theirs = registries
    settings = {"namespace": "scorequeue", "registry": theirs, "backend": "fake"}
    with (
        RedisServer(tmp_path) as server,
        WorkerProcess(tmp_path / "other.log", redis_url=server.url, **settings) as other,
    ):
        log = log_of_start(tmp_path, server.url, ours)
        assert other.is_running

    versions = f"ours={Registry(ours).current()} theirs={Registry(theirs).current()}"
    assert log.count(f"action=other_current {versions}") == 1
    assert "other_current" not in (tmp_path / "other.log").read_text()


def test_well_set_up_surroundings_are_not_warned_of(tmp_path: Path, registries: tuple[Path, Path]):
    """With the rights of the worker's own user, and beside another worker of the same registry."""
    with server_with_users(tmp_path) as server:
        url = server.url_of("worker", password_of("worker"))
        settings = {"namespace": "scorequeue", "registry": registries[0], "backend": "fake"}
        with WorkerProcess(tmp_path / "other.log", redis_url=url, **settings):
            log = log_of_start(tmp_path, url, registries[0])

    assert "warning" not in log
