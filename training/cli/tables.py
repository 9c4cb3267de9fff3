"""Plain tables for people: columns as wide as what is in them, nothing to parse."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import click

from scorequeue.terminal import harmless as plain

__all__ = ["align", "plain", "print_table"]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, the columns aligned on the left."""
    for line in align([head, *rows]):
        click.echo(line)


def align(rows: Sequence[Sequence[str]], *, left: Collection[int] | None = None) -> Iterator[str]:
    """Rows as lines that stand below each other.

    Args:
        rows: Cells; each row has as many.
        left: Columns that are aligned on the left, the others, of numbers, on the right; None aligns all on the left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(
            cell.ljust(width) if left is None or place in left else cell.rjust(width) for place, (cell, width) in cells
        ).rstrip()
