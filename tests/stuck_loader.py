"""``worker start`` that never ends to load a second version.

python -m tests.stuck_loader start
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import worker.service


def main() -> None:
    """Make it stuck, and run the command."""
    load, loads = worker.service.load_model, 0

    def load_once(*args: Any, **options: Any) -> Any:
        nonlocal loads
        loads += 1
        if loads > 1:
            print("stuck in a load", file=sys.stderr, flush=True)
            threading.Event().wait()
        return load(*args, **options)

    worker.service.load_model = load_once
    from worker.cli import main as worker_main

    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
