"""``training prune`` beside a queue: a version that a job waits for is not old, whatever its age."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer import Client
from scorequeue.errors import ExitCode
from scorequeue.jobs import JobSpec, Lane
from scorequeue.ledger import Ledger
from scorequeue.records import LaneRoom
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.servers import free_port
from tests.tiny import publish_tiny
from training.cli.prune import prune
from training.pins import Pins, read_pins

EVERYTHING = [LaneRoom(Lane.EXPRESS, 100_000, 100), LaneRoom(Lane.BULK, 100_000, 100)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Six versions; the last one is current and the one before it is the way back."""
    registry = Registry(tmp_path / "registry")
    versions = [publish_tiny(registry.root, seed=seed) for seed in range(6)]
    registry.promote(versions[4], expected=versions[0], why="better")
    registry.promote(versions[5], expected=versions[4], why="better")
    return registry


def run(registry: Registry, settings: Settings, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "prune", "--registry", str(registry.root), *arguments],
        env=os.environ
        | {"SCOREQUEUE_REDIS_URL": settings.redis_url, "SCOREQUEUE_NAMESPACE": settings.namespace},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_versions_that_jobs_and_workers_need_stay(
    registry: Registry, settings: Settings, client: Client, ledger: Ledger
) -> None:
    """Asked for and still waiting, pinned by the first claim, and what a worker gives to the next job."""
    asked, claimed, served, old, previous, current = registry.versions()
    waiting = client.submit(["The cat sat."], model_version=asked)
    client.submit(["The cat sat."])
    ledger.claim("w", EVERYTHING, versions=[claimed], default_version=claimed)
    ledger.renew("worker-2", {"host": "h", "pid": 7, "ready_versions": [served]}, list(Lane), [])

    done = run(registry, settings, "--keep", "1")

    assert done.stdout == f"{old}\n"
    assert registry.versions() == [asked, claimed, served, previous, current]
    assert f"{asked} stays: job {waiting.id} is pinned to it" in done.stderr
    assert f"{served} stays: worker h:7 serves it" in done.stderr
    assert f"1 live workers in namespace {settings.namespace}" in done.stderr


def test_version_of_a_job_that_ended_goes(registry: Registry, settings: Settings, client: Client) -> None:
    oldest = registry.versions()[0]
    job = client.submit(["The cat sat."], model_version=oldest)
    kept = json.loads(run(registry, settings, "--keep", "5", "--json").stdout)
    job.cancel()

    gone = json.loads(run(registry, settings, "--keep", "5", "--json").stdout)

    assert (kept["removed"], list(kept["spared"])) == ([], [oldest])
    assert gone["removed"] == [oldest]


def test_upload_that_has_sent_nothing_yet_keeps_its_version(
    registry: Registry, settings: Settings, ledger: Ledger
) -> None:
    oldest = registry.versions()[0]
    ledger.open(JobSpec(id=uuid.uuid4().hex, lane=Lane.BULK, chunk_rows=2, ttl_s=60, model_version=oldest))

    assert run(registry, settings, "--keep", "5").stdout == ""


def test_redis_that_cannot_be_asked_removes_nothing(registry: Registry, settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    before = registry.versions()

    done = run(registry, nowhere, "--keep", "1", code=ExitCode.REDIS)
    assert registry.versions() == before
    assert len(done.stderr.splitlines()) == 1

    run(registry, nowhere, "--keep", "1", "--ignore-jobs")
    assert registry.versions() == before[-2:]


def test_jobs_are_asked_for_when_the_prune_has_its_turn(
    registry: Registry, settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a promote may take half a minute: a job that came meanwhile keeps its version."""
    oldest = registry.versions()[0]

    def read_late(settings: Settings) -> Pins:
        assert (registry.root / ".promoting").exists()
        client.submit(["The cat sat."], model_version=oldest)
        return read_pins(settings)

    monkeypatch.setattr("training.pins.read_pins", read_late)
    options = ("--registry", str(registry.root), "--redis-url", settings.redis_url, "--namespace", settings.namespace)
    done = CliRunner().invoke(prune, ["--keep", "1", *options], catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert oldest in registry.versions()
    assert len(registry.versions()) == 3


def test_pins_of_many_jobs_are_read(client: Client, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fit into one round trip; ended ones and those without a version are none."""
    monkeypatch.setattr("scorequeue.inquiries.PIN_PAGE", 3)
    jobs = [client.submit(["The cat sat."], model_version=f"v{number % 5}") for number in range(10)]
    client.submit(["The cat sat."])
    for job in (jobs[4], jobs[9]):
        job.cancel()

    pins = ledger.pinned_versions()

    assert pins == {f"v{number}": jobs[number].id for number in range(4)}
