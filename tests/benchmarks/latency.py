"""How long one sentence takes, idle and beside a bulk job, and how many single-sentence jobs a second there are."""

from __future__ import annotations

import statistics
import time

from producer import Client
from scorequeue.settings import Settings
from tests.benchmarks.throughput import Arena, made
from tests.servers import RedisServer

LONE = 300
JOBS = 1_000
PAUSE_S = 0.05


def measure_latency(arena: Arena, *, backend: str) -> dict[str, float]:
    """Measure with the settings of the bulk figure.

    Returns:
        Figures by name; the unit is in the name.
    """
    texts = arena.texts
    with (
        RedisServer(made(arena.folder / "latency")) as redis,
        arena.worker(redis.url, backend),
        Client(settings=Settings(redis_url=redis.url)) as client,
    ):
        client.submit(texts[:1_024]).wait()
        for text in texts[:20]:
            _lone(client, text)
        idle = [_lone(client, text) for text in texts[:LONE]]
        # In turn, because the machine's speed drifts.
        rounds = [(_bulk(client, texts)[0], *_bulk(client, texts, is_disturbed=True)) for _ in range(3)]
        jobs = statistics.median(_jobs(client, texts) for _ in range(3))
    lone = [each for *_, some in rounds for each in some]
    return {
        "ms for a lone sentence, idle, p50": share(idle, 0.5),
        "ms for a lone sentence, idle, p99": share(idle, 0.99),
        "ms for a lone sentence beside a bulk job, p95": share(lone, 0.95),
        "% that the bulk job loses meanwhile": statistics.median(
            100 * (1 - beside / alone) for alone, beside, _ in rounds
        ),
        "single-sentence jobs/s, submitted and waited for": jobs,
    }


def _lone(client: Client, text: str) -> float:
    """Milliseconds from ``submit`` to the result in hand."""
    began = time.perf_counter()
    job = client.submit([text])
    job.wait()
    (_,) = job.results()
    return 1000 * (time.perf_counter() - began)


def _bulk(client: Client, texts: list[str], *, is_disturbed: bool = False) -> tuple[float, list[float]]:
    """Rows/s of a bulk job, and what lone sentences took beside it, one every 50 ms."""
    began = time.perf_counter()
    job = client.submit(texts)
    lone: list[float] = []
    # Asked now and then: a status costs about a tenth of a lone sentence.
    while is_disturbed and (len(lone) % 8 or job.status().pending > len(texts) // 10):
        lone.append(_lone(client, texts[len(lone)]))
        time.sleep(PAUSE_S)
    job.wait()
    return len(texts) / (time.perf_counter() - began), lone


def _jobs(client: Client, texts: list[str]) -> float:
    began = time.perf_counter()
    for job in [client.submit([text]) for text in texts[:JOBS]]:
        job.wait()
    return JOBS / (time.perf_counter() - began)


def share(values: list[float], part: float) -> float:
    """Value below which a part of them lies, from 0 to 1."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
