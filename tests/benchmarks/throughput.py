"""Bulk rows/s: transformers' pipeline, the bare backend loop, and the same rows through the queue."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from producer import Client
from scorequeue.registry import Registry
from scorequeue.settings import Settings
from tests.processes import WorkerProcess
from tests.servers import RedisServer
from worker.backends import pad_rows
from worker.batching import plan_batches
from worker.loading import LoadedModel, load_model
from worker.scorer import MAX_ROWS

REAL_SENTENCES = Path("../shared/data/cola/in_domain_train.tsv")


def sentences(count: int) -> tuple[list[str], str]:
    """Return so many sentences, repeated if need be, and what they are."""
    if REAL_SENTENCES.exists():
        lines = REAL_SENTENCES.read_text("utf-8").splitlines()
        found, source = [line.split("\t")[3] for line in lines], "CoLA, in-domain train"
    else:
        from training import sample

        found, source = [text for text, _ in sample.make(seed=0)[0]], "the project's own grammar"
    return list(itertools.islice(itertools.cycle(found), count)), source


def measure_rounds(texts: list[str], *, registry: Path, folder: Path, rounds: int) -> list[dict[str, float]]:
    """Run every contender in turn, ``rounds`` times over.

    Returns:
        Rows/s by contender, one mapping a round.
    """
    version = Registry(registry).resolve(None)
    model = load_model(Registry(registry), version)
    pipeline = _pipeline(Registry(registry).path(version))
    with RedisServer(folder) as redis:
        settings = Settings(redis_url=redis.url)
        worker = WorkerProcess(folder / "worker.log", redis_url=redis.url, namespace="scorequeue", registry=registry)
        with worker, Client(settings=settings) as client:
            contenders: dict[str, Callable[[], object]] = {
                "pipeline, batch 32": lambda: pipeline(texts, batch_size=32),
                "bare loop": lambda: _bare_loop(model, texts),
                "through the queue": lambda: client.submit(texts).wait(),
            }
            client.submit(texts[:1024]).wait()  # the first run of anything pays for what is made once
            return [
                {name: len(texts) / _seconds(contender) for name, contender in contenders.items()}
                for _ in range(rounds)
            ]


def _bare_loop(model: LoadedModel, texts: list[str]) -> None:
    """What the device can do at best: all rows sorted, no queue, no other thread."""
    rows = model.encode(texts)
    for batch in plan_batches(rows.lengths, token_budget=model.backend.token_budget, max_rows=MAX_ROWS):
        padded = pad_rows(
            rows.token_ids, rows.starts[batch.rows], rows.lengths[batch.rows], pad_id=model.tokenizer.pad_id
        )
        model.backend.begin(padded).scores()


def _pipeline(folder: Path) -> Callable[..., object]:
    import transformers

    transformers.logging.disable_progress_bar()
    return transformers.pipeline("text-classification", model=str(folder), device="cpu", dtype="float32")


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
