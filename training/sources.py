"""Labelled sentences by dataset name: the made sample, CoLA from the hub, or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import NamedTuple, TypeVar

from scorequeue.errors import UsageError
from training import sample
from training.cola import DEV_FILE, LABELS, TRAIN_FILE, load_cola, read_cola_folder, to_split
from training.file_dataset import load_files, number_labels, part, read_tables
from training.sentences import LabelledSentences, Split
from training.table_formats import SUFFIXES
from training.tables import concatenate

__all__ = ["DEV_FILE", "LABELS", "SPLITS", "TRAIN_FILE", "LabelledSentences", "Part", "Split", "load", "load_split"]

T = TypeVar("T", bound=Sized)

SPLITS = ("train", "dev", "test", "all")
"""What `load_split` gives: ``all`` is every row, in a single file its train and dev together."""

EXPECTED = (
    f"expected sample, cola, a file of sentences and labels ({', '.join(SUFFIXES)}), or a folder with train.csv (and "
    f"dev.csv, test.csv) or with {TRAIN_FILE} and {DEV_FILE}"
)


class Part(NamedTuple):
    """A part of a dataset to judge a version by, as `load_split` takes it.

    Attributes:
        dataset: Its name, file or folder.
        split: Which part.
        text_field: Column of the texts in files; None finds it by name.
        label_field: Column of the labels in files; None finds it by name.
    """

    dataset: str
    split: str = "dev"
    text_field: str | None = None
    label_field: str | None = None


def load(name: str, *, seed: int, text_field: str | None = None, label_field: str | None = None) -> LabelledSentences:
    """Load a dataset by name.

    Args:
        name: ``sample``, ``cola``, a file, a folder with a file per part, or a folder in CoLA's layout.
        seed: Seed of the made sentences; the others do not depend on it.
        text_field: Column of the texts in files; None finds it by name.
        label_field: Column of the labels in files; None finds it by name.

    Raises:
        UsageError: There is no such dataset, or the hub cannot be reached.
        InputError: A file is missing, empty or malformed; the message names file and line.
        MissingFieldError: A column is not there; the message names those that are.
    """
    if _is_in_files(name):
        return load_files(Path(name), text_field=text_field, label_field=label_field)
    dataset = _load_named(name, seed=seed)
    if text_field is not None or label_field is not None:
        raise UsageError(f"dataset {name} has its columns already; --text-field and --label-field are for files")
    return dataset


def load_split(
    name: str,
    split: str = "dev",
    *,
    seed: int,
    text_field: str | None = None,
    label_field: str | None = None,
    labels: Sequence[str] | None = None,
) -> Split:
    """Load one part of a dataset, the same rows as `load` gives.

    Args:
        name: As for `load`.
        split: One of `SPLITS`; ``validation`` is ``dev``.
        seed: As for `load`.
        text_field: As for `load`.
        label_field: As for `load`.
        labels: Label names of a version, by index: the part's labels get these indices. A file whose labels are
            whole numbers holds indices if these names are words. None takes the dataset's own.

    Raises:
        UsageError: There is no such dataset or part, or one of its labels is none of the version's.
        InputError: As for `load`.
        MissingFieldError: As for `load`.
    """
    split = "dev" if split == "validation" else split
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; expected {', '.join(SPLITS)}")
    if labels is None or not _is_in_files(name):
        dataset = load(name, seed=seed, text_field=text_field, label_field=label_field)
        chosen = _choose(name, split, {"train": dataset.train, "dev": dataset.dev, "test": dataset.test})
        indices = range(len(dataset.labels)) if labels is None else _match(dataset, labels)
        return Split(
            tuple(text for one in chosen for text in one.texts),
            tuple(indices[label] for one in chosen for label in one.labels),
            tuple(source for one in chosen for source in one.sources),
        )
    # Not through `load`: a file to judge a version by may hold a single label, or nothing to train on.
    tables = read_tables(Path(name), text_field=text_field, label_field=label_field)
    if split != "all":
        parts = part(tables)
        tables = {"train": parts.train, "dev": parts.dev, "test": parts.test}
    chosen = _choose(name, split, tables)
    return number_labels(concatenate(chosen), names=labels, where=Path(name))


def _choose(name: str, split: str, parts: Mapping[str, T | None]) -> list[T]:
    chosen = [rows for part, rows in parts.items() if split in (part, "all") and rows is not None]
    if not any(map(len, chosen)):
        there = [part for part, rows in parts.items() if rows is not None and len(rows)]
        raise UsageError(f"dataset {name} has no split {split}; it has {', '.join(there) or 'no rows'}")
    return chosen


def _match(dataset: LabelledSentences, labels: Sequence[str]) -> list[int]:
    """For each label of a dataset the index that a version gives it."""
    if set(dataset.labels) <= set(labels):
        return [labels.index(name) for name in dataset.labels]
    # The names that transformers gives to outputs without one, as most classifiers of the hub have: these are places.
    if len(labels) == len(dataset.labels) and all(name == f"LABEL_{place}" for place, name in enumerate(labels)):
        return list(range(len(labels)))
    raise UsageError(
        f"dataset {dataset.name} has the labels {', '.join(dataset.labels)}, the version has {', '.join(labels)}; "
        "choose a dataset with the version's labels"
    )


def _is_in_files(name: str) -> bool:
    """Whether a dataset is read from files with named columns."""
    path = Path(name)
    return name not in ("sample", "cola") and (path.is_file() or (path.is_dir() and not _is_cola_folder(path)))


def _is_cola_folder(path: Path) -> bool:
    return (path / TRAIN_FILE).is_file() or (path / DEV_FILE).is_file()


def _load_named(name: str, *, seed: int) -> LabelledSentences:
    if name == "sample":
        train, dev = sample.make(seed=seed)
        return LabelledSentences(name, LABELS, to_split(train), to_split(dev))
    if name == "cola":
        return load_cola()
    if _is_cola_folder(Path(name)):
        return read_cola_folder(Path(name))
    raise UsageError(f"no dataset {name!r}; {EXPECTED}")
