"""``make bench-gpu``: how near to its GPU a worker comes, in one run of about five minutes.

    python -m tests.benchmarks.gpu [--minilm FOLDER] [--dataset FOLDER] [--only SECTION,...] [--json FILE]

MiniLM-L6 and a BERT-base shape are published, served by one ``worker start`` each, and run without it on the same card;
rows/s are also given as ratios to the bare loop that tokenises beside it. A section that fails is reported and costs no
other one its figures: the JSON file is written after each. With ``--device cpu --quick`` all parts run small on a CPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

DATASET = Path(__file__).parents[3] / "shared" / "data" / "cola"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the figures as JSON."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch: as the worker sets it
    # Not above, because each process that tokenises imports this module: torch would take it ten seconds.
    import torch

    from tests.benchmarks.gpu_report import Findings, show
    from tests.benchmarks.gpu_sections import SECTIONS, Bench

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the parts")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few rows")
    parser.add_argument("--minilm", type=Path, help="folder of MiniLM-L6; default: the model package's")
    parser.add_argument("--dataset", type=Path, default=DATASET, help="labelled sentences in CoLA's layout; else made")
    parser.add_argument("--token-budget", type=int, help="of worker and bare loop; default: what the worker finds")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, default: {','.join(SECTIONS)}")
    parser.add_argument("--give-up", type=float, default=480, help="seconds after which no section begins")
    parser.add_argument("--json", type=Path, dest="json_file", default=Path("bench-gpu.json"))
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; expected some of {', '.join(SECTIONS)}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        console.print("no GPU: torch sees no CUDA device; try the parts on a CPU with --device cpu --quick")
        return
    if options.device == "cpu":
        torch.set_num_threads(1)  # threads that share a small batch mostly wait for each other
    os.environ["HF_HUB_OFFLINE"] = "1"
    findings = Findings(options.json_file, give_up_s=options.give_up)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        Bench(options, scratch=Path(scratch), findings=findings).run()
    show(console, findings.found)
    console.print(f"kept in {options.json_file}")


if __name__ == "__main__":
    main()
