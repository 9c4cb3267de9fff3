"""The ``training`` command: parse, call the library, print.

Importing this package loads click and little else: torch comes with the commands that need it, not with ``--help``.
"""

from __future__ import annotations

from training.cli.root import cli, main

__all__ = ["cli", "main"]
