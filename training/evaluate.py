"""How well a checkpoint does on labelled sentences: its scores, and the figures that sum them up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from scorequeue.errors import VerificationError
from training.confusion import correlate, count_confusion
from training.predict import Predictor
from training.sources import Split

ROWS_FILE = "evaluation.jsonl"
"""The rows that a version was judged on, in its folder: the gate and ``diff`` score others on the same ones."""

Scores = NDArray[np.float32]
"""(rows, labels): probabilities."""


class Figures(BaseModel):
    """What an evaluation comes to.

    Attributes:
        rows: How many rows.
        loss: Mean cross entropy, in nats.
        accuracy: Share of rows whose most probable label is theirs.
        mcc: Matthews correlation; R_K (Gorodkin 2004) for more than two labels; 0 if all rows get one label.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    loss: float
    accuracy: float
    mcc: float


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


def evaluate(predictor: Predictor, rows: Split) -> Evaluation:
    """Score labelled rows in float32 and sum up how well that went."""
    scores = predictor.score(rows.texts).numpy()
    return Evaluation(predictor.labels, rows, scores, measure(scores, np.asarray(rows.labels)))


def measure(scores: Scores, labels: NDArray[np.int64]) -> Figures:
    """Sum up scores.

    Args:
        scores: (rows, labels) probabilities.
        labels: (rows,) true label indices.
    """
    predicted = scores.argmax(-1)
    chosen = scores[np.arange(len(labels)), labels]
    return Figures(
        rows=len(labels),
        loss=float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean()),
        accuracy=float((predicted == labels).mean()),
        mcc=correlate(count_confusion(predicted, labels, label_count=scores.shape[1])),
    )


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
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"{file} is not a file of evaluated rows; publish the checkpoint again") from error
    return Evaluation(labels, rows, scores, measure(scores, np.asarray(rows.labels)))
