"""A dataset in files: a file that is split here, or a folder with a file per part."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scorequeue.errors import InputError
from scorequeue.logs import fields
from training.sentences import LabelledSentences, Split
from training.splitting import count_contradictions, find_leaks, is_for_dev, is_whole, order_labels
from training.table_formats import SUFFIXES
from training.tables import Table, read_table

log = logging.getLogger(__name__)

PART_NAMES = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}
"""How the file of each part may be called, before its suffix."""

MAX_FAULTY_SHARE = 0.05
"""A file with more rows that cannot be used is read wrongly rather than a little dirty."""

SHOWN = 3
"""Faulty rows that a message names."""

FEW_LABELS = 20
"""Up to so many labels nobody asks whether it is the right column."""

ROWS_PER_LABEL = 4
"""Above ``FEW_LABELS``, fewer rows than that for each label look like ids or texts, not like labels."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The tables of a dataset, split and without leaks; None where there is no such part.

    Attributes:
        train: What is learned from.
        dev: What is validated on.
        test: What is kept aside.
        left_out: Rows that were not taken, by reason.
    """

    train: Table | None
    dev: Table | None
    test: Table | None
    left_out: dict[str, int]


def load_files(path: Path, *, text_field: str | None = None, label_field: str | None = None) -> LabelledSentences:
    """Load a file, or a folder with ``train.*`` and perhaps ``dev.*`` (``validation.*``) and ``test.*``.

    Args:
        path: The file or folder.
        text_field: Column of the texts; None finds it by name.
        label_field: Column of the labels; None finds it by name.

    Raises:
        InputError: A file cannot be read, too many rows are faulty, or the labels do not fit.
        MissingFieldError: A column is not there.
    """
    parts = part(read_tables(path, text_field=text_field, label_field=label_field))
    train, dev = parts.train, parts.dev
    if not train or dev is None:
        raise InputError(f"{path} has nothing to train on; expected rows in a file train.csv, .tsv, .jsonl or .parquet")
    names = _check_labels(path, train)
    if not dev:
        raise InputError(
            f"{path} has {len(train)} rows and none of them falls into dev (a tenth, by a hash of the text); "
            "add rows, or give a folder with train.csv and dev.csv"
        )
    return LabelledSentences(
        str(path),
        names,
        number_labels(train, names=names, where=path),
        number_labels(dev, names=names, where=path),
        None if parts.test is None else number_labels(parts.test, names=names, where=path),
        fields={"text": train.text_field, "label": train.label_field},
        left_out=parts.left_out,
    )


def read_tables(path: Path, *, text_field: str | None = None, label_field: str | None = None) -> dict[str, Table]:
    """Read the file of each part as it is; a single file is all of ``train``.

    Raises:
        InputError: There is no file of a known name, one cannot be read, or too many of its rows are faulty.
        MissingFieldError: A column is not there.
    """
    tables = {}
    for name, file in find_files(path).items():
        tables[name] = table = read_table(file, text_field=text_field, label_field=label_field)
        _check_faults(file, table)
    doubtful = count_contradictions(
        [text for table in tables.values() for text in table.texts],
        [label for table in tables.values() for label in table.labels],
    )
    if doubtful:
        # Which label is right is not for us to say. Kept in train they teach how sure one can be.
        _warn(f"{doubtful} texts come with two labels or more; all are kept", texts=doubtful)
    return tables


def part(tables: dict[str, Table]) -> Parts:
    """Split what the files do not split, and take out of train what is judged on."""
    train, dev, test = (tables.get(name) for name in PART_NAMES)
    left_out = {"faulty": sum(len(table.faults) for table in tables.values())}
    if train is not None and dev is None:
        sides = [is_for_dev(text) for text in train.texts]
        dev = train.take(place for place, side in enumerate(sides) if side)
        train = train.take(place for place, side in enumerate(sides) if not side)
        # A label of one row may fall into dev alone: nothing learns it, so nothing can be judged on it.
        learned = set(train.labels)
        known = [place for place, label in enumerate(dev.labels) if label in learned]
        left_out["label_not_in_train"] = rare = len(dev) - len(known)
        if rare:
            _warn(f"{rare} rows left out of dev: train has no row of their label", rows=rare)
            dev = dev.take(known)
    if train is not None:
        held_out = [text for table in (dev, test) if table is not None for text in table.texts]
        leaks = find_leaks(train.texts, held_out)
        left_out["leaked"] = len(leaks)
        if leaks:
            _warn(f"{len(leaks)} rows left out of train: their texts are in dev or test too", rows=len(leaks))
            train = train.take(place for place in range(len(train)) if place not in leaks)
    return Parts(train, dev, test, {reason: rows for reason, rows in left_out.items() if rows})


def find_files(path: Path) -> dict[str, Path]:
    """The file of each part; a single file is all of train.

    Raises:
        InputError: There is none, or two files of a part.
    """
    if not path.is_dir():
        return {"train": path}
    found: dict[str, Path] = {}
    for name, stems in PART_NAMES.items():
        files = sorted(path / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
        files = [file for file in files if file.is_file()]
        if len(files) > 1:
            raise InputError(f"{path} has two files of {name}, {files[0].name} and {files[1].name}; keep one of them")
        if files:
            found[name] = files[0]
    if not found:
        raise InputError(
            f"{path} holds no dataset; expected train.csv (or .tsv, .jsonl, .parquet) and perhaps dev.csv and "
            "test.csv, or in_domain_train.tsv and in_domain_dev.tsv"
        )
    return found


def number_labels(table: Table, *, names: Sequence[str], where: Path) -> Split:
    """A table as a part of a dataset, labels as their places among the names.

    Names that are all whole numbers are places themselves where the given names are words: a file of 0 and 1 fits a
    version that calls them unacceptable and acceptable.

    Raises:
        InputError: A label is none of the names.
    """
    index = {name: place for place, name in enumerate(names)}
    if not any(is_whole(name) for name in names) and not any(label in index for label in set(table.labels)):
        index = {str(place): place for place in range(len(names))}
    if unknown := order_labels(set(table.labels) - index.keys()):
        raise InputError(
            f"{where} has rows with the label {_listed(unknown)}; expected one of {_listed(names)}: "
            "labels must be written alike everywhere"
        )
    sources = tuple(table.sources) if any(table.sources) else ()
    return Split(tuple(table.texts), tuple(index[label] for label in table.labels), sources)


def _check_labels(path: Path, train: Table) -> tuple[str, ...]:
    names = order_labels(train.labels)
    if len(names) < 2:
        raise InputError(f"{path} has only the label {names[0]!r} in train; 2 or more labels are needed")
    if len(names) > FEW_LABELS and len(names) * ROWS_PER_LABEL > len(train):
        raise InputError(
            f"{path} has {len(names)} different labels in {len(train)} rows of column {train.label_field!r}, which "
            "looks like no label; name the column with --label-field"
        )
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(name)
    if doubles := [group for group in alike.values() if len(group) > 1]:
        listed = "; ".join(", ".join(map(repr, group)) for group in doubles[:SHOWN])
        _warn(f"labels differ only in case or spaces, and are learned as different ones: {listed}", labels=len(doubles))
    return names


def _check_faults(file: Path, table: Table) -> None:
    count = len(table.faults)
    if not count:
        return
    first = "; ".join(table.faults[:SHOWN]) + ("; ..." if count > SHOWN else "")
    total = count + len(table)
    if count > MAX_FAULTY_SHARE * total:
        raise InputError(
            f"{count} of {total} rows of {file} cannot be used, more than the {MAX_FAULTY_SHARE:.0%} that may be left "
            f"out: {first}"
        )
    _warn(f"{count} of {total} rows left out: {first}", rows=count)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _warn(message: str, **facts: int) -> None:
    log.warning(message, extra=fields("dataset", **facts))
