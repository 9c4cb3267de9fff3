"""``make bench``: the speed of the queue against what a user could run instead, in one run; and the queue alone.

    python -m tests.benchmarks [--registry DIR] [--rows N] [--rounds N] [--only PART]... [--json FILE]

Absolute rows/s drift with the machine; each round measures every contender in turn, and ratios are medians over the
rounds. Sentences come from the optional real data where it is there, else from the project's own grammar. The figures
are kept as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from scorequeue.registry import Registry
from tests.benchmarks.endurance import measure_memory, measure_real_memory
from tests.benchmarks.files import FILE_ROWS, measure_files
from tests.benchmarks.latency import measure_latency
from tests.benchmarks.process import measure_process
from tests.benchmarks.promotions import measure_promotions
from tests.benchmarks.queue_alone import measure_queue
from tests.benchmarks.startup import help_seconds
from tests.benchmarks.throughput import BACKENDS, Arena, Figures, made, sentences
from worker.bench import score_all
from worker.cpu import usable_cpus
from worker.device.loading import load_model
from worker.tokenizing import SPARE_CORES

PARTS = ("bulk", "latency", "scores", "endurance", "queue", "process", "files")
BASE = "pipeline, batch 32"


def main() -> None:
    """Measure, print tables, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(".scorequeue/registry"))
    parser.add_argument("--rows", type=int, default=2 * 8_551)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part of it; repeatable")
    parser.add_argument("--json", type=Path, dest="json_file", default=Path("bench.json"))
    options = parser.parse_args()
    if not (options.registry / "current").exists():
        parser.error(
            f"expected a checkpoint in {options.registry}, found none; run make demo first, or name --registry"
        )
    parts = options.only or PARTS
    console = Console()
    found: dict[str, Any] = {"help_s": help_seconds()}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        if {"bulk", "latency", "scores"} & set(parts):
            texts, source = sentences(options.rows)
            found |= {"source": source, "rows": len(texts)}
            arena = Arena(texts, registry=options.registry, folder=folder, stack=stack)
            if "bulk" in parts:
                found["bulk"] = show_bulk(console, arena, [arena.measure() for _ in range(options.rounds)], source)
            if "latency" in parts:
                found["latency"] = show(console, "latency, openvino", measure_latency(arena, backend="openvino"))
            if "scores" in parts:
                found["scores"] = show(console, "scores against torch in float32", compare_scores(arena))
        if "endurance" in parts:
            found |= measure_endurance(console, registry=options.registry, folder=folder, rows=options.rows)
        if "queue" in parts:
            alone = measure_queue(registry=options.registry, folder=folder / "queue", rounds=options.rounds)
            found["queue_alone"] = show(console, "the queue alone (a device that answers at once)", alone)
        if "process" in parts:
            texts, source = sentences(8_551)
            # A GPU's host has more cores; on fewer, one process tokenises.
            for is_fast, name in ((False, "threads"), (True, "processes"))[: 1 + (usable_cpus() > 2 * SPARE_CORES)]:
                place = folder / f"process-{name}"
                alone = measure_process(texts, registry=options.registry, folder=place, is_fast=is_fast)
                title = f"the worker's own process ({source}; a device that answers at once; {name} tokenise)"
                found[f"process_{name}"] = show(console, title, alone)
        if "files" in parts:
            texts, source = sentences(options.rows)
            through = measure_files(texts, registry=options.registry, folder=folder / "files")
            title = f"a file of {FILE_ROWS:,} rows ({source}; a device that answers at once)"
            found["files"] = show(console, title, through)
    console.print(f"producer --help: {found['help_s'] * 1000:.0f} ms (fastest of 9)")
    options.json_file.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"kept in {options.json_file}")


def show_bulk(console: Console, arena: Arena, rounds: Sequence[Figures], source: str) -> dict[str, Any]:
    """Print the contenders of all rounds; returns their figures."""
    table = Table(title=f"{len(arena.texts):,} sentences ({source}), median of {len(rounds)} rounds")
    for column, justify in (("what", "left"), ("rows/s", "right"), ("pipeline", "right"), ("bare loop", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    figures: dict[str, Any] = {}
    for name in rounds[0].rows_per_s:
        own = f"{name.partition(':')[0]}: bare backend loop"
        rate = statistics.median(each.rows_per_s[name] for each in rounds)
        to_base = statistics.median(each.rows_per_s[name] / each.rows_per_s[BASE] for each in rounds)
        to_bare = (
            statistics.median(each.rows_per_s[name] / each.rows_per_s[own] for each in rounds)
            if own in rounds[0].rows_per_s
            else None
        )
        figures[name] = {"rows_per_s": round(rate, 1), "to_pipeline": round(to_base, 3), "to_bare": to_bare}
        table.add_row(name, f"{rate:,.0f}", f"{to_base:.2f}", "" if to_bare is None else f"{to_bare:.3f}")
    console.print(table)
    for backend in BACKENDS:
        padding = statistics.median(each.padding[backend] for each in rounds)
        busy = statistics.median(each.busy[backend] for each in rounds)
        figures[f"{backend}: padding"], figures[f"{backend}: busy"] = padding, busy
        console.print(
            f"{backend}: token budget {arena.budgets[backend]:,}, padding {padding:.1%} of the tokens, device busy"
            f" {busy:.1%} of the time"
        )
    return figures


def measure_endurance(console: Console, *, registry: Path, folder: Path, rows: int) -> dict[str, dict[str, float]]:
    """Memory, and promotions under load, for each backend; prints and returns the figures."""
    texts, source = sentences(rows)
    tiny = measure_memory(texts, folder=made(folder / "memory"))
    found = {"memory": show(console, f"memory (a tiny model in openvino; {source})", tiny)}
    for backend in BACKENDS:
        place = made(folder / f"memory-{backend}")
        real = measure_real_memory(texts, registry=registry, folder=place, backend=backend)
        found[f"memory_{backend}"] = show(console, f"memory ({backend}; {source})", real)
    for backend in BACKENDS:
        place = made(folder / f"promotions-{backend}")
        promotions = measure_promotions(texts, registry=registry, folder=place, backend=backend)
        found[f"promotions_{backend}"] = show(console, f"promotions under load ({backend})", promotions)
    return found


def show(console: Console, title: str, figures: dict[str, float]) -> dict[str, float]:
    """Print figures, and return them rounded."""
    table = Table(title=title)
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.4g}")
    console.print(table)
    return {name: round(value, 5) for name, value in figures.items()}


def compare_scores(arena: Arena) -> dict[str, float]:
    """Label flips and the largest difference of a score, for each backend and dtype on all different sentences."""
    registry = Registry(arena.registry)
    version = registry.resolve(None)
    texts = list(dict.fromkeys(arena.texts))
    found: dict[str, float] = {"sentences": len(texts)}
    exact = None
    for backend, dtype in (("torch", "float32"), ("openvino", "float32"), *((name, "bfloat16") for name in BACKENDS)):
        model = load_model(registry, version, backend=backend, dtype=dtype, cache_dir=arena.cache)
        scores = score_all(model, model.tokenizer.encode(texts), budget=arena.budgets[backend])[0]
        exact = scores if exact is None else exact
        flips = int((scores.argmax(1) != exact.argmax(1)).sum())
        found[f"{backend} {dtype}: other labels, %"] = 100 * flips / len(texts)
        found[f"{backend} {dtype}: largest difference of a score"] = float(np.abs(scores - exact).max())
    return found


if __name__ == "__main__":
    main()
