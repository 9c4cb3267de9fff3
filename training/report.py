"""A version's report: one HTML page with no scripts that loads nothing, for a browser, a phone or paper.

The texts of a dataset are anyone's: the template escapes all that it is given, and the page forbids scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from scorequeue.manifest import Manifest
from training import charts
from training.confusion import Counts
from training.evaluate import Evaluation
from training.figures import Slice

if TYPE_CHECKING:
    from training.curves import Curves

HARDEST_ROWS = 10
"""Confident mistakes, and as many undecided ones, that are shown."""

MOST_SLICES = 25

MOST_LABELS = 12
"""A confusion matrix of more labels is shown by its most common mistakes alone."""

MOST_CHARACTERS = 300

WORDS = {"None": "-", "True": "yes", "False": "no"}


class ShownRow(NamedTuple):
    """A sentence with what is said of it.

    Attributes:
        text: The sentence, its end cut off where it is long.
        true: Its label; empty where none is known.
        said: The label it gets.
        score: The score of that label.
        is_right: Whether the two are the same.
    """

    text: str
    true: str
    said: str
    score: float
    is_right: bool


class Mistake(NamedTuple):
    """Rows of one label that get another one.

    Attributes:
        true: Their label.
        said: The label that they get.
        rows: How many.
        share: Their share of the rows of their label.
    """

    true: str
    said: str
    rows: int
    share: float


def render_report(
    manifest: Manifest, *, evaluation: Evaluation | None, judged_on: str = "", curves: Curves | None = None
) -> str:
    """The report of a version as HTML.

    Args:
        manifest: What is known of the version.
        evaluation: How it does on labelled rows; None where it was never judged.
        judged_on: Dataset and split of these rows, as a phrase.
        curves: How its fit went; None where it was not fitted here.
    """
    environment = Environment(
        loader=PackageLoader("training", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        manifest=manifest,
        parameters=_plain(manifest.training_config),
        dataset=_plain(manifest.dataset),
        golden=_show_golden(manifest),
        judged_on=judged_on,
        **(_show_evaluation(evaluation) if evaluation is not None else {"figures": None}),
        **_draw_curves(curves),
    )


def _show_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    figures, labels = evaluation.figures, evaluation.labels
    true = np.asarray(evaluation.rows.labels)
    predicted, confidence = evaluation.scores.argmax(-1), evaluation.scores.max(-1)
    wrong = np.flatnonzero(predicted != true)
    slices = evaluation.slices()
    counts = np.array(figures.confusion)
    return {
        "figures": figures,
        "labels": labels,
        "loss_of_shares": _entropy(counts.sum(1) / figures.rows),
        "commonest": (labels[counts.sum(1).argmax()], counts.sum(1).max() / figures.rows),
        "mcc_interval": charts.draw_interval(
            figures.mcc, figures.mcc_low, figures.mcc_high, span=(min(0.0, figures.mcc_low), 1)
        ),
        "accuracy_interval": charts.draw_interval(
            figures.accuracy, figures.accuracy_low, figures.accuracy_high, span=(0, 1)
        ),
        "confusion": counts.tolist() if len(labels) <= MOST_LABELS else None,
        "mistakes": _list_mistakes(counts, labels),
        "reliability": charts.draw_reliability(figures.bins, label_count=len(labels)),
        "histogram": charts.draw_scores(evaluation.scores, true, labels=labels),
        "mistaken": _show_rows(evaluation, wrong[np.argsort(-confidence[wrong], kind="stable")][:HARDEST_ROWS]),
        "undecided": _show_rows(evaluation, np.argsort(confidence, kind="stable")[:HARDEST_ROWS]),
        "slices": [(one, _draw_slice(one, slices, whole=figures.mcc)) for one in slices[:MOST_SLICES]],
        "slices_left_out": max(0, len(slices) - MOST_SLICES),
    }


def _entropy(shares: NDArray[np.float64]) -> float:
    """The loss of giving each text the labels' shares."""
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def _draw_curves(curves: Curves | None) -> dict[str, Markup | None]:
    steps, epochs = (curves.steps, curves.epochs) if curves is not None else ((), ())
    return {
        "loss_curve": charts.draw_loss(curves) if curves is not None and steps and epochs else None,
        "mcc_curve": charts.draw_correlation(epochs) if len(epochs) > 1 else None,
        "rate_curve": charts.draw_rate(curves) if curves is not None and steps else None,
    }


def _draw_slice(one: Slice, slices: Sequence[Slice], *, whole: float) -> Markup:
    span = (min(0.0, *(other.mcc_low for other in slices)) - 0.02, 1.02)
    return charts.draw_interval(one.mcc, one.mcc_low, one.mcc_high, span=span, mark=whole)


def _show_rows(evaluation: Evaluation, rows: Iterable[int]) -> list[ShownRow]:
    shown = []
    for row in rows:
        said, true = int(evaluation.scores[row].argmax()), evaluation.rows.labels[row]
        names, score = evaluation.labels, float(evaluation.scores[row, said])
        shown.append(ShownRow(_cut(evaluation.rows.texts[row]), names[true], names[said], score, said == true))
    return shown


def _show_golden(manifest: Manifest) -> list[ShownRow]:
    shown = []
    for sentence in manifest.golden:
        said = int(np.argmax(sentence.scores))
        shown.append(ShownRow(_cut(sentence.text), "", manifest.labels[said], sentence.scores[said], True))
    return shown


def _list_mistakes(counts: Counts, labels: Sequence[str]) -> list[Mistake]:
    """The most common mistakes, the most common one first."""
    cells = [(int(counts[true, said]), true, said) for true, said in np.argwhere(counts) if true != said]
    cells.sort(key=lambda cell: -cell[0])
    return [
        Mistake(labels[true], labels[said], rows, rows / counts[true].sum())
        for rows, true, said in cells[:HARDEST_ROWS]
    ]


def _plain(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of names and words."""
    plain: dict[str, str] = {}
    for name, value in values.items():
        name = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            plain |= _plain(value, prefix=f"{name} ")
        elif isinstance(value, list | tuple):
            plain[name] = ", ".join(map(str, value))
        else:
            plain[name] = f"{value:g}" if isinstance(value, float) else WORDS.get(str(value), str(value))
    return plain


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
