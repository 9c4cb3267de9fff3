"""Tables as records: csv, tsv and jsonl, each with .gz too, and parquet.

Fields are taken as they are written. Readers that guess types would make nothing of the text ``None``, and numbers of
the labels of one file and words of those of the next.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scorequeue.errors import InputError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".parquet")


MAX_FIELD_CHARACTERS = 16 * 2**20
"""Longest field of a csv file; Python's own limit of 131,072 characters is below a long document."""


class Fault(ValueError):
    """Why a row cannot be used, as the end of a sentence that begins with its place."""


Record = dict[str, Any] | Fault
"""A row by column, or what is wrong with it."""

Records = tuple[list[str], Iterator[tuple[int, Record]]]
"""Columns, and each row with its line (in parquet its number), from 1."""


def read_records(file: Path) -> Records:
    """Read a file whose name ends with one of `SUFFIXES`.

    Raises:
        InputError: The name ends otherwise, or the file cannot be read, or is not what its name says.
    """
    name = file.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"{file} is of an unknown kind; expected a name that ends with {', '.join(SUFFIXES)}")
    read = _READERS[suffix.removesuffix(".gz")]
    return read(file, _unzip(file) if suffix.endswith(".gz") else _read(file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def _unzip(file: Path) -> bytes:
    try:
        return gzip.decompress(_read(file))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file} is not a whole gzip file: {error}; compress it again") from error


def _decode(file: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _read_csv(file: Path, content: bytes) -> Records:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)  # of the process: readers have none of their own
    reader = csv.reader(io.StringIO(_decode(file, content), newline=""), strict=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        while True:
            first = reader.line_num + 1  # a field in quotes may go over several lines
            try:
                yield first, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "field limit" in str(error):
                    raise InputError(
                        f"{file}:{first} has a field of more than {MAX_FIELD_CHARACTERS:,} characters; shorten it, or "
                        "close the quotes that it begins with"
                    ) from error
                raise InputError(f"{file}:{first} is not csv: {error}; mend the quotes of this row") from error

    return _with_header(file, lines())


def _read_tsv(file: Path, content: bytes) -> Records:
    # Not str.splitlines: it would also part a sentence at rarer separators such as U+2028.
    lines = (line.removesuffix("\r") for line in _decode(file, content).split("\n"))
    return _with_header(file, ((number, line.split("\t") if line else []) for number, line in enumerate(lines, 1)))


def _with_header(file: Path, lines: Iterator[tuple[int, list[str]]]) -> Records:
    _, header = next(((number, fields) for number, fields in lines if fields), (0, None))
    if header is None:
        raise InputError(f"{file} is empty; expected a line with the names of the columns, and rows below")
    header = [name.strip() for name in header]

    def records() -> Iterator[tuple[int, Record]]:
        for number, fields in lines:
            if not fields:
                continue
            if len(fields) == len(header):
                yield number, dict(zip(header, fields, strict=True))
            else:
                yield number, Fault(f"has {len(fields)} fields, the header {len(header)}")

    return header, records()


def _read_jsonl(file: Path, content: bytes) -> Records:
    rows: list[tuple[int, Record]] = []
    for number, line in enumerate(_decode(file, content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the latter of thousands of brackets
            value = None
        rows.append((number, value if isinstance(value, dict) else Fault("is no JSON object")))
    if not rows:
        raise InputError(f'{file} is empty; expected lines like {{"text": "The cat sat.", "label": "acceptable"}}')
    columns = dict.fromkeys(name for _, row in rows if not isinstance(row, Fault) for name in row)
    if not columns:
        raise InputError(f"{file} holds no JSON object; expected one a line, with a text and a label")
    return list(columns), iter(rows)


def _read_parquet(file: Path, content: bytes) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(io.BytesIO(content))
        flat = [field.name for field in schema if not pa.types.is_nested(field.type)]  # embeddings may lie beside
        table = pq.read_table(io.BytesIO(content), columns=flat)
        values = {name: table.column(name).to_pylist() for name in flat}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file} is not a whole parquet file: {str(error).splitlines()[0]}") from error
    for name, names in _class_labels(schema).items():
        # -1 is how such files write that a row has no label.
        values[name] = [
            names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values[name]
        ]
    rows = (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return list(schema.names), enumerate(rows, start=1)


def _class_labels(schema: Any) -> dict[str, list[str]]:
    """Names of whole-number labels by column, where `datasets` wrote the file and noted them."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import ClassLabel, Features

    features = Features.from_arrow_schema(schema)
    return {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}


_READERS: dict[str, Callable[[Path, bytes], Records]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
