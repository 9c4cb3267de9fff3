"""Figures of ``make bench-gpu``: kept as JSON after each section, and shown as tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.gpu_rows import MIXES

BASE = "bare loop, tokenising beside it"
"""What ratios are to."""

TRAINER = "transformers Trainer"


class Findings:
    """Figures by where they belong, in a file that is written after each section.

    Args:
        file: The JSON file.
        give_up_s: Seconds after which no further section begins.
    """

    def __init__(self, file: Path, *, give_up_s: float) -> None:
        self.found: dict[str, Any] = {"models": {}, "failed": {}, "seconds": {}}
        self._file = file
        self._began = time.monotonic()
        self._give_up_s = give_up_s

    def run(self, name: str, section: Callable[[], object]) -> bool:
        """Run a section, note how long it took, and report it if it fails; returns whether it ended well."""
        began = time.monotonic()
        failure = f"not begun after {self._give_up_s:.0f} s"
        if began - self._began < self._give_up_s:
            try:
                section()
                failure = ""
            except Exception as error:  # whatever it was, the other sections must be measured
                traceback.print_exc()
                failure = f"{type(error).__name__}: {error}"[:1_000]
        took_s = time.monotonic() - began
        print(f"{name}: {failure or f'{took_s:.1f} s'}", file=sys.stderr, flush=True)
        self.found["seconds"][name] = round(took_s, 1)
        if failure:
            self.found["failed"][name] = failure
        self._file.write_text(json.dumps(self.found, indent=2) + "\n")
        return not failure

    def put(self, model: str, figure: str, value: Any, *, mix: str | None = None) -> None:
        """Keep a figure of a model."""
        figures = self.found["models"].setdefault(model, {"rows_per_s": {}, "other": {}})
        if mix is None:
            figures["other"][figure] = value
        else:
            figures["rows_per_s"].setdefault(figure, {})[mix] = round(value, 1)


def describe_machine(device: str) -> dict[str, Any]:
    """Return the card and the versions that the figures belong to."""
    import tokenizers
    import torch
    import transformers

    found = {
        "device": device,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    if device.startswith("cuda"):
        query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader", "-i", "0"]
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=True)
        found["card"], found["memory"], found["driver"] = done.stdout.strip().split(", ")
    return found


def percentiles(taken_ms: Sequence[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile, and how many there were."""
    values = np.percentile(taken_ms, (50, 95, 99))
    names = ("p50 ms", "p95 ms", "p99 ms")
    return {name: round(float(value), 1) for name, value in zip(names, values, strict=True)} | {
        "sentences": len(taken_ms)
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console.print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for name, figures in found["models"].items():
        table = Table(title=f"{name} (weights: {figures['other'].get('weights')})")
        for column in ("rows/s (to the bare loop that tokenises)", *MIXES):
            table.add_column(column, justify="right" if column in MIXES else "left")
        base = figures["rows_per_s"].get(BASE, {})
        for what, rates in figures["rows_per_s"].items():
            table.add_row(what, *(_cell(rates.get(mix), base.get(mix)) for mix in MIXES))
        console.print(table)
        for what, value in figures["other"].items():
            words = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
            console.print(f"  {what}: {words}")
    training = found.get("training_rows_per_s", {})
    for who, rates in training.items():
        theirs = training.get(TRAINER, {}).get("later epochs")
        ratio = f" ({rates['later epochs'] / theirs:.2f} of the Trainer)" if theirs else ""
        words = ", ".join(f"{epoch} {rate:,.0f} rows/s" for epoch, rate in rates.items())
        console.print(f"{who}: {words}{ratio}")
    for name, failure in found["failed"].items():
        console.print(f"failed: {name}: {failure}", style="red", markup=False)


def _cell(rate: float | None, base: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:,.0f} ({rate / base:.2f})" if base else f"{rate:,.0f}"
