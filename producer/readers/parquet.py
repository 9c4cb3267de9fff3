"""parquet: a batch of rows at a time, columns by name or number, read with pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from producer.arrow import is_text, plain, pyarrow, pyarrow_parquet, texts
from producer.readers.base import ID_NAMES, TEXT_NAMES, Reader, Record, missing_field, new_row, pick_field
from producer.readers.options import ReaderOptions
from producer.readers.whole import open_whole
from producer.rows import RowRules, failed_row, id_from, is_plain_id
from scorequeue.errors import InputError
from scorequeue.jobs import FIRST_ROW, ErrorCode, Row, RowError

BATCH_ROWS = 1024
"""Rows that are read together: texts of the largest size that is scored take 16 MiB then."""

_BUFFER_BYTES = 256 * 1024
"""Bytes of each column that are read together, instead of a whole row group's."""

_NO_RECORD = ()


class BatchRow(NamedTuple):
    """A row of a parquet file: where it stands in a batch that was read with it.

    Attributes:
        batch: A pyarrow RecordBatch with all the columns.
        offset: The row's place in it, from 0.
    """

    batch: Any
    offset: int


class ParquetReader(Reader):
    """Every row of the file is a row, and its line is its number in the file, from 1.

    Args:
        path: A file, or ``-`` for standard input.
        options: How to read it.
        name: What rows call the input.
        where: What messages call it.
        only_rows: Whether nobody will ask for the records, so that columns that make no row need not be read.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: It cannot be opened, or is no parquet file that can be read.
    """

    input_format = "parquet"
    row_kind = "row in the file"

    def __init__(self, path: str, options: ReaderOptions, *, name: str, where: str, only_rows: bool = False) -> None:
        self.name = name
        self.where = where
        self.options = options
        self.rules = RowRules(options.max_text_bytes)
        parquet = pyarrow_parquet()
        self._only_rows = only_rows
        self._rows_read = 0
        self._size = os.path.getsize(path) if os.path.isfile(path) else None
        self._file = open_whole(path, name=where, magic=b"PAR1")
        try:
            with self._damage_told():
                self._parquet = parquet.ParquetFile(
                    self._file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
                )
                self._schema = self._parquet.schema_arrow
                self._rows = int(self._parquet.metadata.num_rows)
        except BaseException:
            self._file.close()
            raise

    @property
    def size(self) -> int | None:
        """Bytes of the file as it lies on disk; None for a pipe."""
        return self._size

    @property
    def position(self) -> int:
        """Bytes of the rows that have been read, if all rows were of one size."""
        return (self._size or 0) * self._rows_read // max(1, self._rows)

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        names: list[str] = self._schema.names
        return names

    @property
    def schema(self) -> Any:
        """The pyarrow schema of the records."""
        return self._schema

    @property
    def shape(self) -> tuple[Any, ...]:
        """Columns of one name must be of one type too."""
        return self.input_format, tuple((field.name, str(field.type), field.nullable) for field in self._schema)

    def close(self) -> None:
        """Close the file, and forget what pyarrow keeps of it."""
        self._file.close()
        self._parquet = None

    def _records(self) -> Iterator[tuple[Row, Record]]:
        name, rules, most = self.name, self.rules, self.rules.max_text_bytes
        text_index, id_index = self._pick_columns()
        number = FIRST_ROW
        for batch in self._batches(text_index, id_index):
            with self._damage_told():
                found = self._texts(batch.column(self.columns[text_index] if self._by_name else text_index))
                ids = self._ids(batch, id_index)
            for offset, (text, row_id) in enumerate(zip(found, ids, strict=True)):
                record: Record = _NO_RECORD if self._only_rows else BatchRow(batch, offset)
                if (
                    type(text) is str
                    and text.isascii()
                    and 0 < len(text) <= most
                    and not text.isspace()
                    and (row_id is None or (type(row_id) is str and is_plain_id(row_id)))
                ):
                    yield new_row(Row, (text, row_id, name, number, None)), record
                else:
                    kept_id = row_id if isinstance(row_id, str) else None
                    fault = next((value for value in (row_id, text) if isinstance(value, RowError)), None)
                    if fault is not None:
                        yield failed_row(fault, kept_id, name, number), record
                    else:
                        yield rules.row(str(text), kept_id, name, number), record
                number += 1
            self._rows_read = number - FIRST_ROW

    def _pick_columns(self) -> tuple[int, int | None]:
        """Find the text and the id column."""
        names, options = self.columns, self.options
        text = pick_field(names, wanted=options.text_field, usual=TEXT_NAMES, what="text", where=self.where)
        if text is None and len(names) == 1:
            text = 0
        if text is None:
            expected = "a column text or sentence, or one column"
            raise missing_field(names, expected=expected, what="text", where=self.where)
        row_id = pick_field(names, wanted=options.id_field, usual=ID_NAMES, what="id", where=self.where)
        self.text_field = names[text]
        self.id_field = None if row_id is None else names[row_id]
        return text, row_id

    @property
    def _by_name(self) -> bool:
        """Whether the batches hold some of the columns only."""
        return self._only_rows and len(set(self.columns)) == len(self.columns)

    def _batches(self, text_index: int, id_index: int | None) -> Iterator[Any]:
        wanted = [self.columns[index] for index in (text_index, id_index) if index is not None]
        with self._damage_told():
            batches = self._parquet.iter_batches(
                BATCH_ROWS, columns=wanted if self._by_name else None, use_threads=False
            )
        while True:
            with self._damage_told():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _texts(self, column: Any) -> list[str | RowError]:
        """Return the texts of a column; where one is none, why."""
        column = plain(column)
        null = RowError(ErrorCode.WRONG_TYPE, "expected a text, got null")
        if is_text(column.type):
            return [null if text is None else text for text in texts(column)]
        other = RowError(ErrorCode.WRONG_TYPE, f"expected a text, got {_named(column.type)}")
        return [null if is_null else other for is_null in column.is_null().to_pylist()]

    def _ids(self, batch: Any, id_index: int | None) -> list[str | RowError | None]:
        """Return the ids of a batch; None stands for the row's position."""
        if id_index is None:
            return [None] * batch.num_rows
        is_asked_for = self.options.id_field is not None
        column = plain(batch.column(self.columns[id_index] if self._by_name else id_index))
        if is_text(column.type):
            return [value or None for value in texts(column)]
        types = pyarrow().types
        if types.is_integer(column.type) or types.is_floating(column.type):
            found = map(id_from, column.to_pylist())
            return [row_id if fault is None or not is_asked_for else fault for row_id, fault in found]
        if not is_asked_for:
            return [None] * batch.num_rows
        message = f"expected an id that is a text or a whole number, got {_named(column.type)}"
        other = RowError(ErrorCode.WRONG_TYPE, message)
        return [None if is_null else other for is_null in column.is_null().to_pylist()]

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Turn what pyarrow raises of a file into one line about it."""
        try:
            yield
        except (pyarrow().ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as exc:
            reason = (str(exc) or type(exc).__name__).splitlines()[0][:160]
            raise InputError(
                f"{self.where}: the parquet data is damaged or of a kind that cannot be read ({reason}); write it again"
            ) from exc


def _named(data_type: Any) -> str:
    """Return what a value of a type is called, as in JSON where that has it."""
    types = pyarrow().types
    if types.is_boolean(data_type):
        return "a boolean"
    if types.is_integer(data_type) or types.is_floating(data_type) or types.is_decimal(data_type):
        return "a number"
    return str(data_type)[:60]
