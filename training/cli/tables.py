"""Plain tables for people: columns as wide as what is in them, nothing to parse."""

from __future__ import annotations

from collections.abc import Sequence

import click

from scorequeue.terminal import harmless as plain

__all__ = ["plain", "print_table"]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, the columns aligned on the left."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
