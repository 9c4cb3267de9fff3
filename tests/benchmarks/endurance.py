"""What must stay as it is while rows go through: memory, with a tiny model over a million rows and with a real one."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from producer import Client
from scorequeue.settings import Settings
from tests.processes import WorkerProcess
from tests.servers import RedisServer
from tests.tiny import publish_tiny

STEP = 50_000
FIRST_ROWS = 100_000
ALL_ROWS = 1_000_000

REAL_STEP = 5_000
REAL_FIRST_ROWS = 20_000
REAL_ROWS = 60_000
REAL_LIMIT_S = 60.0
"""Seconds for the rows of one backend: a slow machine ends with fewer, and the figure says how many."""


def measure_memory(texts: list[str], *, folder: Path) -> dict[str, float]:
    """Megabytes of a worker with a real, tiny model after 100,000 and after 1,000,000 rows: the medians around them.

    Sentences are drawn anew for each job, so that batches have many shapes.
    """
    publish_tiny(folder / "registry")
    found = _memory_by_rows(
        texts, folder=folder, registry=folder / "registry", backend="openvino", step=STEP, rows=ALL_ROWS
    )
    first, last = found[FIRST_ROWS], found[ALL_ROWS]
    return {
        "MB of a worker after 100,000 rows": first,
        "MB of a worker after 1,000,000 rows": last,
        "% that its memory grew between": 100 * (last / first - 1),
    }


def measure_real_memory(texts: list[str], *, registry: Path, folder: Path, backend: str) -> dict[str, float]:
    """Megabytes of a worker with the registry's model at its start, after 20,000 and after 60,000 rows."""
    give_up_at = time.monotonic() + REAL_LIMIT_S
    found = _memory_by_rows(
        texts, folder=folder, registry=registry, backend=backend, step=REAL_STEP, rows=REAL_ROWS,
        is_over=lambda: time.monotonic() > give_up_at,
    )  # fmt: skip
    last = max(found)
    first = min(REAL_FIRST_ROWS, last)
    return {
        f"{backend}: MB of a worker at its start": found[0],
        **{f"{backend}: MB of a worker after {rows:,} rows": found[rows] for rows in (first, last)},
        f"{backend}: % that its memory grew between": 100 * (found[last] / found[first] - 1),
    }


def _memory_by_rows(
    texts: list[str],
    *,
    folder: Path,
    registry: Path,
    backend: str,
    step: int,
    rows: int,
    is_over: Callable[[], bool] = lambda: False,
) -> dict[int, float]:
    """Median of the megabytes that a worker had while it scored each step, by the rows that it had scored then."""
    draw = random.Random(0)
    with RedisServer(folder) as redis:
        worker = WorkerProcess(
            folder / "worker.log", redis_url=redis.url, namespace="scorequeue", registry=registry, backend=backend
        )
        with worker, Client(settings=Settings(redis_url=redis.url)) as client:
            found = {0: _megabytes(worker.pid)}
            for done in range(step, rows + step, step):
                job = client.submit(draw.choices(texts, k=step), chunk_rows=256)
                samples = []
                while not job.status().state.is_final:
                    samples.append(_megabytes(worker.pid))
                    time.sleep(0.1)
                found[done] = statistics.median(samples)
                job.delete()
                if is_over():
                    break
    return found


def _megabytes(pid: int) -> float:
    """What a worker and its device process have in memory; pages that they share count twice."""
    worker = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (worker, *worker.children())) / 1e6
