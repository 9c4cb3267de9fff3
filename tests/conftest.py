"""Fixtures that every kind of test uses: a real Redis server, and a namespace of one's own on it."""

from __future__ import annotations

import logging
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import RedisServer

# As the commands set it: OpenMP's threads would spin for each other beside another busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the tests may reach for the hub unless a test serves one itself
for name in [name for name in os.environ if name.startswith("SCOREQUEUE_")]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def _log_levels_as_they_were() -> Iterator[None]:
    """Commands that run in this process set the levels of our loggers, which ``caplog`` would then not see past."""
    yield
    for name in ("scorequeue", "producer", "worker", "training"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real Redis for the whole run; tests keep apart by namespace."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many bytes."""
    disk = tmp_path / "disk"

    def mount(size: int) -> Path:
        disk.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
        if done.returncode:
            pytest.skip("nothing can be mounted here")
        return disk

    yield mount
    subprocess.run(["umount", "-l", disk], capture_output=True)
