"""The input's own records in order, each with pred_label, pred_score and pred_error.

csv and tsv keep their columns, jsonl keeps its objects as they are written, txt becomes a table with a text column.
Output is UTF-8; what was no text in the input comes out as U+FFFD.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from json.encoder import encode_basestring as json_text
from typing import Any

from producer.join import JoinedChunk
from producer.readers.base import Reader
from producer.writers.flat import best_labels, csv_lines, tsv_field
from scorequeue.errors import InputError, UsageError

PRED_COLUMNS = ("pred_label", "pred_score", "pred_error")

Prediction = tuple[str, str, str]
"""Label, score with six decimals, error code: empty texts where there is none."""


def render_joined(output_format: str, chunks: Iterable[JoinedChunk]) -> Iterator[str]:
    """Yield the joined rows as text.

    Args:
        output_format: ``jsonl``, ``csv`` or ``tsv``.
        chunks: The joined chunks in input order.

    Raises:
        UsageError: jsonl was to become csv or tsv.
        InputError: The input has a column of our names already.
    """
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return iter(())
    reader = first.reader
    _check_names(reader)
    rest = chain([first], chunks)
    if output_format != "jsonl" and reader.input_format == "jsonl":
        raise UsageError(f"expected --format jsonl to join jsonl (its objects have no columns), got {output_format}")
    if output_format == "jsonl":
        return _jsonl_from_jsonl(rest) if reader.input_format == "jsonl" else _jsonl_from_fields(rest)
    return _delimited(output_format, reader, rest)


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


def field_names(reader: Reader, width: int) -> list[str]:
    """Return names for the input's fields; numbered ones where the input names none."""
    return list(reader.columns) if reader.columns is not None else [f"column_{n + 1}" for n in range(width)]


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names that can be keys: an empty one is numbered, a repeated one counted."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        base = name or f"column_{number}"
        count = 1 + sum(other == base or other.startswith(f"{base}_") for other in found)
        found.append(base if base not in found else f"{base}_{count}")
    return found


def _check_names(reader: Reader) -> None:
    for name in PRED_COLUMNS:
        if reader.columns is not None and name in reader.columns:
            raise InputError(f"{reader.name}: expected no column {name} to join results to; rename or drop it")


def _delimited(output_format: str, reader: Reader, chunks: Iterable[JoinedChunk]) -> Iterator[str]:
    is_same = output_format == reader.input_format
    delimiter = getattr(reader, "delimiter", None) if is_same else None
    delimiter = delimiter or ("\t" if output_format == "tsv" else ",")
    # A file without a header stays one; in another format the columns need names.
    is_named = reader.columns is not None or not is_same
    width: int | None = None
    for chunk in chunks:
        if width is None:
            width = len(reader.columns) if reader.columns is not None else _width(chunk)
            if is_named:
                yield _lines([[*field_names(reader, width), *PRED_COLUMNS]], output_format, delimiter)
        rows = [
            (*(record if len(record) == width else _fitted(record, width)), *prediction)
            for record, prediction in zip(chunk.records, predictions(chunk), strict=True)
        ]
        yield _lines(rows, output_format, delimiter)


def _lines(rows: Sequence[Sequence[str]], output_format: str, delimiter: str) -> str:
    if output_format == "csv":
        return csv_lines(rows, delimiter=delimiter)
    return "".join(delimiter.join(map(tsv_field, row)) + "\n" for row in rows)


def _width(chunk: JoinedChunk) -> int:
    """Return the number of fields where no header says it: that of the first record."""
    return len(chunk.records[0])


def _fitted(record: Sequence[str], width: int) -> list[str]:
    """Make a faulty record as wide as the others, so that the predictions stand in their columns."""
    if len(record) > width:
        return [*record[: width - 1], " ".join(record[width - 1 :])]
    return [*record, *[""] * (width - len(record))]


def _jsonl_from_fields(chunks: Iterable[JoinedChunk]) -> Iterator[str]:
    names: list[str] | None = None
    for chunk in chunks:
        names = names or _distinct(field_names(chunk.reader, _width(chunk)))
        lines = []
        for record, prediction in zip(chunk.records, predictions(chunk), strict=True):
            value = dict(zip(names, record if len(record) == len(names) else _fitted(record, len(names)), strict=True))
            lines.append(json.dumps(value, ensure_ascii=False)[:-1] + ", " + _members(prediction) + "}\n")
        yield "".join(lines)


def _jsonl_from_jsonl(chunks: Iterable[JoinedChunk]) -> Iterator[str]:
    for chunk in chunks:
        lines = []
        for row, (line,), prediction in zip(chunk.rows, chunk.records, predictions(chunk), strict=True):
            if row.error is None and '"pred_' not in line:
                # The object stays as it is written: order, spacing, numbers.
                lines.append(line.rstrip()[:-1].rstrip() + ", " + _members(prediction) + "}\n")
            else:
                lines.append(_rewritten(chunk.reader, line, prediction))
        yield "".join(lines)


def _rewritten(reader: Reader, line: str, prediction: Prediction) -> str:
    """Return the joined line of an object that has to be looked at, or of a line that is none."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {"input": line}
    for name in PRED_COLUMNS:
        if name in value:
            raise InputError(f"{reader.name}: expected no field {name} to join results to; rename or drop it")
    body = json.dumps(value, ensure_ascii=False)[1:-1]
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
