"""Versions that change under a running worker: real processes, real (tiny) models, a real registry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from producer import Client
from scorequeue.jobs import JobState
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from tests.tiny import publish_tiny
from worker.device.loading import load_model

TEXTS = [f"The dog number {number} slept on the sofa." for number in range(600)]
TOLERANCE = 1e-4


class Site(NamedTuple):
    registry: Registry
    versions: list[str]
    worker: WorkerProcess
    client: Client


@pytest.fixture(params=["torch", "openvino"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    registry = Registry(tmp_path / "registry")
    versions = [publish_tiny(registry.root, seed=seed) for seed in range(3)]
    with RedisServer(tmp_path) as redis:
        worker = WorkerProcess(
            tmp_path / "worker.log", module="tests.hasty_worker", redis_url=redis.url, namespace="n",
            registry=registry.root, backend=request.param, dtype="float32", token_budget=1_024, lease_s=1.5,
        )  # fmt: skip
        with worker, Client(settings=Settings(redis_url=redis.url, namespace="n")) as client:
            yield Site(registry, versions, worker, client)


def promote(site: Site, version: str) -> None:
    site.registry.promote(version, expected=site.registry.current(), why="test")


def scores_of(site: Site, version: str) -> np.ndarray:
    """What a version says of all texts, asked beside the queue."""
    model = load_model(site.registry, version, backend="torch", dtype="float32")
    return np.concatenate([model.score_now(TEXTS[start : start + 50]) for start in range(0, len(TEXTS), 50)])


def test_every_job_has_one_version_while_versions_change(site: Site) -> None:
    """Promotions under load: no row lost, and each row has the scores of the version that its job names.

    Each is a device process that starts; `make bench` has twenty of them.
    """
    wanted = {version: scores_of(site, version) for version in site.versions}
    served = []

    for number in range(6):
        promoted = site.versions[(number + 1) % 3]
        promote(site, promoted)
        give_up_at = time.monotonic() + 60
        while not served or served[-1] != promoted:  # jobs come one after the other until one has the new version
            assert time.monotonic() < give_up_at, f"{promoted} is not taken up"
            job = site.client.submit(TEXTS, chunk_rows=64)
            status = job.wait(timeout_s=60)
            assert (status.state, status.scored) == (JobState.COMPLETED, len(TEXTS))
            rows = list(job.results())
            (version,) = {row.model_version for row in rows}
            assert version == status.model_version
            found = np.array([[row.scores[label] for label in ("unacceptable", "acceptable")] for row in rows])
            np.testing.assert_allclose(found, wanted[version], atol=TOLERANCE)
            served.append(version)

    assert set(served) == set(site.versions)
    assert len(site.worker.about()["ready_versions"]) <= 2


def test_damaged_version_leaves_the_old_one_and_shows(site: Site) -> None:
    first, second, _ = site.versions
    promote(site, second)
    until(lambda: site.worker.about()["model_version"] == second, what="the second version")
    damaged = site.registry.path(first) / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    (site.registry.root / "current").write_text(first + "\n")  # promote would refuse it
    damaged.chmod(0o644)
    damaged.write_bytes(content)

    # It may have been loaded before, and needs to be dropped first.
    until(lambda: first in site.worker.about()["failed_versions"], timeout_s=60, what="a failed version")
    job = site.client.submit(TEXTS[:10])

    assert job.wait(timeout_s=60).model_version == second
    assert site.worker.about()["model_version"] == second


def test_damaged_current_shows_and_holds_no_job_up(site: Site) -> None:
    """A torn pointer is seen by ``worker status`` and the doctor; jobs that name a version need none."""
    first, second, _ = site.versions
    (site.registry.root / "current").write_bytes(b"\xff\xfe")

    named = site.client.submit(TEXTS[:10], model_version=second)
    other = site.client.submit(TEXTS[:10])

    assert named.wait(timeout_s=60).model_version == second
    assert other.wait(timeout_s=60).model_version == first
    until(lambda: "training rollback" in site.worker.about()["registry_error"], what="a reason")
    assert site.worker.log.read_text().count("registry_unreadable") == 1
