"""``worker bench``: how fast this machine runs a version, with which backend, dtype and token budget.

Each way is measured as the worker runs it, with rows sorted by length and cut by the token budget that a sweep finds.
Scores are compared with those of torch in float32.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scorequeue.errors import InputError, ScorequeueError, UsageError
from scorequeue.registry import Registry
from worker.backends import DeviceFullError, Encodings, Running, Scores, pad_rows
from worker.batching import plan_batches
from worker.cpu import has_native_bfloat16
from worker.device.loading import LoadedModel, load_model
from worker.device.sweep import Point, in_flight, measure_budget
from worker.scorer import MAX_ROWS
from worker.settings import WorkerSettings

LEAST_ROWS, LEAST_BATCHES = 2_048, 12
"""What a pass has at least: sentences are repeated. With fewer full batches, many lengths would share one."""

MEASURED_S = 2.0
"""Seconds that are measured, after a pass that is not: a device's first batch of a shape takes longer."""

REFERENCE = ("torch", "float32")


@dataclass(frozen=True)
class Measured:
    """One way of running the version."""

    backend: str
    dtype: str
    device: str = ""
    token_budget: int = 0
    points: tuple[Point, ...] = ()  # the curve: seconds a batch by budget
    rows_per_s: float = 0.0
    tokens_per_s: float = 0.0  # without padding
    padding: float = 0.0  # share of the tokens
    flips: int | None = None  # sentences with another label than the reference; None for the reference itself
    largest_difference: float | None = None  # of a score from the reference's
    failed: str | None = None  # why it cannot be run


def ways_to_run(settings: WorkerSettings) -> list[tuple[str, str]]:
    """Backends and dtypes to measure, the reference first.

    What the settings name instead of ``auto`` is the only choice beside it, whether it makes sense on this machine or
    not.

    Raises:
        UsageError: The fake backend has no speed to measure.
    """
    if settings.backend == "fake":
        raise UsageError("expected a backend that scores, got fake; name torch or openvino, or leave --backend out")
    import torch  # seconds, so not before it is clear that it is needed

    if settings.device != "cpu" and torch.cuda.is_available():
        backends, dtypes = ["torch"], ["float32", "bfloat16", "float16"]
    else:
        backends, dtypes = ["torch", "openvino"], ["float32", *["bfloat16"] * has_native_bfloat16()]
    backends = backends if settings.backend == "auto" else [settings.backend]
    dtypes = dtypes if settings.dtype == "auto" else [settings.dtype]
    ways = [(backend, dtype) for backend in backends for dtype in dtypes]
    return [REFERENCE, *(way for way in ways if way != REFERENCE)]


def is_asked_for(way: Measured, settings: WorkerSettings) -> bool:
    """Whether a way is what the settings name, and not only there to compare with."""
    return settings.backend in ("auto", way.backend) and settings.dtype in ("auto", way.dtype)


def run_bench(settings: WorkerSettings, sentences: Sequence[str], *, version: str | None = None) -> Iterator[Measured]:
    """Measure each way in turn, those that cannot be run too; budgets are kept for the next start of a worker.

    Args:
        settings: Registry, device, backend, dtype and cache.
        sentences: What to score; none stands for the version's golden sentences.
        version: Its name; None stands for ``current``.

    Raises:
        UsageError: See ``ways_to_run``.
        VersionError: There is no such version, or it is damaged.
    """
    ways = ways_to_run(settings)
    registry = Registry(settings.registry)
    version = registry.resolve(version)
    texts = list(sentences) or [golden.text for golden in registry.manifest(version).golden]
    reference: Scores | None = None
    for backend, dtype in ways:
        try:
            model = load_model(
                registry, version, backend=backend, device=settings.device, dtype=dtype, cache_dir=settings.cache_dir
            )
            budget, points = measure_budget(model.backend, registry.path(version), cache_dir=settings.cache_dir)
            measured, scores = _measure(model, texts, budget=settings.token_budget or budget)
        except (ScorequeueError, DeviceFullError) as error:
            yield Measured(backend, dtype, failed=str(error))
            continue
        if reference is not None:
            flips = int((scores.argmax(1) != reference.argmax(1)).sum())
            difference = float(np.abs(scores - reference).max())
            measured = replace(measured, flips=flips, largest_difference=difference)
        if (backend, dtype) == REFERENCE:
            reference = scores
        yield replace(measured, points=tuple(points))


def read_sentences(path: Path) -> list[str]:
    """Read one sentence a line.

    Raises:
        InputError: The file cannot be read, or has none.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a file with a sentence a line, got {path}: {error}") from error
    if not lines:
        raise InputError(f"expected a sentence a line, got none in {path}")
    return lines


def table_of(results: Sequence[Measured]) -> str:
    """Return what was measured as aligned lines: a line for each way, then the curve of the fastest one."""
    rows = [("backend", "dtype", "budget", "rows/s", "tokens/s", "padding", "other labels", "largest difference")]
    measured = [result for result in results if result.failed is None]
    for way in measured:
        speeds = (f"{way.token_budget:,}", f"{way.rows_per_s:,.0f}", f"{way.tokens_per_s:,.0f}", f"{way.padding:.1%}")
        differs = ("-", "-") if way.flips is None else (f"{way.flips:,}", f"{way.largest_difference:.5f}")
        rows.append((way.backend, way.dtype, *speeds, *differs))
    lines = _aligned(rows)
    lines += [f"{result.backend} {result.dtype}: {result.failed}" for result in results if result.failed is not None]
    if measured:
        fastest = max(measured, key=lambda way: way.rows_per_s)
        curve = [("budget", "ms a batch", "tokens/s")]
        for point in fastest.points:
            star = "*" if point.token_budget == fastest.token_budget else ""
            curve.append((f"{point.token_budget:,}{star}", f"{point.batch_s * 1e3:.1f}", f"{point.tokens_per_s:,.0f}"))
        lines += ["", f"{fastest.backend} {fastest.dtype} on {fastest.device}", *_aligned(curve)]
        lines.append("* the budget that is taken: the smallest that is nearly as fast as the best")
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def score_all(model: LoadedModel, rows: Encodings, *, budget: int) -> tuple[Scores, int]:
    """Score rows as the worker does: sorted, by budget, as many batches in flight as the device takes.

    Returns:
        Scores float32 (rows, labels), and tokens with padding.
    """
    scores = np.empty((rows.rows, len(model.labels)), np.float32)
    padded_tokens = 0

    def begun() -> Iterator[tuple[Any, Running]]:
        nonlocal padded_tokens
        tokenizer = model.tokenizer
        for batch in plan_batches(rows.lengths, token_budget=budget, max_rows=MAX_ROWS):
            starts, lengths = rows.starts[batch.rows], rows.lengths[batch.rows]
            width = min(batch.width, tokenizer.max_length)
            padded = pad_rows(rows.token_ids, starts, lengths, pad_id=tokenizer.pad_id, width=width)
            padded_tokens += padded.input_ids.size
            yield batch.rows, model.backend.begin(padded)

    for at, wait in in_flight(begun(), depth=model.backend.depth):
        scores[at] = wait()
    return scores, padded_tokens


def _measure(model: LoadedModel, texts: Sequence[str], *, budget: int) -> tuple[Measured, Scores]:
    # As many rows as the worker sorts together while such a device is busy, so that padding is what it will be.
    least = max(LEAST_ROWS, LEAST_BATCHES * budget // 16, len(texts))
    rows = model.tokenizer.encode(list(itertools.islice(itertools.cycle(texts), least)))
    scores, padded_tokens = score_all(model, rows, budget=budget)  # warms every shape
    passes, began = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began) < MEASURED_S or not passes:
        score_all(model, rows, budget=budget)
        passes += 1
    tokens = int(rows.lengths.sum())
    measured = Measured(
        backend=model.backend.name,
        dtype=model.backend.dtype,
        device=model.backend.device,
        token_budget=budget,
        rows_per_s=passes * rows.rows / took_s,
        tokens_per_s=passes * tokens / took_s,
        padding=1 - tokens / padded_tokens,
    )
    return measured, scores[: len(texts)]
