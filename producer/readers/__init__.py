"""Inputs -> rows: txt, csv, tsv and jsonl, each also gzipped, from files and pipes.

``open_input`` looks at the suffix and the head of an input and gives back its reader. Memory stays flat for any size.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from producer.readers.base import Reader, Record
from producer.readers.delimited import CsvReader, TsvReader
from producer.readers.jsonlines import JsonLinesReader
from producer.readers.options import AUTO, FORMATS, ReaderOptions
from producer.readers.plain import TextReader
from producer.readers.streams import STDIN, ByteSource

__all__ = ["AUTO", "FORMATS", "STDIN", "Reader", "ReaderOptions", "Record", "detect_format", "open_input"]

_READERS: dict[str, type[Reader]] = {
    reader.input_format: reader for reader in (TextReader, CsvReader, TsvReader, JsonLinesReader)
}
_SUFFIXES = {".txt": "txt", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def detect_format(path: str) -> str:
    """Return the format that a path's suffix stands for; txt for standard input and suffixes that say nothing."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1], "txt") if suffixes else "txt"


def open_input(
    path: str | os.PathLike[str], options: ReaderOptions | None = None, *, name: str | None = None
) -> Reader:
    """Open an input for reading.

    Args:
        path: A file, or ``-`` for standard input.
        options: How to read it.
        name: What rows and messages call the input; its path unless given.

    Raises:
        InputError: It cannot be opened, is empty, or is something else than text.
    """
    options = options or ReaderOptions()
    path = os.fspath(path)
    # A file name may hold bytes that are no UTF-8; the rows carry it as text.
    shown = name if name is not None else os.fsencode(path).decode(errors="replace")
    input_format = detect_format(path) if options.input_format == AUTO else options.input_format
    source = ByteSource(path, name="stdin" if shown == STDIN else shown, encoding=options.encoding)
    return _READERS[input_format](source, options)
