"""Labelled sentences by dataset name: the made sample, CoLA from the hub, or a folder in CoLA's file layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scorequeue.errors import InputError, UsageError
from training import sample

LABELS = ("unacceptable", "acceptable")
"""CoLA's meaning of 0 and 1."""

TRAIN_FILE = "in_domain_train.tsv"
DEV_FILE = "in_domain_dev.tsv"
COLUMNS = 4
"""Source, label, the original author's mark, sentence."""


@dataclass(frozen=True, slots=True)
class Split:
    """Sentences with their labels.

    Attributes:
        texts: The sentences.
        labels: For each sentence, the index of its label.
        sources: For each sentence, where the data says that it comes from; empty where it says nothing.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class LabelledSentences:
    """A dataset to fit on.

    Attributes:
        name: As the user named it.
        labels: Label names by index.
        train: What is learned from.
        dev: What is validated on.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    dev: Split

    def describe(self) -> dict[str, object]:
        """Name, rows and a fingerprint that changes with any text, label or their order."""
        digest = hashlib.sha256()
        for split in (self.train, self.dev):
            for text, label in zip(split.texts, split.labels, strict=True):
                digest.update(f"{label}\t{text}\n".encode())
            digest.update(b"\f")
        return {
            "name": self.name,
            "fingerprint": digest.hexdigest(),
            "train_rows": len(self.train),
            "dev_rows": len(self.dev),
        }


def load(name: str, *, seed: int) -> LabelledSentences:
    """Load a dataset by name.

    Args:
        name: ``sample``, ``cola``, or a folder with ``in_domain_train.tsv`` and ``in_domain_dev.tsv``.
        seed: Seed of the made sentences; the others do not depend on it.

    Raises:
        UsageError: There is no such dataset, or the hub cannot be reached.
        InputError: A file is missing, empty or malformed; the message names file and line.
    """
    if name == "sample":
        train, dev = sample.make(seed=seed)
        return LabelledSentences(name, LABELS, _to_split(train), _to_split(dev))
    if name == "cola":
        return _load_cola()
    folder = Path(name)
    if folder.is_dir():
        return LabelledSentences(name, LABELS, read_cola_file(folder / TRAIN_FILE), read_cola_file(folder / DEV_FILE))
    if folder.exists():
        raise InputError(f"{name} is a file; expected sample, cola or a folder with {TRAIN_FILE} and {DEV_FILE}")
    raise UsageError(f"no dataset {name!r}; expected sample, cola or a folder with {TRAIN_FILE} and {DEV_FILE}")


def read_cola_file(file: Path) -> Split:
    """Read CoLA's raw layout: source, label, mark and sentence, parted by tabs, without header or quoting.

    Raises:
        InputError: The file is missing, empty, not UTF-8, or a line is not as described.
    """
    try:
        content = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"{file} is missing; a dataset folder holds {TRAIN_FILE} and {DEV_FILE} (source, label, mark, sentence)"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    texts, labels, sources = [], [], []
    # Not str.splitlines: it would also part a sentence at rarer separators such as U+2028.
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line:
            continue
        fields = line.split("\t")
        if len(fields) != COLUMNS:
            raise InputError(
                f"{file}:{number} has {len(fields)} tab-separated columns, expected {COLUMNS}: "
                "source, label, mark, sentence"
            )
        if fields[1] not in ("0", "1"):
            raise InputError(f"{file}:{number} has the label {fields[1][:20]!r}, expected 0 or 1 in the second column")
        if not fields[3].strip():
            raise InputError(f"{file}:{number} has no sentence in the fourth column")
        texts.append(fields[3])
        labels.append(int(fields[1]))
        sources.append(fields[0])
    if not texts:
        raise InputError(f"{file} holds no sentence; expected lines of source, label, mark and sentence")
    return Split(tuple(texts), tuple(labels), tuple(sources))


def _load_cola() -> LabelledSentences:
    import datasets

    datasets.disable_progress_bars()
    try:
        cola = datasets.load_dataset("nyu-mll/glue", "cola")
    except Exception as error:  # datasets raises requests', httpx's, its own and OSError for the same unplugged cable
        raise UsageError(
            f"dataset cola cannot be fetched from the hub ({type(error).__name__}); check the network, "
            f"or give a folder with {TRAIN_FILE} and {DEV_FILE}"
        ) from error
    train, dev = (
        _to_split(zip(cola[part]["sentence"], cola[part]["label"], strict=True)) for part in ("train", "validation")
    )
    return LabelledSentences("cola", LABELS, train, dev)


def _to_split(rows: Iterable[tuple[str, int]]) -> Split:
    pairs: Sequence[tuple[str, int]] = list(rows)
    return Split(tuple(text for text, _ in pairs), tuple(int(label) for _, label in pairs))
