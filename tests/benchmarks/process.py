"""Whether the worker's own process is a limit: its rows/s with a real tokenizer and a device that answers at once."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

import psutil

from producer import Client
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.benchmarks.throughput import CHUNK_ROWS, made
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from worker.cpu import usable_cpus
from worker.tokenizing import TokenizerFiles

ROWS = 600_000
TOKEN_BUDGET = 65_536
BEGIN, END = 0.15, 0.95
"""Shares of the job between which is measured: what starts and what ends takes no part."""


def measure_process(texts: list[str], *, registry: Path, folder: Path, is_fast: bool) -> dict[str, float]:
    """Measure rows/s beside the tokenizer's own rate on the cores that Redis and the device process leave.

    The job is uploaded before the worker starts, so that no producer takes part.

    Args:
        texts: Sentences to score, again and again.
        registry: Its current version gives the tokenizer.
        folder: For Redis and logs.
        is_fast: Whether the device says that it is a GPU, for which processes tokenise.

    Returns:
        Figures by name; the unit is in the name. What the CPU did comes as microseconds of a core for each row.
    """
    made(folder)
    many = (texts * (ROWS // len(texts) + 1))[:ROWS]
    alone = _tokenizer_rate(texts, registry)
    threads = folder / "threads.json"
    with RedisServer(folder, "--appendonly", "no") as redis:
        worker = WorkerProcess(
            folder / "worker.log", module="tests.benchmarks.instant_worker", redis_url=redis.url, registry=registry,
            namespace="scorequeue", backend="torch", token_budget=TOKEN_BUDGET,
            variables={"BENCH_THREADS": str(threads)} | ({"BENCH_FAST": "1"} if is_fast else {}),
        )  # fmt: skip
        with Client(settings=Settings(redis_url=redis.url, max_outstanding=10**9)) as client:
            job = client.submit(many, chunk_rows=CHUNK_ROWS)
            with worker:
                until(lambda: job.status().scored > BEGIN * ROWS, timeout_s=120, what="the first rows")
                before, rows, began = _cpu_s(worker.pid, redis.pid), job.status().scored, time.perf_counter()
                until(lambda: job.status().scored > END * ROWS, timeout_s=300, what="nearly all rows")
                rows, took_s = job.status().scored - rows, time.perf_counter() - began
                spent = Counter(_cpu_s(worker.pid, redis.pid))
                names = {int(native_id): name for native_id, name in json.loads(threads.read_text()).items()}
    spent.subtract(before)
    named: Counter[str] = Counter()
    for what, cpu_s in spent.items():
        named[_role(names.get(what, "other threads") if isinstance(what, int) else what)] += cpu_s
    cores_left = usable_cpus() - (named["device process"] + named["Redis"]) / took_s
    own = [cpu_s for role, cpu_s in named.items() if role not in ("device process", "Redis")]
    figures = {
        "rows/s": rows / took_s,
        "cores that were busy with it": sum(named.values()) / took_s,
        "rows/s, the tokenizer on one core": alone,
        "cores that Redis and the device process leave": cores_left,
        "share of the tokenizer's own rate on them": rows / took_s / (alone * cores_left),
        "the same by CPU time, whatever else the machine does": rows / alone / sum(own),
    }
    return figures | {
        f"us a row: {name}": 1e6 * cpu_s / rows for name, cpu_s in named.most_common() if cpu_s > 0.05
    }  # clocks tick in 0.01 s


def _tokenizer_rate(texts: list[str], registry: Path) -> float:
    """Rows that the tokenizer reads in a second of a core, in chunks as the worker has them."""
    store = Registry(registry)
    version = store.resolve(None)
    tokenizer = TokenizerFiles(store.path(version), store.manifest(version).max_length).open()
    chunks = [texts[start : start + CHUNK_ROWS] for start in range(0, len(texts), CHUNK_ROWS)]
    for chunk in chunks[:20]:
        tokenizer.encode(chunk)
    began = time.process_time()
    for chunk in chunks * 3:
        tokenizer.encode(chunk)
    return 3 * len(texts) / (time.process_time() - began)


def _cpu_s(worker_pid: int, redis_pid: int) -> dict[int | str, float]:
    """Seconds of a core so far: of the worker's threads by the kernel's id, and of the other processes by name."""
    worker = psutil.Process(worker_pid)
    found: dict[int | str, float] = {each.id: each.user_time + each.system_time for each in worker.threads()}
    found["other threads"] = sum(worker.cpu_times()[:2]) - sum(found.values())  # those that have ended
    for child in worker.children():
        name = "device process" if "instant_worker" in " ".join(child.cmdline()) else "processes that tokenise"
        found[name] = found.get(name, 0.0) + sum(child.cpu_times()[:2])
    return found | {"Redis": sum(psutil.Process(redis_pid).cpu_times()[:2])}


def _role(name: str) -> str:
    """What a thread is for: its name without numbers and versions."""
    return "feeders" if name.startswith("ThreadPoolExecutor") else re.sub(r"[-_ ]?[0-9].*$", "", name)
