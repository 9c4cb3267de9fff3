"""The report of a version: whole, harmless whatever the sentences are, and readable without a network."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from scorequeue.manifest import GoldenSentence, Manifest
from training.curves import Curves, EpochPoint, StepPoint
from training.drawing import round_ticks
from training.evaluate import Evaluation, measure
from training.report import render_report
from training.sources import Split

VOID = {"meta", "br"}
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser would see: text, elements, and every tag closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def make_manifest(labels: tuple[str, ...] = ("unacceptable", "acceptable"), **values: object) -> Manifest:
    return Manifest(
        version="20261123T101500-1f3c9a",
        created_at=datetime(2026, 11, 23, 10, 15, tzinfo=UTC),
        base_model="minilm-l6",
        labels=labels,
        max_length=128,
        files={"config.json": "0" * 64},
        golden=(GoldenSentence(text="The dog slept.", scores=(1.0, *[0.0] * (len(labels) - 1))),),
        **values,
    )


def make_evaluation(
    rows: int = 60, *, labels: tuple[str, ...] = ("unacceptable", "acceptable"), texts: tuple[str, ...] = ()
) -> Evaluation:
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(len(labels)), rows).astype(np.float32)
    true = np.where(random.random(rows) < 0.7, scores.argmax(-1), random.integers(0, len(labels), rows))
    texts = (*texts, *(f"Sentence {row}." for row in range(len(texts), rows)))
    split = Split(texts, tuple(true.tolist()), tuple("books" if row % 3 else "talks" for row in range(rows)))
    return Evaluation(labels, split, scores, measure(scores, true))


def make_curves(epochs: int = 3, *, steps: int = 100) -> Curves:
    return Curves(
        tuple(StepPoint(step + 1, 0.7 - step / steps / 2, 1e-4 * (1 - step / steps)) for step in range(steps)),
        tuple(EpochPoint(e + 1, (e + 1) * steps // epochs, 0.6, 0.1 * e - 0.05, 0.7) for e in range(epochs)),
    )


def test_a_report_shows_all_that_is_known() -> None:
    manifest = make_manifest(
        parent="20261122T101500-aaaaaa",
        dataset={"name": "cola", "fingerprint": "f1f2f3", "train_rows": 8551},
        training_config={"lr": 1e-4, "gate": {"margin": 0.01}, "fast_dev_run": False},
        packages={"torch": "2.13.0"},
    )
    evaluation = make_evaluation()

    page = Page(render_report(manifest, evaluation=evaluation, judged_on="dev of cola", curves=make_curves()))

    for word in (
        "20261123T101500-1f3c9a", "20261122T101500-aaaaaa", "23 November 2026, 10:15 UTC", "f1f2f3", "8551", "2.13.0",
        "gate margin", "0.01", "dev of cola", "books", "talks", "The dog slept.", f"{evaluation.figures.mcc:.3f}",
        f"{evaluation.figures.mcc_low:.3f} to {evaluation.figures.mcc_high:.3f}", "validation", "training",
        "acceptable in truth", f"F1 {evaluation.figures.f1_of_label[0]:.3f}",
    ):  # fmt: skip
        assert word in page.text, word
    # Three curves, scores, calibration, two headline intervals, two sources.
    assert page.count("svg") == 9


def test_the_numbers_of_the_matrix_are_those_of_the_evaluation() -> None:
    evaluation = make_evaluation()

    html = render_report(make_manifest(), evaluation=evaluation)

    cells = re.findall(r'<td class="(?:right|wrong|none)"[^>]*><b>([\d,]+)</b>', html)
    assert tuple(map(int, cells)) == sum(evaluation.figures.confusion, ())


def test_a_sentence_cannot_run_anything() -> None:
    """Datasets are anyone's: markup in texts, labels, sources and settings is shown, not obeyed."""
    labels = (f"a{SCRIPT}", f"b{SCRIPT}")
    evaluation = make_evaluation(texts=(SCRIPT,) * 60, labels=labels)
    hostile = Evaluation(
        labels,
        Split(evaluation.rows.texts, evaluation.rows.labels, (SCRIPT,) * 60),
        evaluation.scores,
        evaluation.figures,
    )
    manifest = make_manifest(
        labels=labels, dataset={"name": SCRIPT}, training_config={SCRIPT: SCRIPT}, packages={SCRIPT: SCRIPT}
    )

    page = Page(render_report(manifest, evaluation=hostile, judged_on=SCRIPT, curves=make_curves()))

    assert page.count("script") == page.count("img") == 0
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(SCRIPT) > 20
    policy = [attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_report_loads_nothing() -> None:
    html = render_report(make_manifest(), evaluation=make_evaluation(), curves=make_curves())

    assert not re.search(r"https?:|//|url\(|@import", html.replace("<!--", ""))
    assert {"link", "script", "img", "iframe", "object"} & {tag for tag, _ in Page(html).elements} == set()
    assert not [1 for _, attributes in Page(html).elements if {"src", "href"} & attributes.keys()]


def test_a_version_without_curves_or_evaluation_has_a_report() -> None:
    page = Page(render_report(make_manifest(), evaluation=None))

    assert "not judged on labelled sentences yet" in page.text
    assert "The dog slept." in page.text
    assert page.count("svg") == 0


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_curves_of_any_length_are_drawn(epochs: int) -> None:
    curves = make_curves(epochs, steps=max(epochs, 100))

    html = render_report(make_manifest(), evaluation=None, curves=curves)

    assert Page(html).count("svg") == (3 if epochs > 1 else 2)
    assert "nan" not in html.lower()


def test_curves_without_steps_or_a_moving_loss_are_drawn() -> None:
    still = Curves((StepPoint(1, 0.5, 0.0),), (EpochPoint(1, 1, 0.5, 0.0, 0.5),))

    for curves in (still, Curves((), still.epochs), Curves(still.steps, ()), Curves()):
        assert "nan" not in render_report(make_manifest(), evaluation=None, curves=curves).lower()


def test_of_many_labels_the_common_mistakes_are_shown() -> None:
    labels = tuple(f"intent {number}" for number in range(77))

    page = Page(render_report(make_manifest(labels=labels), evaluation=make_evaluation(2_000, labels=labels)))

    assert "The most common mistakes" in page.text
    assert "confusion matrix" not in page.text.lower()


def test_a_flawless_model_is_told_so() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    evaluation = Evaluation(("no", "yes"), Split(("a", "b"), (0, 1)), scores, measure(scores, np.array([0, 1])))

    page = Page(render_report(make_manifest(labels=("no", "yes")), evaluation=evaluation))

    assert "No sentence is labelled wrongly." in page.text
    assert "By source" not in page.text


def test_a_report_stays_small() -> None:
    long = tuple("A very long sentence " * 2_000 for _ in range(60))

    html = render_report(make_manifest(), evaluation=make_evaluation(texts=long), curves=make_curves(50, steps=5_000))

    assert len(html.encode()) < 100_000


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.5, 1]), (-0.04, 0.31, [0, 0.1, 0.2, 0.3]), (0, 1.1e-4, [0, 5e-5, 1e-4]), (2, 2, [2])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)
