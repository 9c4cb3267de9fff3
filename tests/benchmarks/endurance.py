"""What must stay as it is: memory over a million rows, and jobs while versions are promoted beside them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil

from producer import Client
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.processes import WorkerProcess
from tests.servers import RedisServer
from tests.tiny import publish_tiny

FIRST_ROWS = 100_000
ALL_ROWS = 1_000_000
STEP = 50_000
PROMOTIONS = 20


def measure_memory(folder: Path) -> dict[str, float]:
    """Megabytes of a worker with a real, tiny model after 100,000 and after 1,000,000 rows: the medians around them."""
    registry = folder / "registry"
    publish_tiny(registry)
    texts = [f"The cat number {number} sat on the mat." for number in range(STEP)]
    found: dict[int, float] = {}
    with RedisServer(folder) as redis:
        settings = Settings(redis_url=redis.url)
        worker = WorkerProcess(
            folder / "worker.log", redis_url=redis.url, namespace="scorequeue", registry=registry, backend="openvino"
        )
        with worker, Client(settings=settings) as client:
            process = psutil.Process(worker.pid)
            for rows in range(STEP, ALL_ROWS + STEP, STEP):
                job = client.submit(texts, chunk_rows=256)
                samples = []
                while not job.status().state.is_final:
                    samples.append(process.memory_info().rss / 1e6)
                    time.sleep(0.1)
                found[rows] = statistics.median(samples)
                job.delete()
    first, last = found[FIRST_ROWS], found[ALL_ROWS]
    return {
        "MB of a worker after 100,000 rows": first,
        "MB of a worker after 1,000,000 rows": last,
        "% that its memory grew between": 100 * (last / first - 1),
    }


def measure_promotions(folder: Path) -> dict[str, float]:
    """Twenty promotions while jobs come one after the other: rows lost, jobs of two versions, the longest pause."""
    registry = folder / "registry"
    versions = [publish_tiny(registry, seed=seed) for seed in range(4)]
    texts = [f"The cat number {number} sat on the mat." for number in range(20_000)]
    lost = mixed = 0
    served: set[str] = set()
    with RedisServer(folder) as redis:
        worker = WorkerProcess(
            folder / "worker.log", redis_url=redis.url, namespace="scorequeue", registry=registry, backend="torch"
        )
        with worker, Client(settings=Settings(redis_url=redis.url)) as client:
            for number in range(PROMOTIONS):
                jobs = [client.submit(texts) for _ in range(2)]
                shelf = Registry(registry)
                shelf.promote(versions[(number + 1) % len(versions)], expected=shelf.current(), why="bench")
                for job in jobs:
                    status = job.wait()
                    found = [chunk.model_version for chunk in job.result_chunks()]
                    lost += status.total - status.scored
                    mixed += len(set(found)) != 1
                    served |= set(found)
                    job.delete()
            time.sleep(6)
            about = worker.about()
    return {
        "rows lost in 20 promotions": lost,
        "jobs scored by two versions": mixed,
        "versions that served": len(served),
        "ms, the longest pause between two batches": 1000 * about["longest_pause_s"],
        "ms, the longest batch": 1000 * about["longest_batch_s"],
    }
