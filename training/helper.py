"""What a helper process runs: ``python -m training.helper RUN REGISTRY``, started by distributed.py."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import torch

from scorequeue.errors import ScorequeueError
from training.config import FitConfig
from training.distributed import READY
from training.loop import train_along
from training.parts import prepare
from training.quiet import quiet_libraries
from training.runs import Run


def main(run_folder: Path, registry: Path) -> None:
    """Load what the main process loaded, say so, and train along to the end.

    Args:
        run_folder: The run, whose record says how.
        registry: Where the version is that a warm start begins with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal; the main process ends us
    threading.Thread(target=_end_with_main_process, daemon=True).start()
    ready = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may come where READY is awaited
    run = Run(run_folder)
    config = FitConfig.resume(run.record.settings, registry=registry, runs=run_folder.parent)
    torch.set_num_threads(max(1, torch.get_num_threads() // run.record.devices))
    with quiet_libraries():
        parts = prepare(config, parent=run.record.parent)
        ready.write(READY)
        ready.close()
        train_along(run, config, data=parts.data, module=parts.module)


def _end_with_main_process() -> None:
    """Wait for the end of standard input, which the main process holds open and never writes to."""
    os.read(0, 1)  # not sys.stdin: its lock, held here, would abort the interpreter's own end
    os._exit(1)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except ScorequeueError as error:
        sys.exit(f"Error: {error}")
