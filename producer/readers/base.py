"""What every reader has in common: rows in order, with file and line, beside what the input itself said."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, Self

from producer.readers.options import ReaderOptions
from producer.readers.streams import BLOCK_BYTES, MAX_LINE_CHARACTERS, ByteSource
from producer.rows import RowRules, failed_row
from scorequeue.errors import InputError, MissingFieldError
from scorequeue.jobs import FIRST_ROW, Row

TEXT_NAMES = ("text", "sentence")
ID_NAMES = ("id", "custom_id")

Record = Sequence[Any]
"""A row as the input has it, which a join writes again: its fields in csv and tsv, the line in txt, the line and what
it says in jsonl, a place in a batch in parquet."""

new_row: Any = tuple.__new__
"""Makes a Row in half the time that calling the class takes; for the loops that see every row."""

_PIECE = 4096
"""Blank lines that are packed together."""


class Reader(ABC):
    """One input, read once from start to end; iterating yields its rows.

    A row that cannot be scored comes as a failed row in its place: nothing in a line stops the reading. A blank line is
    a row without a text, but blank lines at the end of the input are no rows.

    Args:
        source: The open input.
        options: How to read it; ``input_format`` is this class's, whatever the option says.
        name: What the rows call the input; what messages call it unless given.

    Attributes:
        where: What messages call the input.
        text_field: Name of the text's field, else its number from 1, known once a row was read; None where rows have no
            fields.
        id_field: The same of the id's; None where the row's position is the id.
    """

    input_format: ClassVar[str]
    row_kind: ClassVar[str] = "line that is not blank"

    text_field: str | None = None
    id_field: str | None = None

    def __init__(self, source: ByteSource, options: ReaderOptions, *, name: str | None = None) -> None:
        self.source = source
        self.where = source.name
        self.name = self.where if name is None else name
        self.options = options
        self.rules = RowRules(options.max_text_bytes)

    @property
    def size(self) -> int | None:
        """Bytes of the input, before unzipping; None where that is not known."""
        return self.source.size

    @property
    def position(self) -> int:
        """Bytes of the input that have been read."""
        return self.source.position

    @property
    def columns(self) -> Sequence[str] | None:
        """Names of the fields of each record, known once a row was read; None where the input names none."""
        return None

    @property
    def shape(self) -> tuple[Any, ...]:
        """What the records of two inputs must have in common to fit into one table."""
        return self.input_format, None if self.columns is None else tuple(self.columns)

    @property
    def description(self) -> str:
        """How the input is read, in words; complete once a row was read."""
        kind = "field" if self.input_format == "jsonl" else "column"
        chosen = (("text", self.text_field), ("id", self.id_field))
        fields = [f"{what} {kind} {self._shown(name)}" for what, name in chosen if name is not None]
        return ", ".join([self.input_format, *fields])

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in order; raises what ``records`` raises."""
        return map(itemgetter(0), self.records())

    def records(self) -> Iterator[tuple[Row, Record]]:
        """Yield each row beside the record that it was made from.

        Raises:
            InputError: There are no rows, or the rest of the input cannot be read.
            MissingFieldError: The text or id field is not there.
        """
        records = self._records()
        first = next(records, None)
        if first is None:
            raise InputError(f"{self.where}: no rows; expected at least one {self.row_kind}")
        return chain([first], records)

    def close(self) -> None:
        """Close the input."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def _records(self) -> Iterator[tuple[Row, Record]]:
        """Yield rows and records; nothing at all where there are no rows."""

    def _shown(self, field: str) -> str:
        """Return a field's name as messages show it."""
        return listed([field])

    def _line_blocks(self, *, keep_cr: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield (number of the first line, lines) without the blank lines at the end of the input."""
        number = FIRST_ROW
        held = _Blanks()
        for lines in self.source.line_blocks(keep_cr=keep_cr):
            end = len(lines)
            while end and not lines[end - 1].strip():
                end -= 1
            if end:
                for piece in held.taken():
                    yield number, piece
                    number += len(piece)
                yield number, lines if end == len(lines) else lines[:end]
                number += end
            if end < len(lines):
                held.add(lines[end:])

    def _overlong(self, line: str, number: int) -> Row | None:
        """Return the failed row for a line that was cut because it does not fit in memory; None for others."""
        if len(line) < MAX_LINE_CHARACTERS:
            return None
        fault = self.rules.too_long(f"a line of over {MAX_LINE_CHARACTERS:,} characters")
        return failed_row(fault, None, self.name, number)


class _Blanks:
    """Blank lines that may be the last ones of an input: kept packed, for there may be millions of them."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._recent: list[str] = []
        self._characters = 0

    def add(self, lines: list[str]) -> None:
        """Keep lines, behind those that are there."""
        self._recent += lines
        self._characters += sum(map(len, lines))
        if len(self._recent) >= _PIECE or self._characters >= BLOCK_BYTES:
            self._packed.append(zlib.compress("\n".join(self._recent).encode(), 1))
            self._recent, self._characters = [], 0

    def taken(self) -> Iterator[list[str]]:
        """Yield the lines in order, in pieces, and keep none."""
        packed, recent = self._packed, self._recent
        self._packed, self._recent, self._characters = [], [], 0
        for piece in packed:
            yield zlib.decompress(piece).decode().split("\n")
        if recent:
            yield recent


def pick_field(
    columns: Sequence[str],
    *,
    wanted: str | None,
    usual: Sequence[str],
    what: str,
    where: str,
    advice: str = "NAME or NUMBER",
) -> int | None:
    """Choose a field among the columns.

    Args:
        columns: Names of the columns.
        wanted: Name or 1-based number that the caller gave; None to go by the usual names.
        usual: Names that are taken without being asked for, best first.
        what: ``text`` or ``id``, for the message.
        where: The input, for the message.
        advice: What to say the field by, for the message.

    Returns:
        Index of the column; None when none was wanted and no usual one is there.

    Raises:
        MissingFieldError: The wanted column is not there, the message lists those that are; or it is there twice.
    """
    if wanted is None or wanted in columns:
        name = wanted if wanted is not None else next((name for name in usual if name in columns), None)
        if name is not None and columns.count(name) > 1:
            raise MissingFieldError(
                f"{where}: expected one column {name!r}, found {columns.count(name)}; say --{what}-field NUMBER"
            )
        return None if name is None else columns.index(name)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(columns):
        return int(wanted) - 1
    raise missing_field(columns, expected=f"a {what} field {wanted!r}", what=what, where=where, advice=advice)


def missing_field(
    columns: Sequence[str], *, expected: str, what: str, where: str, advice: str = "NAME or NUMBER"
) -> MissingFieldError:
    """Return the error for a field that is not among the columns."""
    found = listed(columns)
    return MissingFieldError(
        f"{where}: expected {expected}, found {len(columns)} columns: {found}; say --{what}-field {advice}"
    )


def listed(names: Sequence[str], *, most: int = 12, width: int = 40) -> str:
    """Return names for a message, cut to a readable length."""
    shown = [repr(name if len(name) <= width else name[: width - 1] + "…") for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
