"""The ``training`` command: parse, call the library, print.

Importing this package loads next to nothing: torch comes with the commands that need it, not with ``--help``.
"""

from __future__ import annotations

from training.cli import interrupts

__all__ = ["main"]


def main() -> None:
    """Run the ``training`` command with the arguments of the process; does not return.

    Ctrl-C and SIGTERM count from here on: what is imported next takes longer than a person who has seen a typing error.
    """
    interrupts.leave_at_once()
    from training.cli.root import main as run

    run()
