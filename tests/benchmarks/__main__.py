"""``make bench``: the speed of the queue against what a user could run instead, in one run; and the queue alone.

    python -m tests.benchmarks [--registry DIR] [--rows N] [--rounds N] [--only-queue] [--json FILE]

Absolute rows/s drift with the machine; each round measures every contender in turn, and the ratios are the medians over
the rounds. Sentences come from the optional real data where it is there, else from the project's own grammar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.queue_alone import measure_queue
from tests.benchmarks.startup import help_seconds
from tests.benchmarks.throughput import measure_rounds, sentences


def main() -> None:
    """Measure, print a table, and keep the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(".scorequeue/registry"))
    parser.add_argument("--rows", type=int, default=8551)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-queue", action="store_true", help="no model: what the queue costs by itself")
    parser.add_argument("--json", type=Path, dest="json_file")
    options = parser.parse_args()
    if not (options.registry / "current").exists():
        parser.error(
            f"expected a checkpoint in {options.registry}, found none; run make demo first, or name --registry"
        )

    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        alone = measure_queue(registry=options.registry, folder=Path(folder) / "queue", rounds=options.rounds)
        found: dict[str, object] = {"queue_alone": {name: round(value, 2) for name, value in alone.items()}}
        _print_alone(console, alone, rounds=options.rounds)
        if not options.only_queue:
            found |= _measure_speed(console, options, folder=Path(folder))
    if options.json_file:
        options.json_file.write_text(json.dumps(found, indent=2) + "\n")


def _print_alone(console: Console, figures: dict[str, float], *, rounds: int) -> None:
    table = Table(title=f"the queue alone (a device that answers at once), median of {rounds} rounds")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:.2f}")
    console.print(table)


def _measure_speed(console: Console, options: argparse.Namespace, *, folder: Path) -> dict[str, object]:
    texts, source = sentences(options.rows)
    rounds = measure_rounds(texts, registry=options.registry, folder=folder, rounds=options.rounds)
    help_s = help_seconds()
    base = statistics.median(each["pipeline, batch 32"] for each in rounds)
    table = Table(title=f"{len(texts)} sentences ({source}), median of {options.rounds} rounds")
    table.add_column("what")
    table.add_column("rows/s", justify="right")
    table.add_column("against the pipeline", justify="right")
    figures: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        rate = statistics.median(each[name] for each in rounds)
        ratio = statistics.median(each[name] / each["pipeline, batch 32"] for each in rounds)
        figures[name] = {"rows_per_s": round(rate, 1), "ratio_to_pipeline": round(ratio, 3)}
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}")
    console.print(table)
    through = statistics.median(each["through the queue"] / each["bare loop"] for each in rounds)
    console.print(f"through the queue / bare loop: {through:.3f}")
    console.print(f"producer --help: {help_s * 1000:.0f} ms (fastest of 9)")
    return {
        **{"source": source, "rows": len(texts), "pipeline_rows_per_s": base, "figures": figures},
        **{"queue_to_bare": through, "help_s": help_s},
    }


if __name__ == "__main__":
    main()
