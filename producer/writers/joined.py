"""The input's own records in order, each with pred_label, pred_score and pred_error.

csv, tsv and parquet keep their columns, jsonl keeps its objects as they are written and in a table becomes a column for
each field, txt becomes a table with a text column.
Output is UTF-8; what was no text in the input comes out as U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from json.encoder import encode_basestring as json_text
from typing import Any

from producer.join import JoinedChunk
from producer.joinable import NO_OBJECT, PRED_COLUMNS, TABLES, Column, check_names
from producer.readers.base import Reader
from producer.writers.cells import as_texts, as_values, json_line
from producer.writers.flat import best_labels, csv_lines, tsv_field
from scorequeue.errors import UsageError

Prediction = tuple[str, str, str]
"""Label, score with six decimals, error code: empty texts where there is none."""


def render_joined(
    output_format: str, chunks: Iterable[JoinedChunk], *, columns: Sequence[Column] | None = None
) -> Iterator[str] | Iterator[bytes]:
    """Yield the joined rows, as text or as the bytes of a parquet file.

    Args:
        output_format: ``jsonl``, ``csv``, ``tsv`` or ``parquet``.
        chunks: The joined chunks in input order.
        columns: What jsonl's fields are in a table, as ``check_join`` found them.

    Raises:
        UsageError: jsonl was to become a table, and its columns were not given.
        InputError: The input has a column of our names already.
        ContentConflictError: jsonl has a field that is not among its columns.
    """
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return iter(())
    reader = first.reader
    check_names(reader.columns or (), where=reader.where, what="column")
    rest = chain([first], chunks)
    is_from_jsonl = reader.input_format == "jsonl"
    if output_format in TABLES and is_from_jsonl and columns is None:
        raise UsageError(f"expected the columns of jsonl to join it into {output_format}, got none; see check_join")
    if output_format == "jsonl":
        return _jsonl_from_jsonl(rest) if is_from_jsonl else _jsonl_from_fields(rest)
    if output_format == "parquet":
        from producer.writers.columnar import joined_parquet

        return joined_parquet(rest, columns)
    return _delimited(output_format, reader, rest, columns)


def predictions(chunk: JoinedChunk) -> list[Prediction]:
    """Return what became of each row of a chunk."""
    result = chunk.result
    if result is None:
        return [("", "", chunk.no_result)] * len(chunk.rows)
    if not result.labels:
        return [("", "", error.code.value) for _, error in sorted(result.errors.items())]
    labels, best, _ = best_labels(result)
    found = [(label, f"{score:.6f}", "") for label, score in zip(labels, best, strict=True)]
    for offset, error in result.errors.items():
        found[offset] = ("", "", error.code.value)
    return found


def table_names(chunk: JoinedChunk, columns: Sequence[Column] | None) -> list[str]:
    """Return names for the input's fields, those of the first record numbered where the input names none."""
    if columns is not None:
        return [column.name for column in columns]
    names = chunk.reader.columns
    return list(names) if names is not None else [f"column_{n + 1}" for n in range(len(chunk.records[0]))]


def distinct(names: Sequence[str]) -> list[str]:
    """Return names that can be keys: an empty one is numbered, a repeated one counted."""
    found: dict[str, None] = {}
    for number, name in enumerate(names, 1):
        base = new = name or f"column_{number}"
        count = 1
        while new in found or (count > 1 and new in names):
            count += 1
            new = f"{base}_{count}"
        found[new] = None
    return list(found)


def _delimited(
    output_format: str, reader: Reader, chunks: Iterable[JoinedChunk], columns: Sequence[Column] | None
) -> Iterator[str]:
    is_same = output_format == reader.input_format
    delimiter = getattr(reader, "delimiter", None) if is_same else None
    delimiter = delimiter or ("\t" if output_format == "tsv" else ",")
    # A file without a header stays one; in another format the columns need names.
    is_named = reader.columns is not None or not is_same
    width: int | None = None
    for chunk in chunks:
        if width is None:
            names = table_names(chunk, columns)
            width = len(names)
            if is_named:
                yield _lines([[*names, *PRED_COLUMNS]], output_format, delimiter)
        rows = [
            (*(record if len(record) == width else fitted(record, width, reader=chunk.reader)), *prediction)
            for record, prediction in zip(as_texts(chunk, columns), predictions(chunk), strict=True)
        ]
        yield _lines(rows, output_format, delimiter)


def _lines(rows: Sequence[Sequence[str]], output_format: str, delimiter: str) -> str:
    if output_format == "csv":
        return csv_lines(rows, delimiter=delimiter)
    return "".join(delimiter.join(map(tsv_field, row)) + "\n" for row in rows)


def fitted(record: Sequence[str], width: int, *, reader: Reader) -> list[str]:
    """Make a faulty record as wide as the others, so that the predictions stand in their columns.

    Fields too many stand in the last column, with the reader's delimiter between them.
    """
    if len(record) > width:
        return [*record[: width - 1], getattr(reader, "delimiter", " ").join(record[width - 1 :])]
    return [*record, *[""] * (width - len(record))]


def _jsonl_from_fields(chunks: Iterable[JoinedChunk]) -> Iterator[str]:
    names: list[str] | None = None
    for chunk in chunks:
        names = names or distinct(table_names(chunk, None))
        lines = []
        for record, prediction in zip(as_values(chunk), predictions(chunk), strict=True):
            fields = record if len(record) == len(names) else fitted(record, len(names), reader=chunk.reader)
            value = dict(zip(names, fields, strict=True))
            lines.append(json_line(value)[:-1] + ", " + _members(prediction) + "}\n")
        yield "".join(lines)


def _jsonl_from_jsonl(chunks: Iterable[JoinedChunk]) -> Iterator[str]:
    for chunk in chunks:
        lines = []
        for row, (line, value), prediction in zip(chunk.rows, chunk.records, predictions(chunk), strict=True):
            if row.error is None and '"pred_' not in line:
                # The object stays as it is written: order, spacing, numbers.
                lines.append(line.rstrip()[:-1].rstrip() + ", " + _members(prediction) + "}\n")
            else:
                lines.append(_rewritten(chunk.reader, line, value, prediction))
        yield "".join(lines)


def _rewritten(reader: Reader, line: str, value: dict[str, Any] | None, prediction: Prediction) -> str:
    """Return the joined line of an object that has to be looked at, or of a line that is none."""
    value = {NO_OBJECT: line} if value is None else value
    check_names(value, where=reader.where, what="field")
    body = json_line(value)[1:-1]
    return "{" + body + (", " if body else "") + _members(prediction) + "}\n"


def _members(prediction: Prediction) -> str:
    label, score, error = prediction
    return (
        f'"pred_label": {_quoted(label) if label else "null"}, "pred_score": {score or "null"}, '
        f'"pred_error": {_quoted(error) if error else "null"}'
    )


@lru_cache(maxsize=256)
def _quoted(label: str) -> str:
    """Return a label or an error code as JSON; there are few different ones."""
    return json_text(label)
