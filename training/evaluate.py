"""How well a checkpoint does on labelled sentences: its scores, and the figures that sum them up."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scorequeue.errors import VerificationError
from training.figures import Figures, Scores, Slice, measure, measure_sources
from training.predict import Predictor
from training.sources import Part, Split, load_split

__all__ = [
    "ROWS_FILE",
    "Evaluation",
    "Figures",
    "Scores",
    "cap_rows",
    "evaluate",
    "load_rows",
    "measure",
    "read_rows",
    "write_rows",
]

ROWS_FILE = "evaluation.jsonl"
"""The rows that a version was judged on, in its folder: the gate and ``diff`` score others on the same ones."""

MOST_ROWS = 20_000
"""Rows that a version keeps: 3 MB of sentences, and an interval of the correlation no wider than 0.03."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Labelled rows, what a checkpoint says of them, and how good that is.

    Attributes:
        labels: Label names by index.
        rows: Texts, label indices and sources.
        scores: (rows, labels) float32, in the order of the rows.
        figures: The sums.
    """

    labels: tuple[str, ...]
    rows: Split
    scores: Scores
    figures: Figures

    def slices(self) -> tuple[Slice, ...]:
        """The figures of each source; none where the data names no sources."""
        return measure_sources(self.scores, np.asarray(self.rows.labels), self.rows.sources)


def evaluate(predictor: Predictor, rows: Split, *, told: Callable[[int], None] | None = None) -> Evaluation:
    """Score labelled rows in float32 and sum up how well that went.

    Args:
        predictor: The checkpoint.
        rows: What it is judged by.
        told: Is told how many rows are scored, now and then.

    Raises:
        VerificationError: A score is not a finite number.
    """
    scores = predictor.score(rows.texts, told=told).numpy()
    return Evaluation(predictor.labels, rows, scores, measure(scores, np.asarray(rows.labels)))


def cap_rows(rows: Split, *, most: int = MOST_ROWS) -> Split:
    """At most so many rows, in their order: chosen by a hash of the text, so much the same ones as a dataset grows."""
    if len(rows) <= most:
        return rows
    kept = sorted(heapq.nsmallest(most, range(len(rows)), key=lambda row: _digest(rows.texts[row])))
    return Split(
        tuple(rows.texts[row] for row in kept),
        tuple(rows.labels[row] for row in kept),
        tuple(rows.sources[row] for row in kept) if rows.sources else (),
    )


def load_rows(part: Part, *, labels: tuple[str, ...]) -> Split:
    """The rows of a dataset's part to judge a version by, at most so many as a version keeps.

    Args:
        part: Which.
        labels: The version's label names, by index.

    Raises:
        UsageError: There is no such dataset or part, or one of its labels is none of the version's.
        InputError: It cannot be read.
    """
    found = load_split(
        part.dataset, part.split, seed=0, text_field=part.text_field, label_field=part.label_field, labels=labels
    )
    return cap_rows(found)


def write_rows(folder: Path, evaluation: Evaluation) -> None:
    """Write an evaluation's rows into a version's folder, as ``ROWS_FILE``."""
    rows = evaluation.rows
    sources = rows.sources or ("",) * len(rows)
    with (folder / ROWS_FILE).open("w", encoding="utf-8") as file:
        for text, label, source, scores in zip(rows.texts, rows.labels, sources, evaluation.scores, strict=True):
            line = {"text": text, "label": evaluation.labels[label], "scores": [round(float(s), 7) for s in scores]}
            file.write(json.dumps(line | ({"source": source} if source else {}), ensure_ascii=False) + "\n")


def read_rows(folder: Path, *, labels: tuple[str, ...]) -> Evaluation | None:
    """Read the rows that a version was judged on, with its scores; None if it has none (imported ones may not).

    Raises:
        VerificationError: The file is not as `write_rows` writes it.
    """
    file = folder / ROWS_FILE
    try:
        lines = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
        index = {label: number for number, label in enumerate(labels)}
        rows = Split(
            tuple(line["text"] for line in lines),
            tuple(index[line["label"]] for line in lines),
            tuple(line.get("source", "") for line in lines) if any("source" in line for line in lines) else (),
        )
        scores = np.array([line["scores"] for line in lines], dtype=np.float32).reshape(len(rows), len(labels))
        return Evaluation(labels, rows, scores, measure(scores, np.asarray(rows.labels)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, VerificationError) as error:
        raise VerificationError(f"{file} is not a file of evaluated rows; publish the checkpoint again") from error


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
