"""Results as parquet, alone or joined to the input: typed columns, written in row groups as they come.

Renderers yield bytes, a row group at a time; memory stays flat.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from producer.arrow import pyarrow, pyarrow_parquet
from producer.join import JoinedChunk
from producer.joinable import PRED_COLUMNS, Column, Kind
from producer.output import replace_surrogates
from producer.writers.cells import as_members, as_texts, batch_slices, text
from producer.writers.flat import best_labels, labels_first
from producer.writers.joined import distinct, fitted, predictions, table_names
from scorequeue.columns import ChunkResult
from scorequeue.errors import ContentConflictError

GROUP_ROWS = 32 * 1024
"""Rows of a row group."""

GROUP_BYTES = 16 * 1024 * 1024
"""Bytes after which a row group ends though it has fewer rows."""

_LIST_ROWS = 2048
"""Rows that wait as Python's values, which take ten times the memory of arrays."""


def results_parquet(chunks: Iterable[ChunkResult], *, only_errors: bool = False) -> Iterator[bytes]:
    """Yield results as a parquet file: the columns of csv, with types.

    Args:
        chunks: The results in input order.
        only_errors: Whether to leave out the rows that were scored.
    """
    arrow = pyarrow()
    chunks, labels = labels_first(chunks)
    schema = arrow.schema(
        [
            ("row", arrow.int64()),
            ("id", arrow.string()),
            ("label", arrow.string()),
            ("score", arrow.float32()),
            *((f"score_{label}", arrow.float32()) for label in labels),
            ("truncated", arrow.bool_()),
            ("model_version", arrow.string()),
            ("error_code", arrow.string()),
            ("error_message", arrow.string()),
        ]
    )
    table = _Table(schema)
    for chunk in chunks:
        yield from table.add(_result_columns(chunk, len(labels), only_errors=only_errors))
    yield from table.end()


def joined_parquet(chunks: Iterable[JoinedChunk], columns: Sequence[Column] | None) -> Iterator[bytes]:
    """Yield joined rows as a parquet file.

    Parquet keeps its columns and their types, jsonl has the types of its values, everything else is text.

    Args:
        chunks: The joined chunks in input order.
        columns: What jsonl's fields are in a table; None for other inputs.

    Raises:
        ContentConflictError: jsonl has a field, or a value of a kind, that is not that of its columns.
    """
    arrow = pyarrow()
    chunks = iter(chunks)
    first = next(chunks)
    chunks = chain([first], chunks)
    ours = [arrow.field(PRED_COLUMNS[0], arrow.string()), arrow.field(PRED_COLUMNS[1], arrow.float32())]
    ours.append(arrow.field(PRED_COLUMNS[2], arrow.string()))
    if first.reader.input_format == "parquet":
        yield from _parquet_from_parquet(chunks, first.reader.schema, ours)  # type: ignore[attr-defined]
        return
    names = distinct([replace_surrogates(name) for name in table_names(first, columns)])
    kinds = [column.kind for column in columns] if columns is not None else [Kind.TEXT] * len(names)
    types = {
        Kind.TEXT: arrow.string(),
        Kind.INTEGER: arrow.int64(),
        Kind.NUMBER: arrow.float64(),
        Kind.BOOLEAN: arrow.bool_(),
    }
    inputs = [arrow.field(name, types[kind]) for name, kind in zip(names, kinds, strict=True)]
    table = _Table(arrow.schema([*inputs, *ours]))
    for chunk in chunks:
        yield from table.add([*_input_columns(chunk, columns, kinds), *_predicted(chunk)])
    yield from table.end()


class _Table:
    """Collects rows and hands out the bytes of a row group when there are enough for one.

    Args:
        schema: The pyarrow schema.
    """

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._sink = _Sink()
        self._writer = pyarrow_parquet().ParquetWriter(self._sink, schema, write_page_checksum=True)
        self._columns: list[list[Any]] = [[] for _ in schema]
        self._held: list[Any] = []  # tables that are to be one row group
        self._rows = 0
        self._bytes = 0

    def add(self, columns: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        """Take rows, column by column."""
        for ours, new in zip(self._columns, columns, strict=True):
            ours.extend(new)
        if len(self._columns[0]) >= _LIST_ROWS:
            yield from self._pack()

    def add_table(self, table: Any) -> Iterator[bytes]:
        """Take rows that are a pyarrow table already."""
        self._held.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            yield from self._group()

    def end(self) -> Iterator[bytes]:
        """Write what is left, and the file's end."""
        yield from self._pack()
        yield from self._group()
        self._writer.close()
        yield from self._sink.take()

    def _pack(self) -> Iterator[bytes]:
        """Turn lists into arrays."""
        if not self._columns[0]:
            return
        arrays = [_array(values, field.type) for values, field in zip(self._columns, self._schema, strict=True)]
        self._columns = [[] for _ in self._schema]
        yield from self.add_table(pyarrow().Table.from_arrays(arrays, schema=self._schema))

    def _group(self) -> Iterator[bytes]:
        if not self._held:
            return
        self._writer.write_table(pyarrow().concat_tables(self._held), row_group_size=self._rows)
        self._held, self._rows, self._bytes = [], 0, 0
        yield from self._sink.take()


class _Sink(io.RawIOBase):
    """A file that is only written to, and that hands on what was written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size

    def take(self) -> Iterator[bytes]:
        """Yield what was written since the last time."""
        pieces, self._pieces = self._pieces, []
        yield from pieces


def _result_columns(result: ChunkResult, labels: int, *, only_errors: bool) -> list[list[Any]]:
    """Return the rows of a chunk, a list for each column."""
    count, first, failed = result.rows, result.first_row, result.errors
    numbers = list(range(first, first + count))
    ids = list(result.ids) if result.ids is not None else list(map(str, numbers))
    label: list[Any] = [None] * count
    score: list[Any] = [None] * count
    scores: list[list[Any]] = [[None] * count for _ in range(labels)]
    cut: list[Any] = [None] * count
    if result.labels:
        label, score, _ = best_labels(result)
        scores = [result.scores[at :: len(result.labels)].tolist() for at in range(labels)]
        cut = [offset in result.truncated for offset in range(count)]
    codes: list[Any] = [None] * count
    messages: list[Any] = [None] * count
    for offset, error in failed.items():
        codes[offset], messages[offset] = error.code.value, error.message
        for column in (label, score, *scores, cut):
            column[offset] = None
    versions: list[Any] = [result.model_version] * count
    columns: list[list[Any]] = [numbers, ids, label, score, *scores, cut, versions, codes, messages]
    return [[column[offset] for offset in sorted(failed)] for column in columns] if only_errors else columns


def _input_columns(chunk: JoinedChunk, columns: Sequence[Column] | None, kinds: Sequence[Kind]) -> list[Sequence[Any]]:
    """Return the input's own columns of a chunk."""
    if columns is None:
        width = len(kinds)
        records = [
            record if len(record) == width else fitted(record, width, reader=chunk.reader)
            for record in as_texts(chunk, None)
        ]
        return list(zip(*records, strict=True))
    members = zip(*as_members(chunk, columns), strict=True)
    return [
        [None if value is None else text(value) for value in values] if kind is Kind.TEXT else values
        for values, kind in zip(members, kinds, strict=True)
    ]


def _predicted(chunk: JoinedChunk) -> list[Sequence[Any]]:
    found = predictions(chunk)
    if chunk.result is None or not chunk.result.labels:
        scores: list[float | None] = [None] * len(found)
    else:
        scores = list(best_labels(chunk.result)[1])
    labels = [label or None for label, _, _ in found]
    errors = [error or None for _, _, error in found]
    return [labels, [None if error else score for score, error in zip(scores, errors, strict=True)], errors]


def _array(values: list[Any], data_type: Any) -> Any:
    arrow = pyarrow()
    try:
        return arrow.array(values, data_type)
    except UnicodeEncodeError:
        # What was no text in the input is marked by lone surrogates, which UTF-8 cannot carry.
        return arrow.array([None if value is None else replace_surrogates(value) for value in values], data_type)
    except (arrow.ArrowException, OverflowError) as exc:
        raise ContentConflictError(
            f"expected the input as it was when its fields were read, got another kind of value ({exc}); run the"
            " command again"
        ) from exc


def _parquet_from_parquet(chunks: Iterable[JoinedChunk], schema: Any, ours: Sequence[Any]) -> Iterator[bytes]:
    """Keep the input's columns as they are, of whatever type."""
    arrow = pyarrow()
    for field in ours:
        schema = schema.append(field)
    table = _Table(schema)
    batches: list[Any] = []
    predicted: list[list[Any]] = [[] for _ in ours]

    def rows() -> Iterator[bytes]:
        arrays = [_array(values, field.type) for values, field in zip(predicted, ours, strict=True)]
        columns = arrow.Table.from_batches(batches).columns
        yield from table.add_table(arrow.Table.from_arrays([*columns, *arrays], schema=schema))
        batches.clear()
        for values in predicted:
            values.clear()

    for chunk in chunks:
        batches.extend(batch.replace_schema_metadata(None) for batch in batch_slices(chunk.records))
        for values, new in zip(predicted, _predicted(chunk), strict=True):
            values.extend(new)
        if len(predicted[0]) >= _LIST_ROWS:
            yield from rows()
    if batches:
        yield from rows()
    yield from table.end()
