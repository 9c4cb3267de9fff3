"""Bulk rows/s: what a user could run instead, and the bare backend, the scorer and the whole queue for each backend."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from producer import Client
from scorequeue.jobs import Lane
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.benchmarks import plain_celery
from tests.processes import WorkerProcess
from tests.servers import RedisServer
from worker.bench import score_all
from worker.cpu import usable_cpus
from worker.device.loading import load_model
from worker.device.messages import LoadRequest
from worker.device.process import DeviceProcess
from worker.device.sweep import find_budget
from worker.scorer import Scorer
from worker.tokenizing import TokenizerFiles, TokenizerPool
from worker.windows import ChunkScores, ChunkWork, Room

REAL_SENTENCES = Path("../shared/data/cola/in_domain_train.tsv")
BACKENDS = ("openvino", "torch")
CHUNK_ROWS = 256
HEARTBEAT_S = 6.0
"""A worker has told of what it did by then."""

PLAIN_ROWS = 600
PIPELINE_ROWS = 2_048


class Figures(NamedTuple):
    """What one round measured.

    Attributes:
        rows_per_s: By contender.
        padding: Share of the tokens that were padding, by backend, through the queue.
        busy: Share of the time in which the device had a batch, by backend, through the queue.
    """

    rows_per_s: dict[str, float]
    padding: dict[str, float]
    busy: dict[str, float]


def sentences(count: int) -> tuple[list[str], str]:
    """Return so many sentences, repeated if need be, and what they are."""
    if REAL_SENTENCES.exists():
        lines = REAL_SENTENCES.read_text("utf-8").splitlines()
        found, source = [line.split("\t")[3] for line in lines], "CoLA, in-domain train"
    else:
        from training import sample

        found, source = [text for text, _ in sample.make(seed=0)[0]], "the project's own grammar"
    return list(itertools.islice(itertools.cycle(found), count)), source


class Arena:
    """Models and what else the contenders share; measured round by round."""

    def __init__(self, texts: list[str], *, registry: Path, folder: Path, stack: ExitStack) -> None:
        self.texts = texts
        self.registry = registry
        self.folder = folder
        self.cache = folder / "cache"
        version = Registry(registry).resolve(None)
        self._checkpoint = Registry(registry).path(version)
        self.models = {
            backend: load_model(Registry(registry), version, backend=backend, cache_dir=self.cache)
            for backend in BACKENDS
        }
        self.budgets = {
            backend: find_budget(model.backend, self._checkpoint, cache_dir=self.cache)
            for backend, model in self.models.items()
        }
        self._pipeline = _pipeline(self._checkpoint)
        # One for all rounds: Celery's client does not find its way to another server.
        self._plain_redis = stack.enter_context(RedisServer(made(folder / "plain")))

    def measure(self) -> Figures:
        """Run every contender in turn."""
        few = self.texts[:PIPELINE_ROWS]
        rates = {"pipeline, batch 32": len(few) / _seconds(lambda: self._pipeline(few, batch_size=32))}
        rates["one Celery task a sentence"] = plain_celery.rows_per_second(
            self.texts[:PLAIN_ROWS], redis_url=self._plain_redis.url, folder=self._checkpoint, processes=usable_cpus()
        )
        padding, busy = {}, {}
        for backend, model in self.models.items():
            budget = self.budgets[backend]
            rates[f"{backend}: bare backend loop"] = self._rate(
                lambda m=model, b=budget: score_all(m, m.tokenizer.encode(self.texts), budget=b)
            )
            rates[f"{backend}: scorer and device process"] = self._without_the_queue(backend)
            queue = self._through_the_queue(backend)
            rates[f"{backend}: through the queue"], padding[backend], busy[backend] = queue
        return Figures(rates, padding, busy)

    def worker(self, redis_url: str, backend: str, **settings: Any) -> WorkerProcess:
        """A worker with this backend and the budget that the bare loop has."""
        log = made(self.folder / backend) / "worker.log"
        return WorkerProcess(
            log, redis_url=redis_url, namespace="scorequeue", registry=self.registry, cache_dir=self.cache,
            **{"backend": backend, "token_budget": self.budgets[backend]} | settings,
        )  # fmt: skip

    def _without_the_queue(self, backend: str) -> float:
        """Rows/s of the scorer as the worker runs it, fed chunk by chunk, without ledger and Celery."""
        registry = Registry(self.registry)
        manifest = registry.manifest(registry.resolve(None))
        request = LoadRequest(
            self.registry, manifest.version, backend, cache_dir=self.cache, token_budget=self.budgets[backend]
        )
        files = TokenizerFiles(self._checkpoint, manifest.max_length)
        room = Room()
        scorer = Scorer(
            manifest.version,
            labels=manifest.labels,
            files=files,
            device=DeviceProcess(request),
            room=room,
            on_sick=_fail,
        )
        loaded = scorer.start().result()
        pool = TokenizerPool(in_processes=loaded.is_fast, on_fatal=_fail)
        try:
            return self._rate(lambda: _score_chunks(self.texts, scorer, files, pool, room))
        finally:
            pool.close()
            scorer.drain(10)

    def _through_the_queue(self, backend: str) -> tuple[float, float, float]:
        with (
            RedisServer(made(self.folder / backend)) as redis,
            self.worker(redis.url, backend) as worker,
            Client(settings=Settings(redis_url=redis.url)) as client,
        ):
            client.submit(self.texts[:1_024]).wait()  # the first run of anything pays for what is made once
            time.sleep(HEARTBEAT_S)
            before = worker.about()
            took_s = _seconds(lambda: client.submit(self.texts, chunk_rows=CHUNK_ROWS).wait())
            time.sleep(HEARTBEAT_S)
            after = worker.about()
        done = {name: after[name] - before[name] for name in ("tokens", "padded_tokens", "forward_s")}
        return len(self.texts) / took_s, 1 - done["tokens"] / done["padded_tokens"], done["forward_s"] / took_s

    def _rate(self, action: Callable[[], object]) -> float:
        return len(self.texts) / _seconds(action)


def _score_chunks(texts: list[str], scorer: Scorer, files: TokenizerFiles, pool: TokenizerPool, room: Room) -> None:
    chunks = [texts[start : start + CHUNK_ROWS] for start in range(0, len(texts), CHUNK_ROWS)]
    done = threading.Semaphore(0)

    def on_done(scores: ChunkScores) -> None:
        done.release()

    def hand_on(number: int) -> None:
        scorer.submit(ChunkWork(number, Lane.BULK, pool.encode(files, [chunks[number]])[0], on_done))

    for number, chunk in enumerate(chunks):
        while not room.left(Lane.BULK):
            room.wait(Lane.BULK, timeout_s=60)
        room.take(Lane.BULK, len(chunk))
        pool.submit(partial(hand_on, number))
    for _ in chunks:
        done.acquire()


def _fail(error: BaseException) -> None:
    raise AssertionError(error)


def _pipeline(folder: Path) -> Callable[..., object]:
    import transformers

    transformers.logging.disable_progress_bar()
    return transformers.pipeline("text-classification", model=str(folder), device="cpu", dtype="float32")


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
