"""A worker that is told to stop while it makes another version ready: nothing waits for that version any more."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from scorequeue.registry import Registry
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny


@pytest.mark.parametrize(("module", "backend"), [("tests.stuck_loader", "fake"), ("worker", "auto")])
def test_a_version_that_loads_holds_no_drain_up(tmp_path: Path, module: str, backend: str) -> None:
    """One is stuck in a library, the other is being converted, for seconds. No process outlives the worker."""
    registry = Registry(tmp_path / "registry")
    first, second = (publish_tiny(registry.root, seed=seed) for seed in range(2))
    with (
        RedisServer(tmp_path) as redis,
        WorkerProcess(
            tmp_path / "worker.log", module=module, redis_url=redis.url, namespace="n", registry=registry.root,
            backend=backend, device="cpu", drain_timeout_s=600,
        ) as worker,
    ):  # fmt: skip
        registry.promote(second, expected=first, why="test")
        process = psutil.Process(worker.pid)
        until(lambda: len(process.children()) == 2, what="a second device process")
        if backend == "fake":
            until(lambda: "stuck in a load" in worker.log.read_text(), what="a load")
        children = process.children()

        assert worker.terminate() == 0

    _, alive = psutil.wait_procs(children, timeout=5)
    log = worker.log.read_text()
    assert alive == []
    assert not any(action in log for action in ("not_converted", "version_failed", "version_swapped")), log
