"""``worker bench``: how fast this machine runs a version, with which backend, dtype and budget, and what it costs.

Each way of running it is measured like the worker runs it: rows sorted by length and cut by the token budget that a
sweep finds. Scores are compared with those of torch in float32.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorequeue.errors import InputError, MissingExtraError, ScorequeueError
from scorequeue.registry import Registry
from worker.backends import Scores, pad_rows
from worker.batching import plan_batches
from worker.cpu import has_native_bfloat16
from worker.loading import LoadedModel, load_model
from worker.scorer import MAX_ROWS
from worker.settings import WorkerSettings
from worker.sweep import Point, budget_key, keep, measure

LEAST_ROWS = 2_048
"""Rows that are scored for the speed: sentences are repeated until there are so many."""

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
    """Backends and dtypes that make sense on this machine, the reference first.

    Args:
        settings: What is named there instead of ``auto`` is the only choice beside the reference.
    """
    is_on_gpu = settings.device != "cpu" and _has_gpu()
    dtypes = ["float32", *(["bfloat16"] if is_on_gpu or has_native_bfloat16() else []), *(["float16"] * is_on_gpu)]
    ways = [("torch", dtype) for dtype in dtypes]
    if not is_on_gpu:
        ways += [("openvino", dtype) for dtype in dtypes]
    return [
        way
        for way in ways
        if way == REFERENCE or (settings.backend in ("auto", way[0]) and settings.dtype in ("auto", way[1]))
    ]


def run_bench(settings: WorkerSettings, sentences: Sequence[str], *, version: str | None = None) -> Iterator[Measured]:
    """Measure each way in turn; budgets are kept for the next start of a worker.

    Args:
        settings: Registry, device, backend, dtype and cache.
        sentences: What to score; none stands for the version's golden sentences.
        version: Its name; None stands for ``current``.

    Raises:
        VersionError: There is no such version, or it is damaged.
    """
    registry = Registry(settings.registry)
    version = registry.resolve(version)
    texts = list(sentences) or [golden.text for golden in registry.manifest(version).golden]
    reference: Scores | None = None
    for backend, dtype in ways_to_run(settings):
        try:
            model = load_model(
                registry, version, backend=backend, device=settings.device, dtype=dtype, cache_dir=settings.cache_dir
            )
        except ScorequeueError as error:
            yield Measured(backend, dtype, failed=str(error))
            continue
        points = list(measure(model.backend))
        chosen = keep(points, key=budget_key(model.backend, registry.path(version)), cache_dir=settings.cache_dir)
        budget = settings.token_budget or chosen
        measured, scores = _measure(model, texts, budget=budget, points=points, reference=reference)
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


def draw(results: Sequence[Measured], path: Path) -> None:
    """Draw tokens/s against the budget as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError('a plot needs matplotlib; run: pip install "scorequeue[bench]"') from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        if not result.points:
            continue
        budgets = [point.token_budget for point in result.points]
        (line,) = axes.plot(
            budgets,
            [point.tokens_per_s for point in result.points],
            marker="o",
            ms=4,
            label=f"{result.backend} {result.dtype}",
        )
        chosen = [point for point in result.points if point.token_budget == result.token_budget]
        axes.plot(
            [point.token_budget for point in chosen], [point.tokens_per_s for point in chosen],
            marker="o", ms=11, mfc="none", mec=line.get_color(), ls="none",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="padded tokens in a batch (circle: the budget that is taken)", ylabel="tokens a second")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


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


def score_all(model: LoadedModel, texts: Sequence[str], *, budget: int) -> tuple[Scores, int, int]:
    """Score texts as the worker does: sorted, by budget, as many batches in flight as the device takes.

    Returns:
        Scores float32 (texts, labels), tokens, and tokens with padding.
    """
    rows = model.encode(texts)
    scores = np.empty((rows.rows, len(model.labels)), np.float32)
    padded_tokens = 0
    flights: list[tuple[Any, Any]] = []
    for batch in plan_batches(rows.lengths, token_budget=budget, max_rows=MAX_ROWS):
        padded = pad_rows(
            rows.token_ids, rows.starts[batch.rows], rows.lengths[batch.rows], pad_id=model.tokenizer.pad_id
        )
        padded_tokens += padded.input_ids.size
        flights.append((batch.rows, model.backend.begin(padded)))
        if len(flights) >= model.backend.depth:
            at, running = flights.pop(0)
            scores[at] = running.scores()
    for at, running in flights:
        scores[at] = running.scores()
    return scores, int(rows.lengths.sum()), padded_tokens


def _measure(
    model: LoadedModel, texts: Sequence[str], *, budget: int, points: Sequence[Point], reference: Scores | None
) -> tuple[Measured, Scores]:
    many = list(itertools.islice(itertools.cycle(texts), max(LEAST_ROWS, len(texts))))
    began = time.perf_counter()
    scores, tokens, padded_tokens = score_all(model, many, budget=budget)
    took_s = time.perf_counter() - began
    scores = scores[: len(texts)]
    measured = Measured(
        backend=model.backend.name,
        dtype=model.backend.dtype,
        device=model.backend.device,
        token_budget=budget,
        points=tuple(points),
        rows_per_s=len(many) / took_s,
        tokens_per_s=tokens / took_s,
        padding=1 - tokens / padded_tokens,
        flips=None if reference is None else int((scores.argmax(1) != reference.argmax(1)).sum()),
        largest_difference=None if reference is None else float(np.abs(scores - reference).max()),
    )
    return measured, scores


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
