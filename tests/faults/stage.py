"""The stage of a fault scenario: a Redis of its own, real workers on a fake device, a client, and an account of it."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis

from producer import Client, Job
from scorequeue.jobs import JobState
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, until
from tests.servers import RedisServer
from worker.backends.fake import fake_scores

NAMESPACE = "faults"
LEASE_S = 3.0
"""Short, where a scenario does not measure how long recovery takes with the real one."""

REAL_LEASE_S = 15.0
RECOVERY_S = 20.0
"""What is promised of recovery with the real lease."""

GONE_S = 1.0
"""Seconds after which nothing may be left of a worker that was killed, and of its child processes."""


@dataclass
class Account:
    """What a scenario did, and what became of the rows."""

    scenario: str
    kills: int = 0
    rows: int = 0
    scored: int = 0
    failed: int = 0
    lost: int = 0
    doubled: int = 0
    recovered_s: float | None = None
    note: str = ""


@dataclass
class Stage:
    """Everything a scenario works with; made by the fixture ``stage``."""

    folder: Path
    registry: Path
    account: Account
    stack: ExitStack
    lease_s: float = LEASE_S
    redis_options: tuple[str, ...] = ()
    redis_folder: Path | None = None
    _server: RedisServer | None = None
    _client: Client | None = None
    _ledger: Ledger | None = None
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def server(self) -> RedisServer:
        """The scenario's Redis; started when it is first asked for."""
        if self._server is None:
            self._server = self.stack.enter_context(RedisServer(self.redis_folder or self.folder, *self.redis_options))
        return self._server

    @property
    def settings(self) -> Settings:
        return Settings(redis_url=self.server.url, namespace=NAMESPACE, lease_s=self.lease_s)

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self.stack.enter_context(Client(settings=self.settings))
        return self._client

    @property
    def ledger(self) -> Ledger:
        """A look into the ledger that outlasts outages."""
        if self._ledger is None:
            self._ledger = Ledger.connect(self.settings, patience_s=60)
            self.stack.callback(self._ledger.close)
        return self._ledger

    def redis(self) -> redis.Redis:
        """A plain client, to look at keys and to tamper with them."""
        client = redis.Redis.from_url(self.server.url)
        self.stack.callback(client.close)
        return client

    def move_to(self, server: RedisServer) -> None:
        """Look at another server from now on: a replica that took the first one's place."""
        self._server, self._client, self._ledger = server, None, None

    def start_worker(
        self,
        *,
        rows_per_s: float | None = None,
        token_budget: int | str = "auto",
        url: str | None = None,
        wait: bool = True,
        **variables: object,
    ) -> WorkerProcess:
        """Start a real worker on a fake device that does harm if told to.

        Args:
            rows_per_s: Speed of the device; None answers at once.
            token_budget: Padded tokens of a batch; "auto" takes thousands of rows at once.
            url: How it gets to Redis, if not directly.
            wait: Whether to wait until it is ready.
            variables: What ``faulty_worker`` reads, by short names.
        """
        environment = {f"FAULTS_{name.upper()}": str(value) for name, value in variables.items()}
        if rows_per_s is not None:
            environment["FAULTS_ROWS_PER_S"] = str(rows_per_s)
        worker = WorkerProcess(
            self.folder / f"worker-{len(self.workers)}.log",
            module="tests.faults.faulty_worker",
            variables=environment,
            ledger_url=self.server.url,
            redis_url=url or self.server.url,
            namespace=NAMESPACE,
            registry=self.registry,
            backend="fake",
            token_budget=token_budget,
            lease_s=self.lease_s,
        )
        self.workers.append(worker)
        self.stack.callback(worker.__exit__)
        worker.launch()
        return worker.wait_until_ready() if wait else worker

    def kill(self, worker: WorkerProcess, *, gone_s: float = GONE_S) -> None:
        """SIGKILL a worker, count it, and see that its child processes end as well."""
        worker.pause()  # so that it starts no other one meanwhile
        children = children_of(worker)
        worker.kill()
        self.account.kills += 1
        until(lambda: not any(map(is_alive, children)), timeout_s=gone_s, what="the end of its child processes")

    def kill_device(self, worker: WorkerProcess) -> None:
        """SIGKILL a worker's device process, and count it."""
        device_of(worker).kill()
        self.account.kills += 1

    def meta(self, name: str) -> int:
        """A counter of the ledger."""
        return int(self.redis().hget(self.ledger.keys.meta, name) or 0)

    def held_by(self, worker_id: str) -> int:
        """How many chunks the ledger says a worker holds."""
        holders = self.redis().hvals(f"{self.ledger.keys.prefix}holders")
        return sum(holder.decode().endswith(f" {worker_id}") for holder in holders)

    def log_of(self, worker: WorkerProcess) -> str:
        return worker.log.read_text()


def children_of(worker: WorkerProcess) -> list[psutil.Process]:
    """A worker's device and tokenizer processes."""
    children: list[psutil.Process] = psutil.Process(worker.pid).children(recursive=True)
    return children


def device_of(worker: WorkerProcess) -> psutil.Process:
    """The device process of a worker that has one version loaded."""
    (device,) = [child for child in children_of(worker) if "tests.faults.faulty_device" in child.cmdline()]
    return device


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sentences(count: int, *, start: int = 0) -> list[str]:
    """Different sentences, so that a row in the wrong place shows by its score."""
    return [f"The dog number {number} sleeps on the sofa." for number in range(start, start + count)]


def until_scored(job: Job, rows: int = 1, *, timeout_s: float = 60.0) -> None:
    """Wait until so many rows of a job are scored."""
    until(lambda: job.status().scored >= rows, timeout_s=timeout_s, what=f"{rows} scored rows")


def settle(stage: Stage, job: Job, texts: list[str], *, failed: Iterable[int] = (), timeout_s: float = 120.0) -> None:
    """Wait for the end of a job, and check every row of it.

    Args:
        stage: Whose account is written.
        job: The job; it must complete.
        texts: Its rows as they were submitted; each must have the scores of its own text, in its place.
        failed: Positions, from 0, of rows that must have failed.
        timeout_s: How long the job may take from now.
    """
    status = job.wait(timeout_s=timeout_s)
    assert status.state is JobState.COMPLETED, status
    check_rows(stage, job, texts, failed=failed)


def check_rows(
    stage: Stage, job: Job, texts: list[str], *, failed: Iterable[int] = (), cancelled: bool = False
) -> None:
    """Check every row of a job that has ended against the fake's own scores, and write the account."""
    account = stage.account
    account.doubled += _accepted_again(stage, job)  # first: such a job ends too early, and its rows cannot all be read
    assert account.doubled == 0, "commits were accepted for rows that had been committed"
    status = job.status()
    seen = np.zeros(len(texts), np.int64)
    wanted = _wanted_scores(texts)
    wrong, found_failed = [], []
    for chunk in job.result_chunks():
        scores = np.array(chunk.scores, np.float32).reshape(len(chunk), -1)  # (rows, labels)
        for offset in range(len(chunk)):
            row = chunk.first_row - 1 + offset
            seen[row] += 1
            if offset in chunk.errors:
                found_failed.append(row)
            elif not np.allclose(scores[offset], wanted[row], atol=1e-6):
                wrong.append(row)
    account.rows += len(texts)
    account.scored += status.scored
    account.failed += status.failed
    account.lost += int((seen == 0).sum()) - status.cancelled
    account.doubled += int((seen > 1).sum())
    audit = job.audit()
    assert audit.is_clean, audit.differences
    recounted = (audit.total, audit.scored, audit.failed, audit.cancelled, audit.pending)
    assert recounted == (len(texts), status.scored, status.failed, status.cancelled, 0)
    assert wrong == [], "rows have scores of other texts"
    assert found_failed == sorted(failed)
    assert (account.lost, account.doubled) == (0, 0)
    assert cancelled or status.cancelled == 0


def _accepted_again(stage: Stage, job: Job) -> int:
    """How many rows the ledger accepted a commit for though they had been committed.

    Results cannot say: a second commit of a chunk writes over the first. But each accepted one adds its rows to the
    counters of the job and to the record of the chunk, which then add up to more rows than there are.
    """
    status = job.status()
    records = stage.ledger.chunk_records(job.id, 0, status.chunks)
    by_records = sum(max(0, record.scored + record.failed + record.pending - record.rows) for record in records)
    return max(by_records, status.scored + status.failed + status.cancelled - status.total)


def _wanted_scores(texts: list[str]) -> Any:
    checksums = np.fromiter((zlib.crc32(text.encode()) for text in texts), np.int64, len(texts)) & 0x7FFFFFFF
    return fake_scores(checksums, 2)  # (rows, labels)


@contextlib.contextmanager
def recovery(stage: Stage) -> Iterator[None]:
    """Measure how long what is inside takes; the longest one goes into the account."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    stage.account.recovered_s = max(took_s, stage.account.recovered_s or 0.0)
