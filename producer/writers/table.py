r"""A table for eyes: verdict, score and, where it is known, the sentence.

Control characters are shown (``\x1b``): what somebody submitted must not give orders to the terminal of who looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from producer.join import JoinedChunk
from producer.writers.joined import predictions
from scorequeue.columns import ChunkResult
from scorequeue.terminal import harmless

if TYPE_CHECKING:
    from rich.console import Console

Cells = tuple[str, str, str, str]
"""Id, verdict, score, sentence or error."""


def render_table(
    console: Console, chunks: Iterable[ChunkResult] | Iterable[JoinedChunk], *, only_errors: bool = False
) -> Iterator[str]:
    """Yield results as a table, a chunk at a time.

    Args:
        console: What the table is for: its width decides how sentences wrap, its abilities the colours.
        chunks: Results, or results joined to their input, in input order.
        only_errors: Whether to leave out the rows that were scored.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    widths: list[int] | None = None
    for chunk in chunks:
        rows = [tuple(map(harmless, row)) for row in _cells(chunk) if not (only_errors and row[2])]
        if not rows:
            continue
        is_first = widths is None
        # Later chunks keep the columns of the first one.
        widths = widths or [max(map(len, column)) for column in zip(*rows, ("row", "label", "score", ""), strict=True)]
        table = Table(box=box.SIMPLE_HEAD if is_first else None, show_header=is_first, pad_edge=True)
        table.add_column("id", justify="right", min_width=widths[0])
        table.add_column("label", min_width=widths[1])
        table.add_column("score", justify="right", min_width=widths[2])
        last = "sentence" if isinstance(chunk, JoinedChunk) else "error" if widths[3] else ""
        table.add_column(last, ratio=1, overflow="fold")
        for row_id, label, score, sentence in rows:
            style = "red" if not score else ""
            table.add_row(Text(row_id), Text(label, style=style), Text(score), Text(sentence))
        with console.capture() as capture:
            console.print(table)
        yield capture.get()


def _cells(chunk: ChunkResult | JoinedChunk) -> Sequence[Cells]:
    if isinstance(chunk, JoinedChunk):
        return _joined_cells(chunk)
    return [
        (row.id, row.label or "", f"{row.score:.4f}", "")
        if row.error is None
        else (row.id, row.error.code.value, "", _where(row.source, row.line) + row.error.message)
        for row in chunk
    ]


def _joined_cells(chunk: JoinedChunk) -> list[Cells]:
    cells: list[Cells] = []
    for offset, (row, (label, score, error)) in enumerate(zip(chunk.rows, predictions(chunk), strict=True)):
        row_id = row.id if row.id is not None else str(chunk.first_row + offset)
        if row.error is not None:
            cells.append((row_id, error or row.error.code.value, "", _where(row.source, row.line) + row.error.message))
        else:
            cells.append((row_id, label or error, score[:6], row.text))
    return cells


def _where(source: str | None, line: int | None) -> str:
    return "" if source is None else f"{source}, line {line}: " if line is not None else f"{source}: "
