"""A file of five million sentences through the ``producer`` command: rows/s and memory of upload, download and join."""

from __future__ import annotations

import contextlib
import csv
import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from producer import Client
from scorequeue.settings import Settings
from tests.benchmarks.throughput import made
from tests.processes import WorkerProcess, environment
from tests.servers import RedisServer

FILE_ROWS = 5_000_000


class Run(NamedTuple):
    """What a command came to.

    Attributes:
        stdout: What it printed.
        took_s: Seconds, the start of the process included.
        peak_mb: Most memory that it held, in megabytes.
    """

    stdout: str
    took_s: float
    peak_mb: float


def measure_files(texts: Sequence[str], *, registry: Path, folder: Path, rows: int = FILE_ROWS) -> dict[str, float]:
    """Submit a csv file of so many rows, wait, download its results, and download them joined to the file.

    Args:
        texts: Sentences, repeated until there are enough.
        registry: A checkpoint, for its labels; the device answers at once.
        folder: Where the files go; about 150 bytes a row.
        rows: Rows of the file.

    Returns:
        Figures by name; the unit is in the name.
    """
    source, scored, joined = (made(folder) / name for name in ("in.csv", "scored.jsonl", "joined.csv"))
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "sentence"))
        writer.writerows(enumerate(itertools.islice(itertools.cycle(texts), rows), 1))
    with RedisServer(folder) as redis:
        worker = WorkerProcess(
            folder / "worker.log", redis_url=redis.url, namespace="scorequeue", registry=registry, backend="fake"
        )
        with worker, Client(settings=Settings(redis_url=redis.url)) as client:
            submit = _run(redis.url, "submit", str(source))
            job = client.job(submit.stdout.strip())
            status = job.wait()
            assert status.scored == rows, status
            plain = _run(redis.url, "results", job.id, "--output", str(scored))
            join = _run(redis.url, "results", job.id, "--join", str(source), "--output", str(joined))
    return {
        "rows/s, producer submit, csv": rows / submit.took_s,
        "MB, producer submit": submit.peak_mb,
        "rows/s, producer results, jsonl": rows / plain.took_s,
        "MB, producer results": plain.peak_mb,
        "rows/s, producer results --join, csv": rows / join.took_s,
        "MB, producer results --join": join.peak_mb,
    }


def _run(redis_url: str, *args: str) -> Run:
    """Run ``producer`` as a process of its own."""
    command = [sys.executable, "-m", "producer", "--quiet", *args]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(redis_url=redis_url), stdout=subprocess.PIPE, text=True)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:  # not ru_maxrss: it begins with what the parent held
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, watched.memory_info().rss)
        time.sleep(0.02)
    took_s = time.perf_counter() - began
    stdout, _ = process.communicate()
    assert process.returncode == 0, f"producer {' '.join(args)} ended with {process.returncode}"
    return Run(stdout, took_s, peak / 1e6)
