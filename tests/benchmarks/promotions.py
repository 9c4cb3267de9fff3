"""Jobs while versions are promoted beside them: none is lost or mixed, each promotion is taken up, and nobody waits.

A pause is measured from outside, by lone sentences beside bulk jobs: the longest that one took while a version was made
ready and swapped, against the longest without.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from producer import Client
from scorequeue.registry import ManifestDraft, Registry
from scorequeue.settings import Settings
from tests.benchmarks.latency import share
from tests.processes import WorkerProcess
from tests.servers import RedisServer

PROMOTIONS = 20
VERSIONS = 3
JOB_ROWS = 1_000
JOBS_AT_ONCE = 2
"""Bulk jobs in the queue: the device has always something to do, and an older version's last job is done soon."""

QUIET_S = 20.0
"""Seconds without promotions, before and after them."""

TOKEN_BUDGET = 512
"""What the sweep finds on two quiet cores; given, so that batches are as long in each run."""

PAUSE_S = 0.05
TAKEN_UP_S = 300.0
"""Seconds for a promotion to be taken up at most. The converter gives way to scoring, and on a busy machine to all."""


def measure_promotions(texts: list[str], *, registry: Path, folder: Path, backend: str) -> dict[str, float]:
    """Promote twenty times while jobs run.

    Returns:
        Figures by name; the unit is in the name.

    Raises:
        AssertionError: A row was lost, a job was scored by two versions, or a promotion was not taken up.
    """
    shelf = Registry(folder / "registry")
    versions = _copies(registry, shelf)
    with RedisServer(folder) as redis:
        # Hasty, for twenty promotions in two minutes: an older version goes at once when its last job is done.
        worker = WorkerProcess(
            folder / "worker.log", module="tests.hasty_worker", redis_url=redis.url, namespace="scorequeue",
            registry=shelf.root, backend=backend, token_budget=TOKEN_BUDGET,
        )  # fmt: skip
        settings = Settings(redis_url=redis.url)
        with worker, Client(settings=settings) as client, _lone_sentences(settings, texts) as lone:
            jobs = Jobs(client, texts)
            _wait_for(jobs, seconds=QUIET_S / 4)  # the first run of anything pays for what is made once
            without = lone.during(lambda: _wait_for(jobs, seconds=QUIET_S))
            began = time.monotonic()
            beside = lone.during(
                lambda: [_promote(shelf, version, jobs) for version in _in_turn(versions)],
            )
            took_s = time.monotonic() - began
            without += lone.during(lambda: _wait_for(jobs, seconds=QUIET_S))
            jobs.finish()
            longest_batch_s = worker.about()["longest_batch_s"]
        swaps = worker.log.read_text().count("version_swapped")
    assert swaps >= PROMOTIONS, f"{PROMOTIONS} promotions should be taken up, {swaps} were"
    assert (jobs.lost, jobs.mixed) == (0, 0), f"{jobs.lost} rows were lost, {jobs.mixed} jobs had two versions"
    return {
        "promotions": PROMOTIONS,
        "of them taken up": swaps,
        "versions that served": len(jobs.served),
        "rows lost": jobs.lost,
        "jobs scored by two versions": jobs.mixed,
        "s from a promotion to a job that has it": took_s / PROMOTIONS,
        "ms for a lone sentence, without promotions, p50": share(without, 0.5),
        "ms for a lone sentence, without promotions, p95": share(without, 0.95),
        "ms for a lone sentence, without promotions, longest": max(without),
        "ms for a lone sentence, during promotions, p50": share(beside, 0.5),
        "ms for a lone sentence, during promotions, p95": share(beside, 0.95),
        "ms for a lone sentence, during promotions, longest": max(beside),
        "ms, the longest batch": 1000 * longest_batch_s,
    }


@dataclass
class Jobs:
    """Bulk jobs, some of them in the queue at any time; they are checked as they end."""

    client: Client
    texts: list[str]
    lost: int = 0
    mixed: int = 0
    served: list[str] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._waiting = [self._submit() for _ in range(JOBS_AT_ONCE)]

    def wait_for_one(self) -> str:
        """Wait for the oldest one, and submit another. Returns the version that it had."""
        version = self._check()
        self._waiting.append(self._submit())
        return version

    def finish(self) -> None:
        """Wait for all."""
        while self._waiting:
            self._check()
        self.served = sorted(set(self.served))

    def _submit(self):  # type: ignore[no-untyped-def]
        start = next(self._number) * JOB_ROWS % max(1, len(self.texts) - JOB_ROWS)
        return self.client.submit(self.texts[start : start + JOB_ROWS], lane="bulk")

    def _check(self) -> str:
        job = self._waiting.pop(0)
        status = job.wait()
        found = {chunk.model_version for chunk in job.result_chunks()}
        self.lost += status.total - status.scored
        self.mixed += found != {status.model_version}
        self.served.append(str(status.model_version))
        job.delete()
        return self.served[-1]


class Lone:
    """What lone sentences took, in milliseconds, since the last time that somebody asked."""

    def __init__(self) -> None:
        self._took_ms: list[float] = []

    def note(self, took_ms: float) -> None:
        """One more."""
        self._took_ms.append(took_ms)

    def during(self, action) -> list[float]:  # type: ignore[no-untyped-def]
        """Run something; returns what they took meanwhile."""
        before = len(self._took_ms)
        action()
        return self._took_ms[before:]


@contextmanager
def _lone_sentences(settings: Settings, texts: list[str]) -> Iterator[Lone]:
    lone, is_over = Lone(), threading.Event()

    def ask() -> None:
        with Client(settings=settings) as client:
            for text in itertools.cycle(texts):
                if is_over.wait(PAUSE_S):
                    return
                began = time.perf_counter()
                client.submit([text]).wait()
                lone.note(1000 * (time.perf_counter() - began))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lone
    finally:
        is_over.set()
        thread.join()


def _copies(registry: Path, shelf: Registry) -> list[str]:
    """Publish the current version of a registry in another one, a few times."""
    source = Registry(registry)
    version = source.resolve(None)
    draft = ManifestDraft(**source.manifest(version).model_dump(include=set(ManifestDraft.model_fields)))
    return [shelf.publish(source.path(version), draft=draft) for _ in range(VERSIONS)]


def _in_turn(versions: list[str]) -> Iterator[str]:
    return itertools.islice(itertools.cycle(versions[1:] + versions[:1]), PROMOTIONS)


def _promote(shelf: Registry, version: str, jobs: Jobs) -> None:
    """Promote a version, and wait until a job has it."""
    shelf.promote(version, expected=shelf.current(), why="bench")
    give_up_at = time.monotonic() + TAKEN_UP_S
    while jobs.wait_for_one() != version:
        assert time.monotonic() < give_up_at, f"{version} was promoted, and no job has it after {TAKEN_UP_S:.0f} s"


def _wait_for(jobs: Jobs, *, seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        jobs.wait_for_one()
