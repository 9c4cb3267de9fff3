"""Inputs -> rows: txt, csv, tsv, jsonl and parquet, each also gzipped, from files and pipes.

``open_input`` looks at the suffix and the head of an input and gives back its reader. Memory stays flat for any size.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from producer.readers.base import Reader, Record
from producer.readers.delimited import CsvReader, TsvReader
from producer.readers.jsonlines import JsonFileReader, JsonLinesReader
from producer.readers.options import AUTO, FORMATS, ReaderOptions
from producer.readers.plain import TextReader
from producer.readers.streams import STDIN, ByteSource

__all__ = ["AUTO", "FORMATS", "STDIN", "Reader", "ReaderOptions", "Record", "detect_format", "open_input"]

_JSON = "json"
"""What a file called .json is until its head was looked at."""

_READERS: dict[str, type[Reader]] = {
    "txt": TextReader,
    "csv": CsvReader,
    "tsv": TsvReader,
    "jsonl": JsonLinesReader,
    _JSON: JsonFileReader,
}
_SUFFIXES = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": _JSON,
    ".parquet": "parquet",
    ".pq": "parquet",
}


def detect_format(path: str) -> str:
    """Return the format that a path's suffix stands for; txt for standard input and suffixes that say nothing.

    A file called .json is ``json``: its head decides whether it is jsonl.
    """
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1], "txt") if suffixes else "txt"


def open_input(
    path: str | os.PathLike[str],
    options: ReaderOptions | None = None,
    *,
    name: str | None = None,
    where: str | None = None,
    only_rows: bool = False,
) -> Reader:
    """Open an input for reading.

    Args:
        path: A file, or ``-`` for standard input.
        options: How to read it.
        name: What rows call the input; its path unless given.
        where: What messages call it; the name unless given.
        only_rows: Whether nobody will ask for the records beside the rows.

    Raises:
        InputError: It cannot be opened, is empty, or is something else than its format says.
        MissingExtraError: It is parquet, and pyarrow is not installed.
    """
    options = options or ReaderOptions()
    path = os.fspath(path)
    # A file name may hold bytes that are no UTF-8; the rows carry it as text.
    shown = name if name is not None else os.fsencode(path).decode(errors="replace")
    input_format = detect_format(path) if options.input_format == AUTO else options.input_format
    shown = "stdin" if shown == STDIN else shown
    where = shown if where is None else where
    if input_format == "parquet":
        from producer.readers.parquet import ParquetReader

        return ParquetReader(path, options, name=shown, where=where, only_rows=only_rows)
    source = ByteSource(path, name=where, encoding=options.encoding)
    return _READERS[input_format](source, options, name=shown)
