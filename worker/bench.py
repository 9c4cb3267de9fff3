"""``worker bench``: how fast this machine runs a version, with which backend, dtype and budget, and what it costs.

Each way of running it is measured like the worker runs it: rows sorted by length and cut by the token budget that a
sweep finds. Scores are compared with those of torch in float32.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorequeue.errors import InputError, ScorequeueError, UsageError
from scorequeue.registry import Registry
from worker.backends import DeviceFullError, Encodings, Scores, pad_rows
from worker.batching import plan_batches
from worker.cpu import has_native_bfloat16
from worker.device.loading import LoadedModel, load_model
from worker.device.sweep import Point, budget_key, choose, keep, measure
from worker.scorer import MAX_ROWS
from worker.settings import WorkerSettings

LEAST_ROWS = 2_048
"""Rows that are scored for the speed: sentences are repeated until there are so many."""

BATCHES = 12
"""Full batches that a pass has at least: with fewer, rows of many lengths would have to share one."""

MEASURED_S = 2.0
"""Seconds that are measured, after a pass that is not: a device's first batch of a shape takes longer."""

REFERENCE = ("torch", "float32")


@dataclass(frozen=True)
class Measured:
    """One way of running the version.

    Attributes:
        backend: ``torch`` or ``openvino``.
        dtype: Number format of its weights.
        device: In words.
        token_budget: The budget that was chosen.
        points: The curve: seconds a batch by budget.
        rows_per_s: Speed on the sentences.
        tokens_per_s: The same in tokens without padding.
        padding: Share of the tokens that were padding.
        flips: Sentences with another label than the reference; None where there is none.
        largest_difference: Of a score from the reference's.
        failed: Why it cannot be run, instead of all that.
    """

    backend: str
    dtype: str
    device: str = ""
    token_budget: int = 0
    points: tuple[Point, ...] = ()
    rows_per_s: float = 0.0
    tokens_per_s: float = 0.0
    padding: float = 0.0
    flips: int | None = None
    largest_difference: float | None = None
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``bench --json`` prints it."""
        found = {name: value for name, value in asdict(self).items() if name != "points"}
        curve = [{**asdict(point), "tokens_per_s": round(point.tokens_per_s)} for point in self.points]
        return {**found, "points": curve}


def ways_to_run(settings: WorkerSettings) -> list[tuple[str, str]]:
    """Backends and dtypes to measure, the reference first.

    Args:
        settings: What is named there instead of ``auto`` is the only choice beside the reference, and is tried whether
            it makes sense on this machine or not: whoever names it wants to know.

    Raises:
        UsageError: The fake backend has no speed to measure.
    """
    if settings.backend == "fake":
        raise UsageError("expected a backend that scores, got fake; name torch or openvino, or leave --backend out")
    is_on_gpu = settings.device != "cpu" and _has_gpu()
    dtypes = ["float32", *(["bfloat16"] if is_on_gpu or has_native_bfloat16() else []), *(["float16"] * is_on_gpu)]
    if settings.dtype != "auto":
        dtypes = [settings.dtype]
    backends = ["torch"] if is_on_gpu else ["torch", "openvino"]
    if settings.backend != "auto":
        backends = [settings.backend]
    ways = [(backend, dtype) for backend in backends for dtype in dtypes]
    return [REFERENCE, *(way for way in ways if way != REFERENCE)]


def is_asked_for(way: Measured, settings: WorkerSettings) -> bool:
    """Whether a way is what the settings name, and not only there to compare with."""
    return settings.backend in ("auto", way.backend) and settings.dtype in ("auto", way.dtype)


def run_bench(settings: WorkerSettings, sentences: Sequence[str], *, version: str | None = None) -> Iterator[Measured]:
    """Measure each way in turn; budgets are kept for the next start of a worker.

    Args:
        settings: Registry, device, backend, dtype and cache.
        sentences: What to score; none stands for the version's golden sentences.
        version: Its name; None stands for ``current``.

    Yields:
        Each way, those that cannot be run too.

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
            measured, scores = _measure_way(
                registry, version, settings, texts, backend=backend, dtype=dtype, reference=reference
            )
        except (ScorequeueError, DeviceFullError) as error:
            measured, scores = Measured(backend, dtype, failed=str(error)), None
        yield measured
        if (backend, dtype) == REFERENCE:
            reference = scores


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
    head = ("backend", "dtype", "budget", "rows/s", "tokens/s", "padding", "other labels", "largest difference")
    rows = [head]
    for result in results:
        if result.failed is not None:
            continue
        differs = ("-", "-") if result.flips is None else (f"{result.flips:,}", f"{result.largest_difference:.5f}")
        speeds = (f"{result.token_budget:,}", f"{result.rows_per_s:,.0f}", f"{result.tokens_per_s:,.0f}")
        rows.append((result.backend, result.dtype, *speeds, f"{result.padding:.1%}", *differs))
    lines = _aligned(rows)
    lines += [f"{result.backend} {result.dtype}: {result.failed}" for result in results if result.failed is not None]
    usable = [result for result in results if result.points]
    if usable:
        fastest = max(usable, key=lambda result: result.rows_per_s)
        lines += ["", f"{fastest.backend} {fastest.dtype} on {fastest.device}"]
        lines += _aligned(
            [("budget", "ms a batch", "tokens/s")]
            + [
                (
                    f"{point.token_budget:,}" + ("*" if point.token_budget == fastest.token_budget else ""),
                    f"{point.batch_s * 1000:.1f}",
                    f"{point.tokens_per_s:,.0f}",
                )
                for point in fastest.points
            ]
        )
        lines.append("* the budget that is taken: the smallest that is nearly as fast as the best")
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def score_all(model: LoadedModel, rows: Encodings, *, budget: int) -> tuple[Scores, int]:
    """Score rows as the worker does: sorted, by budget, as many batches in flight as the device takes.

    Returns:
        Scores float32 (rows, labels), and tokens with padding.
    """
    scores = np.empty((rows.rows, len(model.labels)), np.float32)
    padded_tokens = 0
    flights: deque[tuple[Any, Any]] = deque()
    for batch in plan_batches(rows.lengths, token_budget=budget, max_rows=MAX_ROWS):
        width = min(batch.width, model.tokenizer.max_length)
        padded = pad_rows(
            rows.token_ids,
            rows.starts[batch.rows],
            rows.lengths[batch.rows],
            pad_id=model.tokenizer.pad_id,
            width=width,
        )
        padded_tokens += padded.input_ids.size
        flights.append((batch.rows, model.backend.begin(padded)))
        if len(flights) >= model.backend.depth:
            at, running = flights.popleft()
            scores[at] = running()
    for at, running in flights:
        scores[at] = running()
    return scores, padded_tokens


def _measure_way(
    registry: Registry,
    version: str,
    settings: WorkerSettings,
    texts: Sequence[str],
    *,
    backend: str,
    dtype: str,
    reference: Scores | None,
) -> tuple[Measured, Scores]:
    model = load_model(
        registry, version, backend=backend, device=settings.device, dtype=dtype, cache_dir=settings.cache_dir
    )
    points = list(measure(model.backend))
    chosen = choose(points)
    keep(chosen, key=budget_key(model.backend, registry.path(version)), cache_dir=settings.cache_dir)
    return _measure(model, texts, budget=settings.token_budget or chosen, points=points, reference=reference)


def _measure(
    model: LoadedModel, texts: Sequence[str], *, budget: int, points: Sequence[Point], reference: Scores | None
) -> tuple[Measured, Scores]:
    # As many rows as the worker sorts together while such a device is busy, so that padding is what it will be.
    least = max(LEAST_ROWS, BATCHES * budget // 16)
    rows = model.tokenizer.encode(list(itertools.islice(itertools.cycle(texts), max(least, len(texts)))))
    scores, padded_tokens = score_all(model, rows, budget=budget)  # warms every shape
    passes, began = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began) < MEASURED_S or not passes:
        score_all(model, rows, budget=budget)
        passes += 1
    tokens = int(rows.lengths.sum())
    scores = scores[: len(texts)]
    measured = Measured(
        backend=model.backend.name,
        dtype=model.backend.dtype,
        device=model.backend.device,
        token_budget=budget,
        points=tuple(points),
        rows_per_s=passes * rows.rows / took_s,
        tokens_per_s=passes * tokens / took_s,
        padding=1 - tokens / padded_tokens,
        flips=None if reference is None else int((scores.argmax(1) != reference.argmax(1)).sum()),
        largest_difference=None if reference is None else float(np.abs(scores - reference).max()),
    )
    return measured, scores


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
