"""The figures that an evaluation comes to, against values computed by hand, and the rows that a version keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorequeue.errors import VerificationError
from training.evaluate import ROWS_FILE, Evaluation, cap_rows, measure, read_rows, write_rows
from training.figures import calibrate, measure_sources
from training.sources import Split

LABELS = ("unacceptable", "acceptable")


def scores_of(*acceptable: float) -> np.ndarray:
    """Scores of two labels from those of the second."""
    return np.array([[1 - score, score] for score in acceptable], dtype=np.float32)


SCORES = scores_of(0.9, 0.8, 0.7, 0.4, 0.2, 0.6)
TRUE = np.array([1, 1, 1, 1, 0, 0])


def test_figures_are_those_computed_by_hand() -> None:
    """Three of four acceptable ones are found, one of two unacceptable ones."""
    figures = measure(SCORES, TRUE)

    assert figures.confusion == ((1, 1), (1, 3))
    assert figures.accuracy == pytest.approx(4 / 6)
    assert figures.mcc == pytest.approx((3 * 1 - 1 * 1) / (4 * 2 * 4 * 2) ** 0.5)
    assert figures.f1_of_label == pytest.approx((2 / 4, 6 / 8))
    assert figures.f1 == pytest.approx((2 / 4 + 6 / 8) / 2)
    assert figures.loss == pytest.approx(-np.log([0.9, 0.8, 0.7, 0.4, 0.8, 0.4]).mean(), abs=1e-6)
    # Wilson's interval of 4 in 6, as in R's binom.wilson.
    assert (figures.accuracy_low, figures.accuracy_high) == pytest.approx((0.2999934, 0.9032251), abs=1e-4)
    assert figures.mcc_low <= figures.mcc <= figures.mcc_high
    assert set(figures.summary()) == {"mcc", "mcc_low", "mcc_high", "accuracy", "f1", "calibration_error", "loss"}


def test_the_calibration_error_is_that_computed_by_hand() -> None:
    """Bins of a fifteenth: .9 alone; .8 and .8 share one; .7 alone; .6 and .6 share one."""
    figures = measure(SCORES, TRUE)

    filled = [part for part in figures.bins if part.rows]
    assert [(part.rows, round(part.confidence, 6), part.accuracy) for part in filled] == [
        (2, 0.6, 0.0), (1, 0.7, 1.0), (2, 0.8, 1.0), (1, 0.9, 1.0),
    ]  # fmt: skip
    assert figures.calibration_error == pytest.approx((2 * 0.6 + 0.3 + 2 * 0.2 + 0.1) / 6, abs=1e-6)


def test_bins_cover_all_confidences_with_their_upper_ends() -> None:
    confidence = np.array([0.0, 1 / 15, 0.5, 14 / 15 + 1e-6, 1.0], dtype=np.float64)

    bins = calibrate(confidence.astype(np.float32), np.ones(5, dtype=bool))

    assert len(bins) == 15
    assert (bins[0].low, bins[-1].high) == (0, pytest.approx(1))
    assert bins[7].rows == 1
    assert bins[-1].rows == 2
    assert sum(part.rows for part in bins) == 5


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 1)), min_size=1, max_size=60))
def test_figures_stay_in_their_ranges(rows: list[tuple[float, int]]) -> None:
    scores, labels = scores_of(*(score for score, _ in rows)), np.array([label for _, label in rows])

    figures = measure(scores, labels)

    assert sum(map(sum, figures.confusion)) == figures.rows == len(rows) == sum(part.rows for part in figures.bins)
    assert 0 <= figures.accuracy_low <= figures.accuracy + 1e-9
    assert figures.accuracy <= figures.accuracy_high + 1e-9 <= 1 + 1e-9
    assert -1 <= figures.mcc_low <= figures.mcc_high <= 1
    assert 0 <= figures.f1 <= 1
    assert 0 <= figures.calibration_error <= 1
    assert 0 <= figures.loss < 90


def test_a_model_that_says_yes_to_all_has_no_correlation() -> None:
    figures = measure(scores_of(*[0.9] * 10), np.array([1] * 7 + [0] * 3))

    assert (figures.accuracy, figures.mcc, figures.mcc_low, figures.mcc_high) == (0.7, 0, 0, 0)
    assert figures.f1_of_label == pytest.approx((0, 14 / 17))


def test_a_label_that_no_row_has_or_gets_does_not_lower_f1() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], dtype=np.float32)

    assert measure(scores, np.array([0, 1])).f1 == 1


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(broken: float) -> None:
    scores = SCORES.copy()
    scores[3, 0] = broken

    with pytest.raises(VerificationError, match=r"1 of 6 rows have scores that are not finite, row 4 first"):
        measure(scores, TRUE)


def test_each_source_has_its_own_figures_and_small_ones_are_marked() -> None:
    scores, labels = np.tile(SCORES, (6, 1)), np.tile(TRUE, 6)

    large, small = measure_sources(scores, labels, ["books"] * 32 + ["talks"] * 4)

    assert (large.source, large.rows, large.is_small) == ("books", 32, False)
    assert (small.source, small.rows, small.is_small) == ("talks", 4, True)
    assert small.accuracy == 2 / 4
    assert measure_sources(scores, labels, ()) == ()


def make_evaluation(texts: tuple[str, ...], sources: tuple[str, ...] = ()) -> Evaluation:
    labels = tuple(row % 2 for row in range(len(texts)))
    scores = scores_of(*np.linspace(0.05, 0.95, len(texts)))
    return Evaluation(LABELS, Split(texts, labels, sources), scores, measure(scores, np.array(labels)))


@pytest.mark.parametrize("sources", [(), ("a", "", "b")])
def test_rows_come_back_as_they_were_written(tmp_path: Path, sources: tuple[str, ...]) -> None:
    written = make_evaluation(("Plain.", 'A "quote", a\ttab\nand\u2028lines.', "ÄÖ 日本 😀"), sources)

    write_rows(tmp_path, written)
    read = read_rows(tmp_path, labels=LABELS)

    assert read is not None
    assert read.rows == written.rows
    assert read.scores == pytest.approx(written.scores, abs=1e-7)
    assert read.figures.summary() == pytest.approx(written.figures.summary(), abs=1e-6)


def test_a_version_without_rows_has_none(tmp_path: Path) -> None:
    assert read_rows(tmp_path, labels=LABELS) is None


@pytest.mark.parametrize(
    "content",
    ["", "not JSON\n", "[]\n", '{"text": "a"}\n']
    + [json.dumps({"text": "a", "label": label, "scores": scores}) + "\n" for label, scores in (
        ("other", [0.5, 0.5]), ("acceptable", [1.0]), ("acceptable", [0.5, float("nan")]), ("acceptable", "many"),
    )],
)  # fmt: skip
def test_a_broken_file_of_rows_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / ROWS_FILE).write_text(content)

    with pytest.raises(VerificationError, match=f"{ROWS_FILE} is not a file of evaluated rows"):
        read_rows(tmp_path, labels=LABELS)


def test_kept_rows_stay_much_the_same_as_a_dataset_grows() -> None:
    """Versions of two nights are compared on rows that most of the two have."""
    texts = tuple(f"Sentence {number}." for number in range(1_200))
    before = Split(texts[:1_000], tuple(number % 2 for number in range(1_000)), tuple("s" for _ in range(1_000)))
    after = Split(texts, tuple(number % 2 for number in range(1_200)), tuple("s" for _ in range(1_200)))

    first, second = cap_rows(before, most=100), cap_rows(after, most=100)

    assert len(first) == len(second) == len(first.sources) == 100
    assert list(first.texts) == sorted(first.texts, key=texts.index)
    assert all(texts.index(text) % 2 == label for text, label in zip(first.texts, first.labels, strict=True))
    assert len(set(first.texts) & set(second.texts)) > 70
    assert cap_rows(before, most=1_000) is before
