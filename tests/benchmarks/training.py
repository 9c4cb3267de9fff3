"""``make bench-training``: speed and quality of a fit, beside transformers' Trainer on the same data, in one run.

    python -m tests.benchmarks.training [--dataset FOLDER] [--seeds N] [--rounds N] [--json FILE]

Speed is measured in rounds, each contender in turn, on a part of the rows; ratios are medians over the rounds. Quality
is the validation correlation of whole fits over some seeds, which takes most of the time (an hour on two cores). The
JSON file keeps whole fits: those that are in it with the same data, settings and, of ours, commit are not run again, so
that a run can be broken off.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training import sources
from training.cola import DEV_FILE, TRAIN_FILE
from training.export import read_git_commit

DATA = Path(__file__).parents[3] / "shared" / "data" / "cola"
PART_ROWS = 1_600
CONTENDERS = ("ours", "trainer")
BASE = "trainer"


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=DATA, help="a folder in CoLA's layout")
    parser.add_argument("--base-model", default="minilm-l6")
    parser.add_argument("--seeds", type=int, default=3, help="0 measures the speed alone")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="0 measures the quality alone")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-4], help="of the Trainer; ours has its default")
    parser.add_argument("--json", type=Path, dest="json_file", default=Path("bench-training.json"))
    options = parser.parse_args()
    if not (options.dataset / TRAIN_FILE).is_file():
        parser.error(f"expected {TRAIN_FILE} and {DEV_FILE} in {options.dataset}; name a folder with --dataset")
    console = Console()
    kept = Results(options.json_file)
    if options.rounds:
        show_speed(console, measure_speed(options, kept), rows=PART_ROWS)
    if options.seeds:
        show_quality(console, measure_quality(console, options, kept), seeds=options.seeds)
    console.print(f"kept in {options.json_file}")


class Results:
    """Figures by what was run, in a file that is written after each run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.found: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}

    def put(self, name: str, figures: Any) -> None:
        """Keep figures."""
        self.found[name] = figures
        self._file.write_text(json.dumps(self.found, indent=2) + "\n")


def measure_speed(options: argparse.Namespace, kept: Results) -> dict[str, list[float]]:
    """Rows per second of each contender in each round, on the same part of the rows."""
    found: dict[str, list[float]] = {who: [] for who in CONTENDERS}
    with tempfile.TemporaryDirectory() as scratch:
        lines = (options.dataset / TRAIN_FILE).read_text("utf-8").splitlines(keepends=True)
        part = random.Random(0).sample(lines, min(PART_ROWS, len(lines)))
        (Path(scratch) / TRAIN_FILE).write_text("".join(part), "utf-8")
        (Path(scratch) / DEV_FILE).write_bytes((options.dataset / DEV_FILE).read_bytes())
        for number in range(options.rounds):
            # In turn the first and the second, so that a machine that grows slower favours nobody.
            for who in CONTENDERS if number % 2 == 0 else CONTENDERS[::-1]:
                figures = run_fit(who, dataset=Path(scratch), base_model=options.base_model, epochs=1)
                found[who].append(figures["rows_per_s"])
    kept.put("speed", found)
    return found


def measure_quality(console: Console, options: argparse.Namespace, kept: Results) -> dict[str, list[dict[str, Any]]]:
    """Figures of whole fits, by contender."""
    found: dict[str, list[dict[str, Any]]] = {}
    data = sources.load(str(options.dataset), seed=0).describe()["fingerprint"][:8]
    commit = (read_git_commit() or "no commit")[:8]
    contenders = [("ours", None), *(("trainer", lr) for lr in options.lr)]
    for seed in range(options.seeds):
        for who, lr in contenders:
            label = who if lr is None else f"{who}, lr {lr:g}"
            made_by = f"; {commit}" if who == "ours" else ""
            name = f"{label}, seed {seed}, {options.epochs} epochs; {options.base_model} on {data}{made_by}"
            if name not in kept.found:
                figures = run_fit(
                    who, dataset=options.dataset, base_model=options.base_model, epochs=options.epochs, seed=seed, lr=lr
                )
                kept.put(name, figures)
            console.print(f"{label}, seed {seed}: MCC {kept.found[name]['mcc']:.3f}")
            found.setdefault(label, []).append(kept.found[name])
    return found


def run_fit(
    who: str, *, dataset: Path, base_model: str, epochs: int, seed: int = 0, lr: float | None = None
) -> dict[str, Any]:
    """Fit in a process of its own; returns its figures."""
    command = [sys.executable, "-m", "tests.benchmarks.fit_one", who, "--dataset", str(dataset)]
    command += ["--base-model", base_model, "--epochs", str(epochs), "--seed", str(seed)]
    command += [] if lr is None else ["--lr", str(lr)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def show_speed(console: Console, found: dict[str, list[float]], *, rows: int) -> None:
    """Print rows per second and ratios."""
    rounds = len(found[BASE])
    table = Table(title=f"training on {rows:,} rows, batch 32, median of {rounds} rounds")
    for column in ("what", "rows/s", "to the Trainer", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for who, rates in found.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(rates, found[BASE], strict=True))
        table.add_row(
            who, f"{statistics.median(rates):.0f}", f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}",
            f"{ratios[-1]:.2f}",
        )  # fmt: skip
    console.print(table)


def show_quality(console: Console, found: dict[str, list[dict[str, Any]]], *, seeds: int) -> None:
    """Print mean and spread of the correlation."""
    table = Table(title=f"validation MCC of the best epoch, {seeds} seeds")
    for column in ("what", "mean", "sd", "each", "rows/s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for label, runs in found.items():
        figures = [run["mcc"] for run in runs]
        spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
        rate = statistics.median(run["rows_per_s"] for run in runs)
        each = " ".join(f"{mcc:.3f}" for mcc in figures)
        table.add_row(label, f"{statistics.mean(figures):.3f}", f"{spread:.3f}", each, f"{rate:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
