"""csv and tsv: one record per row, columns by name or number."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from producer.readers.base import ID_NAMES, TEXT_NAMES, Reader, Record, missing_field, new_row, pick_field
from producer.readers.options import ReaderOptions
from producer.readers.streams import MAX_LINE_CHARACTERS, ByteSource
from producer.rows import failed_row, is_plain_id
from scorequeue.errors import InputError
from scorequeue.jobs import FIRST_ROW, ErrorCode, Row, RowError

_LINE_COST = 64
"""Characters that each line of a record counts for beside its own: about what keeping it costs in memory."""

_LEAST_SEARCH = 16 * 1024
_WASTED_SEARCH = 8 * MAX_LINE_CHARACTERS
"""Characters of a file that may be read for nothing in looking for closing quotes. From then on each record gets the
least search, so that a file of broken quotes takes time in proportion to its size."""


class DelimitedReader(Reader):
    """The first record names the columns unless ``has_header`` is off; every other one is a row of as many fields."""

    row_kind = "line beside the header and blank lines"
    delimiter: str

    def __init__(self, source: ByteSource, options: ReaderOptions, *, name: str | None = None) -> None:
        super().__init__(source, options, name=name)
        self.delimiter = options.delimiter or self.delimiter
        self._columns: list[str] | None = None
        self._width = 0
        self._text_index = 0
        self._id_index: int | None = None

    @property
    def columns(self) -> Sequence[str] | None:
        """The header, as it stands in the input; None without one."""
        return self._columns

    @property
    def shape(self) -> tuple[Any, ...]:
        """Without a header, the number of fields."""
        return (*super().shape, self._width)

    def _learn_columns(self, fields: list[str]) -> bool:
        """Find the columns in the first record; say whether it was a header."""
        options = self.options
        advice = "NAME or NUMBER (and --no-header if the first line is no header)" if options.has_header else "NUMBER"
        names = [field.strip() for field in fields] if options.has_header else [str(n + 1) for n in range(len(fields))]
        if not options.has_header and options.text_field is None and len(fields) > 1:
            raise missing_field(
                names, expected="--text-field NUMBER with --no-header", what="text", where=self.where, advice=advice
            )
        text = pick_field(
            names, wanted=options.text_field, usual=TEXT_NAMES, what="text", where=self.where, advice=advice
        )
        if text is None and len(names) == 1:
            other = next(
                (mark for mark in ";\t|," if mark != self.delimiter and self._may_divide(mark, fields[0])), None
            )
            if other is not None:
                # Taken for one column, whole records would be scored as sentences, without a word.
                what = "header" if options.has_header else "first line"
                raise InputError(
                    f"{self.where}: expected fields between {self.delimiter!r}, got a {what} with {other!r} in it:"
                    f" {fields[0].strip()[:60]!r}; say --delimiter, or --text-field 1 if it is one column"
                )
            text = 0
        if text is None:
            expected = "a column text or sentence, or one column"
            raise missing_field(names, expected=expected, what="text", where=self.where, advice=advice)
        usual_ids = ID_NAMES if options.has_header else ()
        self._id_index = pick_field(
            names, wanted=options.id_field, usual=usual_ids, what="id", where=self.where, advice=advice
        )
        self._text_index = text
        self.text_field = names[text]
        self.id_field = None if self._id_index is None else names[self._id_index]
        self._width = len(fields)
        self._columns = fields if options.has_header else None
        return options.has_header

    def _may_divide(self, mark: str, line: str) -> bool:
        """Say whether a mark looks like a delimiter; before a blank, in a sentence, it is punctuation."""
        if self.options.has_header:
            return mark in line
        return any(part[:1].strip() for part in line.split(mark)[1:])

    def _shown(self, field: str) -> str:
        return super()._shown(field) if self.options.has_header else field

    def _row(self, fields: list[str], number: int) -> Row:
        """Return the row of a record that was not plainly good."""
        if not any(field.strip() for field in fields) and len(fields) <= 1:
            return self.rules.row("", None, self.name, number)
        if len(fields) != self._width:
            kind = "comma" if self.delimiter == "," else "tab" if self.delimiter == "\t" else repr(self.delimiter)
            message = f"expected {self._width} {kind}-separated fields, got {len(fields)}"
            return failed_row(RowError(ErrorCode.INVALID_CSV, message), None, self.name, number)
        row_id = None if self._id_index is None else fields[self._id_index] or None
        return self.rules.row(fields[self._text_index], row_id, self.name, number)


class TsvReader(DelimitedReader):
    """Fields lie between tabs, without quoting: a quote is a quote."""

    input_format = "tsv"
    delimiter = "\t"

    def _records(self) -> Iterator[tuple[Row, Record]]:
        name, most, delimiter = self.name, self.rules.max_text_bytes, self.delimiter
        blocks = self._line_blocks()
        start = next(blocks, None)
        if start is None:
            return
        first, lines = start
        if self._learn_columns(lines[0].split(delimiter)):
            blocks = chain([(first + 1, lines[1:])], blocks)
        else:
            blocks = chain([start], blocks)
        width, text_index, id_index = self._width, self._text_index, self._id_index
        for first, lines in blocks:
            for number, line in enumerate(lines, first):
                fields = line.split(delimiter)
                if len(fields) == width:
                    text = fields[text_index]
                    row_id = None if id_index is None else fields[id_index] or None
                    if (
                        text.isascii()
                        and 0 < len(text) <= most
                        and not text.isspace()
                        and (row_id is None or is_plain_id(row_id))
                    ):
                        yield new_row(Row, (text, row_id, name, number, None)), fields
                        continue
                yield self._overlong(line, number) or self._row(fields, number), fields


class CsvReader(DelimitedReader):
    """RFC 4180: a field in quotes may hold delimiters, quotes (doubled) and newlines.

    Looser than the RFC in one point: a quote inside a field that does not begin with one is a character like others.

    A record that breaks the rules, or a quote that is never closed, costs its first line only: that line is a failed
    row and reading goes on with the next one, so that a forgotten quote does not swallow the rest of the file.
    """

    input_format = "csv"
    delimiter = ","

    def _records(self) -> Iterator[tuple[Row, Record]]:
        name, most, number = self.name, self.rules.max_text_bytes, FIRST_ROW
        # Only the text's length makes a fault; how long a record may be is decided in _feed.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARACTERS))
        lines = chain.from_iterable(lines for _, lines in self._line_blocks(keep_cr=True))
        again: deque[str] = deque()
        taken: list[str] = []
        has_columns = False
        wasted = 0
        while True:
            room = max(_LEAST_SEARCH, min(MAX_LINE_CHARACTERS, _WASTED_SEARCH - wasted))
            parser = csv.reader(_feed(lines, again, taken, room), delimiter=self.delimiter, strict=True)
            try:
                for fields in parser:
                    start = number
                    number += len(taken)
                    taken.clear()
                    if not has_columns:
                        if not fields:
                            continue
                        has_columns = True
                        if self._learn_columns(fields):
                            continue
                    if len(fields) == self._width:
                        text = fields[self._text_index]
                        row_id = None if self._id_index is None else fields[self._id_index] or None
                        if (
                            text.isascii()
                            and 0 < len(text) <= most
                            and not text.isspace()
                            and (row_id is None or is_plain_id(row_id))
                        ):
                            yield new_row(Row, (text, row_id, name, start, None)), fields
                            continue
                    yield self._row(fields, start), fields
                return
            except csv.Error as exc:
                if not has_columns and self.options.has_header:
                    # Reading on would take the first sentence for the header, and lose it.
                    why = self._fault(exc, taken).message
                    raise InputError(
                        f"{self.where}, line {number}: the header cannot be read as csv: {why}; correct it"
                    ) from exc
                yield (
                    failed_row(self._fault(exc, taken), None, name, number),
                    self._as_text(taken[0].removesuffix("\r")),
                )
                again.extendleft(reversed(taken[1:]))
                wasted += sum(len(line) + _LINE_COST for line in taken[1:])
                taken.clear()
                number += 1

    def _as_text(self, line: str) -> Record:
        """Return the record of a line that has no fields: the line, in the text's column."""
        after = self._width - self._text_index - 1
        return [*[""] * self._text_index, line, *[""] * after]

    def _fault(self, exc: csv.Error, taken: Sequence[str]) -> RowError:
        """Say what is wrong with a record that began with the first of the lines taken."""
        reason = str(exc)
        if len(taken[0]) >= MAX_LINE_CHARACTERS:
            return self.rules.too_long(f"a line of over {MAX_LINE_CHARACTERS:,} characters")
        if isinstance(exc, _TooFarError):
            reason = f"a quote is opened and not closed in the {len(taken) - 1:,} lines after it, which is too far"
        elif "end of data" in reason:
            reason = "a quote is opened and never closed"
        elif "expected after" in reason:
            reason = f"expected {self.delimiter!r} or the line's end after a closing quote (a quote inside is two)"
        elif "new-line" in reason:
            reason = "a carriage return stands outside of quotes"
        return RowError(ErrorCode.INVALID_CSV, reason)


class _TooFarError(csv.Error):
    """A record has no end within what is kept of it."""


def _feed(lines: Iterator[str], again: deque[str], taken: list[str], room: int) -> Iterator[str]:
    """Hand lines to the parser, those to be read again first, and note what it took.

    Raises:
        _TooFarError: A record of several lines takes more than ``room``, or a line was cut because it is too long.
    """
    size, most = 0, MAX_LINE_CHARACTERS
    while True:
        if again:
            line = again.popleft()
        else:
            line = next(lines, None)  # type: ignore[assignment]
            if line is None:
                return
        if taken:
            size += len(line) + _LINE_COST
            taken.append(line)
            if size > room:
                raise _TooFarError
        else:
            size = len(line)
            taken.append(line)
            if size >= most:
                raise _TooFarError
        yield line + "\n"
