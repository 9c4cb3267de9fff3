"""What makes a text a row that can be scored, and what stands in its place when it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from scorequeue.jobs import ErrorCode, Row, RowError

MAX_ID_CHARACTERS = 1024
"""Longest id that is kept; ids travel twice, once with the text and once with the scores."""


class RowRules:
    """Turns texts into rows; a text that cannot be scored becomes a failed row in the same place.

    Args:
        max_text_bytes: Most UTF-8 bytes of a text.
    """

    def __init__(self, max_text_bytes: int) -> None:
        self.max_text_bytes = max_text_bytes

    def row(self, text: str, row_id: str | None = None, source: str | None = None, line: int | None = None) -> Row:
        """Return the text as a row, or as a failed row that says what is wrong with it."""
        error = self.text_fault(text)
        if row_id is not None and error is None:
            error = id_fault(row_id)
        if error is not None:
            return failed_row(error, row_id, source, line)
        return Row(text, row_id, source, line)

    def text_fault(self, text: str) -> RowError | None:
        """Say why a text cannot be scored; None when it can."""
        if text.isascii():
            size = len(text)
        else:
            try:
                size = len(text.encode())
            except UnicodeEncodeError as exc:
                return RowError(
                    ErrorCode.INVALID_UTF8,
                    f"character {exc.start + 1} is not valid Unicode; if the file is in another encoding, name it",
                )
        if size > self.max_text_bytes:
            return self.too_long(f"{size:,} bytes")
        if not text or text.isspace():
            return RowError(ErrorCode.EMPTY_TEXT, "expected a sentence, got nothing but blanks")
        return None

    def too_long(self, size: str) -> RowError:
        """Return the fault of a text that is larger than the limit."""
        limit = f"{self.max_text_bytes:,} bytes (SCOREQUEUE_MAX_TEXT_BYTES)"
        return RowError(ErrorCode.TEXT_TOO_LONG, f"expected at most {limit}, got {size}; cut the text")

    def from_python(self, values: Iterable[str | tuple[str, str] | Row]) -> Iterator[Row]:
        """Yield the rows of what a Python caller hands in: texts, ``(id, text)`` pairs or rows."""
        for value in values:
            if isinstance(value, str):
                yield self.row(value)
            elif isinstance(value, Row):
                yield value if value.error is not None else self._checked(*value[:4])
            elif isinstance(value, tuple) and len(value) == 2:
                yield self._checked(value[1], value[0])
            else:
                yield failed_row(wrong_type(value, "a text, an (id, text) pair or a Row"))

    def _checked(self, text: Any, row_id: Any, source: str | None = None, line: int | None = None) -> Row:
        row_id, error = id_from(row_id)
        if not isinstance(text, str):
            error = wrong_type(text, "a text")
        return self.row(text, row_id, source, line) if error is None else failed_row(error, row_id, source, line)


def failed_row(error: RowError, row_id: str | None = None, source: str | None = None, line: int | None = None) -> Row:
    """Return a row that keeps its place and ends as failed."""
    if row_id is not None and id_fault(row_id) is not None:
        row_id = None
    return Row("", row_id, source, line, error)


def id_from(value: Any) -> tuple[str | None, RowError | None]:
    """Read an id as callers write them: a text or a whole number; None stands for the row's position."""
    if value is None or isinstance(value, str):
        return value, None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), None
    if isinstance(value, float) and value.is_integer():
        return str(int(value)), None  # what pandas makes of whole numbers beside a null
    return None, wrong_type(value, "an id that is a text or a whole number")


def is_plain_id(row_id: str) -> bool:
    """Say, quickly, whether an id is fine; a no means that ``id_fault`` has to look."""
    return row_id.isascii() and len(row_id) <= MAX_ID_CHARACTERS


def id_fault(row_id: str) -> RowError | None:
    """Say why an id cannot be kept; None when it can."""
    if len(row_id) > MAX_ID_CHARACTERS:
        return RowError(
            ErrorCode.WRONG_TYPE, f"expected an id of at most {MAX_ID_CHARACTERS:,} characters, got {len(row_id):,}"
        )
    if not row_id.isascii():
        try:
            row_id.encode()
        except UnicodeEncodeError as exc:
            return RowError(ErrorCode.INVALID_UTF8, f"character {exc.start + 1} of the id is not valid Unicode")
    return None


def wrong_type(value: Any, expected: str) -> RowError:
    """Return the fault of a value of another type, named as JSON names it."""
    names = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object"}
    got = names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
    return RowError(ErrorCode.WRONG_TYPE, f"expected {expected}, got {got}")
