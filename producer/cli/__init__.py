"""The ``producer`` command: files of sentences in, scores out.

Importing this package loads click and little else: what a command needs is imported when it runs, so that help is there
at once.
"""

from __future__ import annotations

from producer.cli.root import main, producer

__all__ = ["main", "producer"]
