"""CoLA, from the hub and in the file layout that it was published in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scorequeue.errors import InputError, UsageError
from training.hub import explain_hub
from training.sentences import LabelledSentences, Split

LABELS = ("unacceptable", "acceptable")
"""CoLA's meaning of 0 and 1."""

TRAIN_FILE = "in_domain_train.tsv"
DEV_FILE = "in_domain_dev.tsv"
COLUMNS = 4
"""Source, label, the original author's mark, sentence."""


def read_cola_folder(folder: Path) -> LabelledSentences:
    """Read a folder in CoLA's raw layout as it is: what is judged on it stays comparable with what others report.

    Raises:
        InputError: As `read_cola_file`.
    """
    return LabelledSentences(
        str(folder), LABELS, read_cola_file(folder / TRAIN_FILE), read_cola_file(folder / DEV_FILE)
    )


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


def load_cola() -> LabelledSentences:
    """Load CoLA from the hub, or from the cache of `datasets`.

    Raises:
        UsageError: The hub cannot be reached or does not give it out.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        parts = datasets.load_dataset("nyu-mll/glue", "cola")
    except Exception as error:  # datasets raises httpx's, the hub's, its own and OSError for the same unplugged cable
        raise UsageError(
            f"dataset cola cannot be had from the hub: {explain_hub(error)}; "
            f"or give a folder with {TRAIN_FILE} and {DEV_FILE}"
        ) from error
    train, dev = (
        to_split(zip(parts[name]["sentence"], parts[name]["label"], strict=True)) for name in ("train", "validation")
    )
    return LabelledSentences("cola", LABELS, train, dev)


def to_split(rows: Iterable[tuple[str, int]]) -> Split:
    """Pairs of text and index as a part of a dataset."""
    pairs = list(rows)
    return Split(tuple(text for text, _ in pairs), tuple(int(label) for _, label in pairs))
