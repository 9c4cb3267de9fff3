"""``worker start`` that looks at the registry ten times a second, lets go of done versions at once,
and loads what jobs wait for after a second.

python -m tests.hasty_worker start
"""

from __future__ import annotations

import sys

import worker.tasks
import worker.versions


def main() -> None:
    """Make it hasty, and run the command."""
    worker.versions.POLL_S = 0.1
    worker.versions.IDLE_S = 0.3
    worker.tasks.LOAD_AFTER_S = 1.0
    from worker.cli import main as worker_main

    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
