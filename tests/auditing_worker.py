"""``worker start`` that says which of the heavy packages its own process imports, not its children.

python -m tests.auditing_worker start
"""

from __future__ import annotations

import sys

HEAVY = ("torch", "openvino", "transformers")


def note(event: str, args: tuple[object, ...]) -> None:
    """Say it."""
    if event == "import" and args[0] in HEAVY:
        print(f"imported {args[0]}", file=sys.stderr, flush=True)


def main() -> None:
    """Audit imports, and run the command."""
    sys.addaudithook(note)
    from worker.cli import main as worker_main

    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
