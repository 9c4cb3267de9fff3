"""``worker start`` that looks at the registry ten times a second and lets go of done versions at once.

python -m tests.hasty_worker start
"""

from __future__ import annotations

import sys

import worker.models


def main() -> None:
    """Make it hasty, and run the command."""
    defaults = worker.models.ModelShelf.__init__.__kwdefaults__
    assert defaults is not None
    defaults["poll_s"] = 0.1
    worker.models.IDLE_S = 0.3
    from worker.cli import main as worker_main

    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
