"""A worker started in a project that has packages named like ours: Celery must not find theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.processes import environment, until
from tests.tiny import publish_tiny

pytestmark = pytest.mark.e2e


def test_a_worker_scores_in_a_project_with_packages_named_like_ours(
    tmp_path: Path, redis_url: str, namespace: str
) -> None:
    programs = Path(sys.executable).parent
    publish_tiny(tmp_path / "registry")
    for name in ("producer", "worker", "training", "scorequeue"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the package of the project')\n")
    settings = {"redis_url": redis_url, "namespace": namespace, "backend": "fake", "registry": tmp_path / "registry"}
    env = environment(**settings, cache_dir=tmp_path / "cache")
    ledger = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace))
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([programs / "worker", "start"], cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        until(lambda: bool(ledger.workers()) or worker.poll() is not None, timeout_s=60, what="a ready worker")
        line = [programs / "producer", "submit", "--text", "The cat sat.", "--wait", "--timeout", "30s"]
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        worker.terminate()
        ended = worker.wait(40)
    finally:
        ledger.close()
        if worker.poll() is None:
            worker.kill()
            worker.wait()

    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    assert done.stdout.startswith('{"row": 1, ')
    assert ended == 0
