"""Results -> jsonl, csv, tsv, parquet, or a table for eyes; alone, or joined to the input they were made from.

Every renderer yields pieces of text, about one a chunk, or row groups of bytes; memory stays flat.
"""

from __future__ import annotations

from pathlib import PurePath

from producer.writers.flat import render_results
from producer.writers.joined import render_joined
from producer.writers.table import render_table
from scorequeue.errors import UsageError

__all__ = ["FORMATS", "choose_format", "render_joined", "render_results", "render_table"]

FORMATS = ("jsonl", "csv", "tsv", "parquet", "table")

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def choose_format(wanted: str | None, output: str | None, *, is_terminal: bool, joined: str | None = None) -> str:
    """Choose the format of results: what was asked for, else by the file's suffix, else by where they go.

    Args:
        wanted: What the caller asked for, if anything.
        output: The file they go to; None or ``-`` for standard output.
        is_terminal: Whether standard output is one.
        joined: Format of the input that they are joined to, if they are.

    Raises:
        UsageError: The suffix stands for no format, or parquet would go to a terminal.
        MissingExtraError: They are to become parquet, and pyarrow is not installed.
    """
    chosen = _choose(wanted, output, is_terminal=is_terminal, joined=joined)
    if chosen == "parquet":
        from producer.arrow import pyarrow

        if output in (None, "-") and is_terminal:
            raise UsageError("expected parquet to go to a file or a pipe, got a terminal; name an --output")
        pyarrow()
    return chosen


def _choose(wanted: str | None, output: str | None, *, is_terminal: bool, joined: str | None) -> str:
    if wanted:
        return wanted
    if output is not None and output != "-":
        suffix = PurePath(output).suffix.lower()
        if suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
        if suffix or joined is None:
            raise UsageError(
                f"expected an output file named *.jsonl, *.csv, *.tsv or *.parquet, got {output!r}; or say --format"
            )
    elif is_terminal:
        return "table"
    if joined is None:
        return "jsonl"
    return "csv" if joined == "txt" else joined
