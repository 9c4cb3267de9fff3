"""What the queue costs by itself: rows and jobs a second with an instant device, an idle worker, huge jobs."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil

from producer import Client
from producer.client import new_job_id
from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.jobs import JobSpec, Lane
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkUpload
from scorequeue.settings import Settings
from tests.processes import WorkerProcess
from tests.servers import RedisServer

BULK_ROWS = 524_288
SINGLE_JOBS = 1_000
OLD_JOBS = 1_000
IDLE_S = 20.0
HUGE_ROWS = 10_000_000
CHUNK_ROWS = 256


def measure_queue(*, registry: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Measure everything here once, or ``rounds`` times and take the median.

    Returns:
        Figures by name; the unit is in the name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with RedisServer(folder) as redis:
        settings = Settings(redis_url=redis.url, max_outstanding=10**9)
        worker = WorkerProcess(
            folder / "worker.log", redis_url=redis.url, namespace="scorequeue", registry=registry, backend="fake"
        )
        with worker, Client(settings=settings) as client:
            client.submit([f"The cat number {number} sat." for number in range(20_000)]).wait()
            figures = _throughput(client, rounds) | _single_jobs(client, rounds)
            figures |= _idle(client, worker.pid, redis.pid)
    return figures | _huge_jobs(folder, rounds)


def _throughput(client: Client, rounds: int) -> dict[str, float]:
    texts = [f"The cat number {number} sat on the mat." for number in range(8_192)] * (BULK_ROWS // 8_192)
    through, upload = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        job = client.submit(texts, chunk_rows=CHUNK_ROWS)
        upload.append(len(texts) / (time.perf_counter() - began))
        job.wait()
        through.append(len(texts) / (time.perf_counter() - began))
        job.delete()
    return {"rows/s through the queue": statistics.median(through), "rows/s uploaded": statistics.median(upload)}


def _single_jobs(client: Client, rounds: int) -> dict[str, float]:
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        jobs = [client.submit(["Is this acceptable?"]) for _ in range(SINGLE_JOBS)]
        for job in jobs:
            job.wait()
        rates.append(SINGLE_JOBS / (time.perf_counter() - began))
    return {"single-row jobs/s, submitted and waited for": statistics.median(rates)}


def _idle(client: Client, worker_pid: int, redis_pid: int) -> dict[str, float]:
    """Share of a core that an idle worker takes, with old jobs in Redis; and what Redis takes for it."""
    for _ in range(OLD_JOBS):
        client.submit(["Old."])
    time.sleep(2)
    before = _cpu_s(worker_pid), _cpu_s(redis_pid)
    time.sleep(IDLE_S)
    worker, redis = (
        100 * (_cpu_s(pid) - was) / IDLE_S for pid, was in zip((worker_pid, redis_pid), before, strict=True)
    )
    return {"% of a core, idle worker": worker, "% of a core, its Redis": redis}


def _cpu_s(pid: int) -> float:
    """Seconds of a core that a process and its children have taken."""
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children()))


def _huge_jobs(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds that cancelling and deleting a job of ten million rows take, without a worker."""
    payload = encode_chunk(Chunk(first_row=1, texts=["The cat number 123456 sat on the mat."] * CHUNK_ROWS))
    chunk = ChunkUpload(payload, CHUNK_ROWS, digest(payload))
    (folder / "huge").mkdir(exist_ok=True)
    taken: dict[str, list[float]] = {"ms to cancel 10,000,000 rows": [], "ms to delete 10,000,000 rows": []}
    with RedisServer(folder / "huge", "--appendonly", "no") as redis:
        ledger = Ledger.connect(Settings(redis_url=redis.url))
        for name, verb in zip(taken, (ledger.cancel, ledger.delete), strict=True):
            for _ in range(rounds):
                job_id = _upload(ledger, chunk)
                began = time.perf_counter()
                verb(job_id)
                taken[name].append(1000 * (time.perf_counter() - began))
                if verb == ledger.cancel:
                    ledger.delete(job_id)
        ledger.close()
    return {name: statistics.median(times) for name, times in taken.items()}


def _upload(ledger: Ledger, chunk: ChunkUpload) -> str:
    spec = JobSpec(id=new_job_id(), lane=Lane.BULK, chunk_rows=CHUNK_ROWS, ttl_s=600)
    ledger.open(spec)
    chunks = HUGE_ROWS // CHUNK_ROWS
    for start in range(0, chunks, 64):
        ledger.add_chunks(spec.id, start, [chunk] * min(64, chunks - start))
    return spec.id
