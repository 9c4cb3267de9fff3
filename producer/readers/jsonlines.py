"""jsonl: one JSON object per line; and files called .json, which may be that or one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from producer.readers.base import ID_NAMES, TEXT_NAMES, Reader, Record, listed, missing_field, new_row
from producer.readers.options import ReaderOptions
from producer.readers.streams import ByteSource
from producer.rows import failed_row, id_from, is_plain_id, wrong_type
from scorequeue.errors import InputError
from scorequeue.jobs import ErrorCode, Row, RowError


class JsonLinesReader(Reader):
    """Each line is an object with a text field; the first object decides which field that is."""

    input_format = "jsonl"

    def __init__(self, source: ByteSource, options: ReaderOptions, *, name: str | None = None) -> None:
        super().__init__(source, options, name=name)
        self._text_name = options.text_field
        self._id_names = (options.id_field,) if options.id_field else ID_NAMES
        self._is_settled = False

    @property
    def description(self) -> str:
        """Later objects may have an id, though the first has none."""
        found = super().description
        if self.text_field is None or self.id_field is not None:
            return found
        return f"{found}, id field {' or '.join(map(self._shown, ID_NAMES))} where an object has one"

    def _records(self) -> Iterator[tuple[Row, Record]]:
        name, most, decode = self.name, self.rules.max_text_bytes, json.JSONDecoder().decode
        for first, lines in self._line_blocks():
            for number, line in enumerate(lines, first):
                try:
                    value = decode(line)
                except (ValueError, RecursionError) as exc:
                    yield self._overlong(line, number) or self._unreadable(line, number, exc), [line, None]
                    continue
                if type(value) is dict:
                    if not self._is_settled:
                        self._settle(value)
                    text = value.get(str(self._text_name))
                    row_id = self._id(value)
                    if type(row_id) is int:
                        row_id = str(row_id)
                    elif row_id == "":
                        row_id = None
                    if (
                        type(text) is str
                        and (row_id is None or (type(row_id) is str and is_plain_id(row_id)))
                        and text.isascii()
                        and 0 < len(text) <= most
                        and not text.isspace()
                    ):
                        yield new_row(Row, (text, row_id, name, number, None)), [line, value]
                        continue
                    yield self._row(value, row_id, number), [line, value]
                else:
                    fault = wrong_type(value, 'an object like {"text": "..."}')
                    yield failed_row(fault, None, name, number), [line, None]

    def _settle(self, value: dict[str, Any]) -> None:
        """Find the fields in the first object."""
        self._is_settled = True
        names = list(value)
        if self._text_name is None:
            self._text_name = next((name for name in TEXT_NAMES if name in value), None)
        if self._text_name is None and len(names) == 1:
            self._text_name = names[0]
        if self._text_name is None:
            raise missing_field(
                names, expected="a field text or sentence, or one field", what="text", where=self.where, advice="NAME"
            )
        for wanted, what in ((self.options.text_field, "text"), (self.options.id_field, "id")):
            if wanted is not None and wanted not in value:
                raise missing_field(
                    names, expected=f"a {what} field {wanted!r}", what=what, where=self.where, advice="NAME"
                )
        self.text_field = self._text_name

    def _id(self, value: dict[str, Any]) -> Any:
        for name in self._id_names:
            if name in value:
                self.id_field = self.id_field or name
                return value[name]
        return None

    def _row(self, value: dict[str, Any], raw_id: Any, number: int) -> Row:
        """Return the row of an object that was not plainly good."""
        row_id, fault = id_from(raw_id)
        if self.options.id_field is None:
            fault = None  # nobody said that this is the id
        if fault is None and self._text_name not in value:
            message = f"expected a field {self._text_name!r}, got {listed(list(value)) or 'none'}"
            fault = RowError(ErrorCode.MISSING_FIELD, message)
        text = value.get(str(self._text_name))
        if fault is None and not isinstance(text, str):
            fault = wrong_type(text, "a text")
        if fault is not None:
            return failed_row(fault, row_id, self.name, number)
        return self.rules.row(str(text), row_id, self.name, number)

    def _unreadable(self, line: str, number: int, exc: ValueError | RecursionError) -> Row:
        """Return the failed row of a line that is no JSON."""
        if not line.strip():
            return self.rules.row("", None, self.name, number)
        fault = self.rules.text_fault(line)
        if fault is None or fault.code is not ErrorCode.INVALID_UTF8:
            if isinstance(exc, json.JSONDecodeError):
                reason = f"{exc.msg} at character {exc.pos + 1}"
            else:
                reason = "it is nested too deep" if isinstance(exc, RecursionError) else str(exc)
            fault = RowError(ErrorCode.INVALID_JSON, f"expected a JSON object: {reason}")
        return failed_row(fault, None, self.name, number)


class JsonFileReader(JsonLinesReader):
    """A file called .json: JSON lines are read as such, any other JSON is refused with what to do."""

    def _records(self) -> Iterator[tuple[Row, Record]]:
        """Look at the first line, before it costs a file of failed rows."""
        start = self.source.peek().lstrip()
        if start.startswith("["):
            parts = ".[] | {text: .}" if start[1:].lstrip().startswith('"') else ".[]"
            raise InputError(
                f"{self.where}: expected one JSON object a line, got a JSON array; make lines of it:"
                f" jq -c '{parts}' IN.json > OUT.jsonl"
            )
        if start and not start.startswith("{"):
            raise InputError(
                f"{self.where}: expected one JSON object a line, got {start[:20]!r}; say --input-format if it is"
                " something else"
            )
        line, _, rest = start.partition("\n")
        if rest and not _is_json(line):
            raise InputError(
                f"{self.where}: expected one JSON object a line, got an object over several lines (or a damaged first"
                " line); make lines of it: jq -c . IN.json > OUT.jsonl, or say --input-format jsonl"
            )
        return super()._records()


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
