"""Results beside the rows of the input they were made from; an input that changed meanwhile is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from producer.downloads import ResultReader
from producer.inputs import Inputs
from producer.readers import Reader
from producer.readers.base import Record
from scorequeue import codec
from scorequeue.columns import ChunkResult, chunk_from_rows
from scorequeue.errors import ContentConflictError, InputError
from scorequeue.jobs import FIRST_ROW, Row


class JoinedChunk(NamedTuple):
    """Consecutive rows of a job with what the input said and what became of them.

    Attributes:
        reader: The reader of the first row; the others' inputs have its format and columns.
        first_row: Position of the first row in the job, from 1.
        rows: The rows as they were submitted.
        records: The records of the input that they were made from.
        result: What became of them; None if that is not known (cancelled, or not scored yet).
        no_result: What to say of rows without a result.
    """

    reader: Reader
    first_row: int
    rows: list[Row]
    records: list[Record]
    result: ChunkResult | None
    no_result: str


def join(results: ResultReader, inputs: Inputs, *, is_one_table: bool = True) -> Iterator[JoinedChunk]:
    """Yield a job's chunks with the input's own records.

    Args:
        results: The job's results.
        inputs: The job's inputs, opened again with the job's options and under the same names.
        is_one_table: Whether the records of all inputs are to stand in the same columns.

    Raises:
        ContentConflictError: The inputs are not what was submitted.
        InputError: The inputs have different columns, so that they do not fit into one table.
    """
    records = _same_columns(inputs.records()) if is_one_table else inputs.records()
    first_row = FIRST_ROW
    for record, result in results.all_chunks():
        piece = list(islice(records, record.rows))
        rows = [row for _, row, _ in piece]
        last_row = first_row + record.rows - 1
        if len(rows) != record.rows or _digest(rows, first_row) != record.digest:
            raise ContentConflictError(
                f"expected the input that was submitted, but rows {first_row} to {last_row} have changed since"
                f" ({', '.join(inputs.where)}); submit it again, or take the results without --join"
            )
        no_result = "cancelled" if results.status.state.is_final else ""  # who follows a job learns late how it ends
        yield JoinedChunk(piece[0][0], first_row, rows, [fields for _, _, fields in piece], result, no_result)
        first_row = last_row + 1
    if results.status.state.is_final and next(records, None) is not None:
        raise ContentConflictError(
            f"expected the input that was submitted, but there are more than its {first_row - 1} rows now"
            f" ({', '.join(inputs.where)}); submit it again, or take the results without --join"
        )


def check_same_columns(first: Reader, other: Reader) -> None:
    """Refuse an input whose records do not fit into the table of the first one's; raises InputError."""
    if first.shape != other.shape:
        raise InputError(
            f"expected inputs of one format with the same columns to join, got {first.where} and {other.where};"
            " submit them as two jobs"
        )


def _digest(rows: list[Row], first_row: int) -> str:
    return codec.digest(codec.encode_chunk(chunk_from_rows(rows, first_row=first_row)))


def _same_columns(records: Iterator[tuple[Reader, Row, Record]]) -> Iterator[tuple[Reader, Row, Record]]:
    """Pass records on; refuse an input whose format or columns are not those of the first one."""
    first: Reader | None = None
    known: Reader | None = None
    for item in records:
        reader = item[0]
        if reader is not known:
            known = reader
            first = first or reader
            check_same_columns(first, reader)
        yield item
