"""A better version goes live under a running worker, and goes back, by the commands that a team runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from producer import Client
from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny, rows_that_suit
from training.quiet import quiet_libraries

pytestmark = pytest.mark.e2e


class Site(NamedTuple):
    registry: Registry
    fair: str
    good: str
    bad: str
    worker: WorkerProcess
    client: Client


@pytest.fixture(params=["torch", "openvino"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    registry = Registry(tmp_path / "registry")
    with quiet_libraries():
        rows = rows_that_suit(0)
        fair, good, bad = (publish_tiny(registry.root, seed=seed, rows=rows) for seed in (1, 0, 2))
    with RedisServer(tmp_path) as redis:
        worker = WorkerProcess(
            tmp_path / "worker.log", redis_url=redis.url, namespace="n", registry=registry.root,
            backend=request.param, token_budget=1_024,
        )  # fmt: skip
        with worker, Client(settings=Settings(redis_url=redis.url, namespace="n")) as client:
            yield Site(registry, fair, good, bad, worker, client)


def training(site: Site, *arguments: str, code: int = ExitCode.DONE) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", *arguments, "--registry", str(site.registry.root)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stderr


def served(site: Site) -> str:
    """The version that a job of now is scored with."""
    version = site.client.submit(["The dog slept on the sofa."]).wait(timeout_s=30).model_version
    assert version is not None
    return version


def wait_until_served(site: Site, version: str) -> float:
    """Wait for the first job with a version, and return the seconds since it became current."""
    until(lambda: served(site) == version, timeout_s=60, what=f"jobs with {version}")
    return (datetime.now(UTC) - site.registry.history()[-1].at).total_seconds()


def test_worker_serves_what_goes_live_and_what_comes_back(site: Site, request: pytest.FixtureRequest) -> None:
    """A new model without a restart, and the old one back as simply: the worker keeps its process."""
    pid = site.worker.pid
    assert served(site) == site.fair

    training(site, "promote", site.good)
    promoted_s = wait_until_served(site, site.good)

    training(site, "promote", site.bad, code=ExitCode.GATE_REFUSED)
    assert served(site) == site.good

    training(site, "rollback")
    rolled_back_s = wait_until_served(site, site.fair)

    assert site.worker.pid == pid
    assert site.worker.about()["failed_versions"] == {}
    print(f"{request.node.name}: promoted in {promoted_s:.1f} s, back in {rolled_back_s:.1f} s")
