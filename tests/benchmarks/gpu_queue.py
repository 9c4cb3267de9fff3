"""One ``worker start`` for ``make bench-gpu``: bulk jobs, lone sentences, scores, and how busy the card is."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import psutil

from producer import Client, Job
from scorequeue.settings import Settings
from tests.benchmarks.gpu_models import Model
from tests.processes import WorkerProcess, environment
from tests.servers import RedisServer

READY_TIMEOUT_S = 150.0
JOB_TIMEOUT_S = 90.0
MOST_WAITING = 100_000_000
"""Rows that may wait in the lane: nothing scores them while they are uploaded."""

USUAL_BUDGET = 32_768
LONE_PAUSE_S = 0.02
SAMPLE_S = 0.2
STALE_S = 1.2
"""A utilisation is that of up to a second before: the first one must not tell of the time before the job."""


class Bulk(NamedTuple):
    """What a bulk job showed.

    Attributes:
        rows: Rows in it.
        rows_per_s: From the first claim to the last commit; all rows were there before.
        upload_rows_per_s: Of all producers together, their start included, while nothing was scored.
        busy: Share of the time with a kernel running; None where there is no GPU.
        watts: Mean power; None where there is no GPU.
    """

    rows: int
    rows_per_s: float
    upload_rows_per_s: float
    busy: float | None
    watts: float | None

    def describe(self) -> dict[str, float]:
        """Return what is known beside the speed."""
        known: dict[str, float] = {"rows": self.rows, "upload rows/s": round(self.upload_rows_per_s)}
        if self.busy is None or self.watts is None:
            return known
        return known | {"kernel running (NVML)": round(self.busy, 3), "watts": round(self.watts)}


class ServedModel:
    """A Redis server, one worker process that serves a model, and a client; a context.

    Args:
        model: What it serves.
        device: Where.
        folder: An empty folder for logs, the append-only file and input files.
        producers: Processes that upload at a time.
        token_budget: The worker's; None leaves it to the worker.
    """

    def __init__(self, model: Model, *, device: str, folder: Path, producers: int, token_budget: int | None) -> None:
        self._device = device
        self._folder = folder
        self._producers = producers
        self._stack = ExitStack()
        self._redis = RedisServer(folder)
        self._worker = WorkerProcess(
            folder / "worker.log", redis_url=self._redis.url, namespace="scorequeue",
            registry=model.registry, device=device, backend="torch",
            token_budget=token_budget or "auto",
        )  # fmt: skip

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._redis)
            began = time.perf_counter()
            self._worker.launch()
            stack.callback(self._stop)
            self._worker.wait_until_ready(timeout_s=READY_TIMEOUT_S)
            self.start_s = time.perf_counter() - began
            settings = Settings(redis_url=self._redis.url, max_outstanding=MOST_WAITING)
            self.client = stack.enter_context(Client(settings=settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def token_budget(self) -> int:
        """Return the most padded tokens of a batch that the worker reports, or a usual number if it reports none."""
        return int(self._worker.about().get("token_budget") or USUAL_BUDGET)

    def run_bulk(self, texts: Sequence[str], *, rows: int) -> Bulk:
        """Score rows that have all been uploaded before the worker sees the first.

        Args:
            texts: What the rows are, over and over.
            rows: About how many.
        """
        with self._uploaded(texts, rows) as (jobs, upload_rate), CardSampler(self._device) as card:
            self._wake()
            ended = [job.wait(JOB_TIMEOUT_S) for job in jobs]
        for status in ended:
            assert status.scored == status.total, f"expected every row scored, got {status}"
        begun = min(status.started_at for status in ended if status.started_at)
        end = max(status.finished_at for status in ended if status.finished_at)
        scored = sum(status.scored for status in ended)
        return Bulk(scored, scored / (end - begun).total_seconds(), upload_rate, *card.means())

    def warm(self, texts: Sequence[str], *, rows: int) -> float:
        """Score rows once, so that no shape is new; returns rows/s, upload included."""
        repeated = (list(texts) * (rows // len(texts) + 1))[:rows]
        began = time.perf_counter()
        self.client.submit(repeated, lane="bulk").wait(JOB_TIMEOUT_S)
        return rows / (time.perf_counter() - began)

    def lone_ms(self, texts: Sequence[str]) -> list[float]:
        """Return what each of some sentences takes alone, from submit to the result, one by one."""
        return [self._lone_ms(text) for text in texts]

    def lone_ms_beside_bulk(self, texts: Sequence[str], *, bulk_rows: int) -> list[float]:
        """Return the same while a bulk job runs, until it is nearly done."""
        taken: list[float] = []
        with self._uploaded(texts, bulk_rows) as (jobs, _):
            self._wake()
            # Asked now and then: a status costs about a tenth of a lone sentence.
            while len(taken) % 8 or _pending(jobs) > bulk_rows // 20:
                taken.append(self._lone_ms(texts[len(taken) % len(texts)]))
                time.sleep(LONE_PAUSE_S)
            for job in jobs:
                job.wait(JOB_TIMEOUT_S)
        return taken

    def scores(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the probability of each label of each row: (rows, labels)."""
        job = self.client.submit(texts, lane="bulk")
        job.wait(JOB_TIMEOUT_S)
        return np.array([list(row.scores.values()) for row in job.results()], np.float32)

    def _lone_ms(self, text: str) -> float:
        began = time.perf_counter()
        job = self.client.submit([text])
        job.wait(JOB_TIMEOUT_S)
        (_,) = job.results()
        return 1000 * (time.perf_counter() - began)

    @contextmanager
    def _uploaded(self, texts: Sequence[str], rows: int) -> Iterator[tuple[list[Job], float]]:
        """Upload about so many rows in bulk jobs while the worker is stopped; ``_wake`` lets it go on.

        Yields:
            The jobs, and rows/s of the upload. What is left of them at an error is cancelled.
        """
        each = max(1, rows // self._producers)
        file = self._folder / "rows.txt"
        whole, rest = divmod(each, len(texts))
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(["".join(f"{text}\n" for text in texts)] * whole)
            lines.writelines(f"{text}\n" for text in texts[:rest])
        command = [sys.executable, "-m", "producer", "submit", str(file), "--lane", "bulk", "--quiet"]
        variables = environment(redis_url=self._redis.url, max_outstanding=MOST_WAITING)
        jobs: list[Job] = []
        for process in self._processes():
            process.suspend()
        try:
            began = time.perf_counter()
            uploads = [
                subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
                for _ in range(self._producers)
            ]
            for upload in uploads:
                job_id, _ = upload.communicate(timeout=JOB_TIMEOUT_S)
                assert not upload.returncode, f"an upload ended with {upload.returncode}, see above"
                jobs.append(self.client.job(job_id.strip()))
            yield jobs, each * self._producers / (time.perf_counter() - began)
        except BaseException:
            self._wake()
            for job in jobs:
                job.cancel()
            raise

    def _wake(self) -> None:
        for process in reversed(self._processes()):
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self._worker.pid)
        return [parent, *parent.children(recursive=True)]

    def _stop(self) -> None:
        if self._worker.is_running:
            self._wake()
            self._worker.terminate()


class CardSampler:
    """Asks NVML for utilisation and power through ``nvidia-smi``, from outside the worker; a context."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device.startswith("cuda")
        self._samples: list[tuple[float, float]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        if self._is_cuda:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        if self._is_cuda:
            self._thread.join()

    def means(self) -> tuple[float | None, float | None]:
        """Return the share of the time with a kernel running, and watts; None where nothing was sampled."""
        if not self._samples:
            return None, None
        utilisation, watts = np.mean(self._samples, axis=0)
        return float(utilisation) / 100, float(watts)

    def _sample(self) -> None:
        query = ["--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits", "-i", "0"]
        wait_s = STALE_S
        while not self._is_over.wait(wait_s):
            done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=True)
            wait_s = SAMPLE_S
            if not self._is_over.is_set():
                utilisation, watts = map(float, done.stdout.split(","))
                self._samples.append((utilisation, watts))


def _pending(jobs: Sequence[Job]) -> int:
    return sum(job.status().pending for job in jobs)
