"""Whether results can be joined to inputs, and in which columns: known before a row is uploaded.

csv, tsv, txt and parquet bring their columns with them. JSON objects have none: where they become a table, they are
read once beforehand, and every field that occurs in one of them becomes a column. So no field is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from producer.inputs import Inputs
from producer.join import check_same_columns
from producer.readers import Reader
from producer.readers.jsonlines import JsonLinesReader
from scorequeue.errors import InputError

PRED_COLUMNS = ("pred_label", "pred_score", "pred_error")
"""What a join adds to the input's own columns."""

NO_OBJECT = "input"
"""Field that takes a line which holds no JSON object."""

TABLES = ("csv", "tsv", "parquet")
"""Output formats in which every row has the same columns."""

MOST_COLUMNS = 1000
"""A jsonl input of more different fields keeps data in its field names; a table would have nothing but holes."""

_INT, _LONG, _HUGE, _FLOAT, _BOOL, _TEXT, _OTHER = (1 << n for n in range(7))
_PLAIN = {type(None): 0, str: _TEXT, bool: _BOOL, float: _FLOAT}
_EXACT_IN_FLOAT = 2**53
_LONGEST = 2**63


class Kind(StrEnum):
    """What the values of a column are; ``text`` where they are of several kinds, or lists and objects."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Column:
    """A field of JSON objects as a column.

    Attributes:
        name: The field's name.
        kind: What its values are, beside nulls.
    """

    name: str
    kind: Kind = Kind.TEXT


def check_join(inputs: Inputs, output_format: str) -> tuple[Column, ...] | None:
    """Check that results in a format can be joined to inputs.

    Args:
        inputs: The inputs; jsonl is read once more for it, from the start to the end.
        output_format: ``jsonl``, ``csv``, ``tsv`` or ``parquet``; a ``table`` for eyes takes any input.

    Returns:
        The columns of jsonl inputs that become a table, in the order in which the fields first occur; None elsewhere.

    Raises:
        InputError: The inputs have different columns or a column of our names already; jsonl has too many fields, or
            can be read only once.
    """
    if output_format == "table":
        return None
    first = inputs.readers[0]
    for reader in inputs.readers:
        check_same_columns(first, reader)
        check_names(reader.columns or (), where=reader.where, what="column")
    if not isinstance(first, JsonLinesReader):
        return None
    if output_format in TABLES:
        return _columns(inputs.fresh_readers())
    for reader in inputs.fresh_readers():
        _check_fields(reader)
    return None


def check_names(names: Iterable[str], *, where: str, what: str) -> None:
    """Refuse an input that has what a join would add; raises InputError.

    Args:
        names: Names of its columns, or of an object's fields.
        where: The place, for the message.
        what: ``column`` or ``field``, for the message.
    """
    for name in names:
        if name in PRED_COLUMNS:
            raise InputError(f"{where}: expected no {what} {name} to join results to; rename or drop it")


def _columns(readers: Iterable[Reader]) -> tuple[Column, ...]:
    """Return a column for every field of the objects of all inputs."""
    kinds: dict[str, int] = {}
    for reader in readers:
        for row, (_, value) in reader.records():
            if value is None:
                kinds[NO_OBJECT] = kinds.get(NO_OBJECT, 0) | _TEXT
                continue
            for name, item in value.items():
                if name in kinds:
                    kinds[name] |= _kind(item)
                    continue
                check_names([name], where=f"{reader.where}, line {row.line}", what="field")
                if len(kinds) == MOST_COLUMNS:
                    raise InputError(
                        f"{reader.where}, line {row.line}: expected objects of at most {MOST_COLUMNS:,} different"
                        f" fields to make a table of, got one more: {name[:60]!r}; say --format jsonl"
                    )
                kinds[name] = _kind(item)
    return tuple(Column(name, _common(kind)) for name, kind in kinds.items())


def _check_fields(reader: Reader) -> None:
    """Look for fields of our names in jsonl; only the lines that may have one are parsed."""
    if not isinstance(reader, JsonLinesReader):
        return
    number = 0
    for lines in reader.source.line_blocks():
        if '"pred_' in "\n".join(lines):
            for at, line in enumerate(lines, number + 1):
                if '"pred_' in line:
                    check_names(_fields(line), where=f"{reader.where}, line {at}", what="field")
        number += len(lines)


def _fields(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _kind(value: Any) -> int:
    plain = _PLAIN.get(type(value))
    if plain is not None:
        return plain
    if type(value) is not int:
        return _OTHER
    return _INT if abs(value) <= _EXACT_IN_FLOAT else _LONG if abs(value) < _LONGEST else _HUGE


def _common(kinds: int) -> Kind:
    """Return the kind that holds values of all these kinds without a loss."""
    if kinds and not kinds & ~(_INT | _LONG):
        return Kind.INTEGER
    if kinds and not kinds & ~(_INT | _FLOAT):
        return Kind.NUMBER
    return Kind.BOOLEAN if kinds == _BOOL else Kind.TEXT
