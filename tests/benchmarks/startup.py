"""How long a command takes to answer, as a whole process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

RUNS = 9


def help_seconds() -> float:
    """Return the fastest of several runs of ``producer --help``: what is slower is the machine's noise."""
    command = [str(Path(sys.executable).parent / "producer"), "--help"]
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return min(taken)
