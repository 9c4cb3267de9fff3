"""What a worker's own process loads: it tokenises, commits and renews leases, and no forward pass holds it up."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from producer import Client
from tests.processes import WorkerProcess
from tests.tiny import publish_tiny


@pytest.mark.parametrize("backend", ["fake", "torch", "openvino"])
def test_a_worker_loads_neither_torch_nor_openvino(
    tmp_path: Path, redis_url: str, namespace: str, backend: str
) -> None:
    """Only its device process does, and so a worker starts fast and no thread of it waits for a model's GIL."""
    publish_tiny(tmp_path / "registry")
    worker = WorkerProcess(
        tmp_path / "worker.log", module="tests.auditing_worker", redis_url=redis_url, namespace=namespace,
        registry=tmp_path / "registry", backend=backend, device="cpu", token_budget=512,
    )  # fmt: skip
    with worker, Client(redis_url, namespace) as client:
        status = client.submit(["The dog slept on the sofa."] * 100).wait(timeout_s=60)
        (device,) = psutil.Process(worker.pid).children()
        libraries = {Path(region.path).name for region in device.memory_maps()}

        assert status.scored == 100
        assert worker.terminate() == 0

    assert "imported " not in worker.log.read_text()
    assert any(backend in name for name in libraries) or backend == "fake", "the model is in the device process"
