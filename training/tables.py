"""Files of sentences and labels: which columns they are in, and which rows can be used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorequeue.errors import InputError, MissingFieldError
from scorequeue.terminal import harmless
from training.table_formats import Fault, Record, read_records

TEXT_NAMES = ("text", "sentence")
LABEL_NAMES = ("label", "labels", "class")
SOURCE_NAME = "source"
NUMBERING = ("id", "custom_id", "idx", "")
"""Columns that number rows: none of them is taken for the texts. pandas writes one without a name."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file that can be used, and what became of the others.

    Attributes:
        texts: The sentences.
        labels: The label of each, as a name.
        sources: The source of each; all empty where there is no column ``source``.
        faults: Place (``in.csv:3``) and reason of each row that cannot be used.
        text_field: Column of the texts.
        label_field: Column of the labels.
    """

    texts: list[str]
    labels: list[str]
    sources: list[str]
    faults: list[str]
    text_field: str
    label_field: str

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: Iterable[int]) -> Table:
        """Some of the rows, in the order given; the faults stay."""
        places = list(places)
        texts, labels, sources = (
            [column[place] for place in places] for column in (self.texts, self.labels, self.sources)
        )
        return Table(texts, labels, sources, self.faults, self.text_field, self.label_field)


def concatenate(tables: Sequence[Table]) -> Table:
    """The rows of one or more tables below each other, with the columns' names of the first."""
    texts, labels, sources, faults = (
        [value for table in tables for value in getattr(table, column)]
        for column in ("texts", "labels", "sources", "faults")
    )
    return Table(texts, labels, sources, faults, tables[0].text_field, tables[0].label_field)


def read_table(file: Path, *, text_field: str | None = None, label_field: str | None = None) -> Table:
    """Read a file of labelled sentences.

    Args:
        file: One whose name ends with one of `SUFFIXES`.
        text_field: Column of the texts; None takes ``text``, ``sentence`` or the only column that is left.
        label_field: Column of the labels; None takes ``label``, ``labels``, ``class``, or of two the other one.

    Raises:
        InputError: The file cannot be read, is not of its format, or holds no row.
        MissingFieldError: A column is not there.
    """
    columns, records = read_records(file)
    text_field, label_field = choose_fields(file, columns, text_field=text_field, label_field=label_field)
    table = Table([], [], [], [], text_field, label_field)
    for place, record in records:
        try:
            text, label, source = _read_row(record, text_field=text_field, label_field=label_field)
        except Fault as fault:
            table.faults.append(f"{file}:{place} {fault}")
            continue
        table.texts.append(text)
        table.labels.append(label)
        table.sources.append(source)
    if not table.texts and not table.faults:
        raise InputError(f"{file} holds no row; expected columns {text_field} and {label_field} and rows below")
    return table


def choose_fields(
    file: Path, columns: Sequence[str], *, text_field: str | None, label_field: str | None
) -> tuple[str, str]:
    """Find the columns of texts and labels among a file's columns.

    Raises:
        MissingFieldError: One is not there or cannot be told; the message names the columns that are.
    """
    found = f"found {', '.join(map(repr, columns)) or 'none'}"
    for name, option in ((text_field, "--text-field"), (label_field, "--label-field")):
        if name is not None and name not in columns:
            raise MissingFieldError(f"{file} has no column {name!r} ({option}); {found}")
    label = label_field or next((name for name in LABEL_NAMES if name in columns and name != text_field), None)
    rest = [name for name in dict.fromkeys(columns) if name not in (label, SOURCE_NAME, *NUMBERING, *LABEL_NAMES)]
    text = text_field or next((name for name in TEXT_NAMES if name in rest), None)
    if text is None and label is not None and len(rest) == 1:
        text = rest[0]
    if label is None and text is not None and len(rest) == 2:
        label = next(name for name in rest if name != text)
    if text is None:
        raise MissingFieldError(
            f"{file}: no column tells that it holds the texts ({', '.join(TEXT_NAMES)} or the only other one); "
            f"{found}; name it with --text-field"
        )
    if label is None:
        raise MissingFieldError(
            f"{file}: no column tells that it holds the labels ({', '.join(LABEL_NAMES)} or the only other one); "
            f"{found}; name it with --label-field"
        )
    if text == label:
        raise MissingFieldError(f"{file}: column {text!r} cannot hold both texts and labels; {found}")
    if twice := [name for name in (text, label) if columns.count(name) > 1]:
        raise InputError(f"{file} has two columns {twice[0]!r}; rename one of them")
    return text, label


def _read_row(record: Record, *, text_field: str, label_field: str) -> tuple[str, str, str]:
    if isinstance(record, Fault):
        raise record
    text = record.get(text_field)
    if text is None or text == "":
        raise Fault("has no text")
    if not isinstance(text, str):
        raise Fault(f"has a text that is of type {type(text).__name__}")
    if not text.strip():
        raise Fault("has an empty text")
    label = _read_label(record.get(label_field))
    source = "" if (value := record.get(SOURCE_NAME)) is None else str(value)
    for what, content in (("text", text), ("label", label), ("source", source)):
        try:
            content.encode()
        except UnicodeEncodeError:  # jsonl can write half of a surrogate pair: no tokenizer takes it, no file neither
            raise Fault(f"has a {what} that is not Unicode") from None
    if harmless(label) != label:  # it would go into messages, reports and the columns of results
        raise Fault("has a label with control characters")
    return text, label, source


def _read_label(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if value.is_integer():  # pandas makes floats of whole numbers beside an empty cell
            return str(int(value))
        case float() if not math.isnan(value):
            raise Fault(f"has the label {value}; labels are names or whole numbers")
        case str() if value.strip():
            return value.strip()
        case None | float() | str():
            raise Fault("has no label")
    raise Fault(f"has a label that is of type {type(value).__name__}")
