"""An evaluation for people, as lines that stand below each other, and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.cli.tables import align

if TYPE_CHECKING:
    from training.evaluate import Evaluation

MOST_LABELS = 12
"""A confusion matrix of more labels is too wide for a terminal; ``--json`` and the report have it all."""

MOST_SOURCES = 20

NAME_CHARACTERS = 24


def tell_figures(evaluation: Evaluation) -> str:
    """The figures with their intervals, the confusion matrix and the sources, as lines."""
    figures = evaluation.figures
    lines = list(
        align(
            [
                ("", "", "95 % interval"),
                ("MCC", f"{figures.mcc:.3f}", f"{figures.mcc_low:.3f} to {figures.mcc_high:.3f}"),
                ("accuracy", f"{figures.accuracy:.3f}", f"{figures.accuracy_low:.3f} to {figures.accuracy_high:.3f}"),
                ("F1, mean of labels", f"{figures.f1:.3f}", ""),
                ("calibration error", f"{figures.calibration_error:.3f}", ""),
                ("loss", f"{figures.loss:.3f}", ""),
            ],
            left=(0, 2),
        )
    )
    if len(evaluation.labels) <= MOST_LABELS:
        lines += ["", *align(_confusion(evaluation), left=(0,))]
    if slices := evaluation.slices():
        rows: list[Sequence[str]] = [("source", "rows", "accuracy", "MCC", "95 % interval", "")]
        for one in slices[:MOST_SOURCES]:
            mcc = (f"{one.mcc:.3f}", f"{one.mcc_low:.3f} to {one.mcc_high:.3f}") if one.has_mcc else ("-", "-")
            few = "few rows" if one.is_small else ""
            rows.append((_cut(one.source) or "(none)", f"{one.rows:,}", f"{one.accuracy:.3f}", *mcc, few))
        lines += ["", *align(rows, left=(0, 4, 5))]
        if more := len(slices) - MOST_SOURCES:
            lines += [f"and {more:,} smaller sources"] if more > 0 else []
    return "\n".join(lines)


def figures_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All figures of an evaluation, for a program."""
    figures, labels = evaluation.figures, evaluation.labels
    return {
        "rows": figures.rows,
        **figures.summary(),
        "accuracy_low": figures.accuracy_low,
        "accuracy_high": figures.accuracy_high,
        "f1_of_label": dict(zip(labels, figures.f1_of_label, strict=True)),
        "labels": list(labels),
        "confusion": figures.confusion,
        "calibration": [part.model_dump() for part in figures.bins],
        "sources": [one._asdict() for one in evaluation.slices()],
    }


def _confusion(evaluation: Evaluation) -> list[Sequence[str]]:
    labels = [_cut(label) for label in evaluation.labels]
    rows: list[Sequence[str]] = [("in truth \\ says", *labels, "F1")]
    for label, line, f1 in zip(labels, evaluation.figures.confusion, evaluation.figures.f1_of_label, strict=True):
        rows.append((label, *(f"{count:,}" for count in line), f"{f1:.3f}"))
    return rows


def _cut(name: str) -> str:
    """A name of the data on one line, and no escape sequence in it."""
    plain = "".join(character if character.isprintable() else "?" for character in name)
    return plain if len(plain) <= NAME_CHARACTERS else plain[: NAME_CHARACTERS - 3] + "..."
