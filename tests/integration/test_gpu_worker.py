"""A real worker on a real card: what ends its device process there costs no other row, and the worker lives on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from producer import Client, Job
from scorequeue.jobs import ErrorCode, JobState
from scorequeue.registry import ManifestDraft, Registry
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, until
from tests.tiny import publish_tiny

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

OUT_OF_RANGE = "zzqq"
"""A word whose id is beyond the model's embeddings: CUDA answers with a device-side assert."""


@pytest.fixture(scope="module", autouse=True)
def _has_card() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def worker(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(
        tmp_path / "worker.log",
        redis_url=redis_url,
        namespace=namespace,
        registry=_registry(tmp_path),
        backend="torch",
        device="cuda",
    ) as process:
        yield process


@pytest.fixture
def client(redis_url: str, namespace: str) -> Iterator[Client]:
    with Client(settings=Settings(redis_url=redis_url, namespace=namespace)) as client:
        yield client


def test_cuda_assert_and_killed_device_process_cost_one_row(worker: WorkerProcess, client: Client) -> None:
    """An id out of range ruins the CUDA context of the process, and every batch in it: it is started anew."""
    texts = [f"The dog number {number} sleeps on the sofa." for number in range(20_000)]
    texts[12_345] = OUT_OF_RANGE

    job = client.submit(texts)
    assert _failures(job) == {12_346: ErrorCode.WORKER_LOST}

    again = client.submit(texts[:12_000])
    until(lambda: again.status().scored > 0, what="a job that runs")
    os.kill(_device_process(worker).pid, signal.SIGKILL)
    assert _failures(again) == {}
    assert worker.is_running
    assert "action=device_restarted" in worker.log.read_text()


def test_batches_that_do_not_fit_are_halved(redis_url: str, namespace: str, tmp_path: Path, client: Client) -> None:
    """A budget far beyond the card's memory: the rows are scored all the same, with less in a batch."""
    texts = ["The dog sleeps on the sofa and the cat sleeps on the mat. " * 2] * 300_000

    with WorkerProcess(
        tmp_path / "worker.log",
        redis_url=redis_url,
        namespace=namespace,
        registry=_registry(tmp_path),
        backend="torch",
        device="cuda",
        token_budget=2**28,
    ) as worker:
        assert _failures(client.submit(texts)) == {}
        assert "action=out_of_memory" in worker.log.read_text()


def _registry(folder: Path) -> Path:
    """A registry whose tokenizer knows one word more than the model."""
    registry = Registry(folder / "registry")
    version = publish_tiny(folder / "first")
    first = Registry(folder / "first")
    manifest = first.manifest(version)
    changed = folder / "changed"
    shutil.copytree(first.path(version), changed, ignore=shutil.ignore_patterns("manifest.json"))
    file = changed / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab[OUT_OF_RANGE] = max(vocab.values()) + 1_000_000
    file.write_text(json.dumps(tokenizer))
    registry.publish(
        changed,
        draft=ManifestDraft(
            base_model="tiny", labels=manifest.labels, max_length=manifest.max_length, seed=0, golden=manifest.golden,
            metrics={}, training_config={},
        ),
    )  # fmt: skip
    return folder / "registry"


def _failures(job: Job) -> dict[int, ErrorCode]:
    status = job.wait(timeout_s=200)
    assert status.state is JobState.COMPLETED
    assert job.audit().is_clean
    return {row.row: row.error.code for row in job.results() if row.error is not None}


def _device_process(worker: WorkerProcess) -> psutil.Process:
    children = psutil.Process(worker.pid).children()
    return next(child for child in children if "worker.device" in child.cmdline())
