"""What a record of the input says, field by field: as texts for csv and tsv, as JSON values for jsonl."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from itertools import groupby
from typing import Any

from producer.arrow import is_text, plain, pyarrow, texts
from producer.join import JoinedChunk
from producer.joinable import NO_OBJECT, Column
from producer.readers.base import Record
from scorequeue.errors import ContentConflictError, InputError

json_line = json.JSONEncoder(ensure_ascii=False).encode
"""Writes a JSON value; ``json.dumps`` would make an encoder for each."""


def as_texts(chunk: JoinedChunk, columns: Sequence[Column] | None) -> Sequence[Sequence[str]]:
    """Return a chunk's records as texts; a null is an empty one, a list or an object is JSON.

    Args:
        chunk: The chunk.
        columns: The fields of jsonl objects, in order; None for other inputs.

    Raises:
        ContentConflictError: An object has a field that is not among the columns.
        InputError: A parquet column holds what cannot be written as text.
    """
    if columns is not None:
        return [[text(value) for value in record] for record in as_members(chunk, columns)]
    if chunk.reader.input_format == "parquet":
        return _rows_of(chunk, _texts_of)
    return chunk.records


def as_values(chunk: JoinedChunk) -> Sequence[Sequence[Any]]:
    """Return a chunk's records as JSON values; raises InputError for a parquet column that has none."""
    return _rows_of(chunk, _values_of) if chunk.reader.input_format == "parquet" else chunk.records


def as_members(chunk: JoinedChunk, columns: Sequence[Column]) -> Iterator[list[Any]]:
    """Yield the values of a chunk's JSON objects in the order of the columns, None where there is none."""
    names = [column.name for column in columns]
    known = frozenset(names)
    for row, (line, value) in zip(chunk.rows, chunk.records, strict=True):
        members = {NO_OBJECT: line} if value is None else value
        if not members.keys() <= known:
            new = next(name for name in members if name not in known)
            raise ContentConflictError(
                f"{chunk.reader.where}, line {row.line}: expected the input as it was when its fields were read, got a"
                f" new field {new[:60]!r}; run the command again"
            )
        yield [members.get(name) for name in names]


def text(value: Any) -> str:
    """Return a JSON value as the text of a field."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    return str(value) if type(value) is int else json_line(value)


def batch_slices(records: Sequence[Record]) -> Iterator[Any]:
    """Yield the batches that consecutive records of parquet make up."""
    for _, group in groupby(records, key=_batch_of):
        rows = list(group)
        first: Any = rows[0]
        yield first.batch.slice(first.offset, len(rows))


def _batch_of(record: Any) -> int:
    return id(record.batch)


def _rows_of(chunk: JoinedChunk, convert: Any) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for batch in batch_slices(chunk.records):
        columns = []
        for field, column in zip(batch.schema, batch.columns, strict=True):
            try:
                columns.append(convert(plain(column)))
            except (pyarrow().ArrowException, ValueError, OverflowError) as exc:
                raise InputError(
                    f"{chunk.reader.where}: column {field.name!r} ({str(field.type)[:60]}) cannot be written as text;"
                    " say --format parquet"
                ) from exc
        rows.extend(zip(*columns, strict=True))
    return rows


def _texts_of(column: Any) -> list[str]:
    types, kind = pyarrow().types, column.type
    if types.is_boolean(kind) or types.is_nested(kind):
        return [text(value) for value in _values_of(column)]
    values = _floats(column) if types.is_floating(kind) else _values_of(column)
    return ["" if value is None else value if type(value) is str else str(value) for value in values]


def _values_of(column: Any) -> list[Any]:
    arrow, kind = pyarrow(), column.type
    types = arrow.types
    if is_text(kind) and "binary" not in str(kind):
        return texts(column)
    if types.is_floating(kind):
        return [_json_value(value) for value in _floats(column)]
    if types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind):
        return list(column.to_pylist())
    if types.is_nested(kind) or "binary" in str(kind):
        return [_json_value(value) for value in column.to_pylist()]
    if types.is_duration(kind):
        column = column.cast(arrow.int64())
    return list(column.cast(arrow.string()).to_pylist())  # times and decimals, with all their digits


def _floats(column: Any) -> list[float | None]:
    """Return numbers as they would be typed: 0.1 in half or single precision is 0.1."""
    if pyarrow().types.is_float64(column.type):
        return list(column.to_pylist())
    single = column.cast(pyarrow().float32()).cast(pyarrow().string())
    return [None if value is None else float(value) for value in single.to_pylist()]


def _json_value(value: Any) -> Any:
    """Return what JSON has for a value; null for a number that is none, base64 for bytes that are no text."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return b64encode(value).decode()
        case dict():
            return {str(name): _json_value(item) for name, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
        case None | str() | bool() | int():
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)
