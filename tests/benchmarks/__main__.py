"""``make bench``: the speed of the queue against what a user could run instead, as ratios in one run.

    python -m tests.benchmarks [--registry DIR] [--rows N] [--rounds N] [--json FILE]

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

from tests.benchmarks.startup import help_seconds
from tests.benchmarks.throughput import measure_rounds, sentences


def main() -> None:
    """Measure, print a table, and keep the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path(".scorequeue/registry"))
    parser.add_argument("--rows", type=int, default=8551)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, dest="json_file")
    options = parser.parse_args()
    if not (options.registry / "current").exists():
        parser.error(
            f"expected a checkpoint in {options.registry}, found none; run make demo first, or name --registry"
        )

    texts, source = sentences(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure_rounds(texts, registry=options.registry, folder=Path(folder), rounds=options.rounds)
    help_s = help_seconds()

    console = Console()
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
    if options.json_file:
        found = {"source": source, "rows": len(texts), "pipeline_rows_per_s": base, "figures": figures}
        options.json_file.write_text(json.dumps({**found, "queue_to_bare": through, "help_s": help_s}, indent=2) + "\n")


if __name__ == "__main__":
    main()
