"""pyarrow, which only parquet needs: imported at the first use, and one line where it is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from scorequeue.errors import MissingExtraError


def pyarrow() -> Any:
    """Return the module ``pyarrow``; raises MissingExtraError."""
    return _load("pyarrow")


def pyarrow_parquet() -> Any:
    """Return the module ``pyarrow.parquet``; raises MissingExtraError."""
    return _load("pyarrow.parquet")


_TEXTS = ("string", "large_string", "string_view")
_BYTES = ("binary", "large_binary", "binary_view")


def is_text(data_type: Any) -> bool:
    """Say whether a type holds texts, or the bytes of texts, as older writers have them."""
    return str(data_type) in (*_TEXTS, *_BYTES)


def plain(column: Any) -> Any:
    """Return a column without dictionaries and extension types around its values."""
    arrow = pyarrow()
    while True:
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif isinstance(column, arrow.ExtensionArray):
            column = column.storage
        else:
            return column


def texts(column: Any) -> list[str | None]:
    """Return the values of a text column; bytes that are no UTF-8 come out as lone surrogates."""
    arrow = pyarrow()
    if str(column.type) in _TEXTS:
        try:
            values: list[str | None] = column.to_pylist()
            return values
        except UnicodeDecodeError:  # parquet promises UTF-8, and nobody checks
            column = column.cast(arrow.binary())
    return [None if value is None else value.decode("utf-8", "scorequeue-mark") for value in column.to_pylist()]


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "pyarrow":
            raise
        raise MissingExtraError(
            'parquet needs pyarrow, which is not installed; run: pip install "scorequeue[parquet]"'
        ) from exc
