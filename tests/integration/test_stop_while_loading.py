"""A worker that is told to stop while it makes another version ready: nothing waits for that version any more."""

from __future__ import annotations

from pathlib import Path

import psutil

from scorequeue.registry import Registry
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny


def test_load_that_never_ends_holds_no_drain_up(tmp_path: Path) -> None:
    """Half of the drain's time was spent on it, though nothing was left to do."""
    registry = Registry(tmp_path / "registry")
    first, second = (publish_tiny(registry.root, seed=seed) for seed in range(2))
    with (
        RedisServer(tmp_path) as redis,
        WorkerProcess(
            tmp_path / "worker.log", module="tests.stuck_loader", redis_url=redis.url, namespace="n",
            registry=registry.root, backend="fake", drain_timeout_s=600,
        ) as worker,
    ):  # fmt: skip
        registry.promote(second, expected=first, why="test")
        until(lambda: "stuck in a load" in worker.log.read_text(), what="a load")

        assert worker.terminate() == 0


def test_conversion_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    """It runs for seconds in a process of its own, for a version that nobody will be given."""
    registry = Registry(tmp_path / "registry")
    first, second = (publish_tiny(registry.root, seed=seed) for seed in range(2))
    with (
        RedisServer(tmp_path) as redis,
        WorkerProcess(
            tmp_path / "worker.log", redis_url=redis.url, namespace="n", registry=registry.root, backend="auto",
            device="cpu",
        ) as worker,
    ):  # fmt: skip
        registry.promote(second, expected=first, why="test")
        started: list[psutil.Process] = []
        until(lambda: bool(started.extend(psutil.Process(worker.pid).children()) or started), what="a conversion")

        assert worker.terminate() == 0

    log = worker.log.read_text()
    assert not any(child.is_running() for child in started)
    assert [kept.name for kept in (tmp_path / "cache" / "openvino").glob(".making-*")] == []
    assert len(list((tmp_path / "cache" / "openvino").iterdir())) == 1, "that of the first version"
    assert not any(action in log for action in ("not_converted", "version_failed", "version_swapped")), log
