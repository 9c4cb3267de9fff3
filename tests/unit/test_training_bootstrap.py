"""The correlation that models are judged by, its interval, and the difference between two models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.bootstrap import mcc_interval, paired_difference
from training.confusion import correlate, count_confusion
from training.metrics import MatthewsCorrelation


def make_rows(confusion: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted labels that come to this table."""
    pairs = [(true, got) for true, line in enumerate(confusion) for got, count in enumerate(line) for _ in range(count)]
    labels, predicted = np.array(pairs, dtype=np.int64).T
    return labels, predicted


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        ([[3, 1], [2, 4]], (4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5)),  # (tp tn - fp fn) / sqrt of the four sums
        ([[5, 0], [0, 7]], 1.0),
        ([[0, 5], [7, 0]], -1.0),
        ([[0, 3], [0, 7]], 0.0),  # says yes to all
        ([[3, 7], [0, 0]], 0.0),  # has one label only
        # Of three labels: (right * rows - sum t p) / sqrt(rows^2 - sum p^2) / sqrt(rows^2 - sum t^2)
        ([[2, 1, 0], [0, 3, 1], [1, 0, 2]], (7 * 10 - 34) / math.sqrt((100 - 34) * (100 - 34))),
    ],
)
def test_the_correlation_is_the_one_of_the_books(confusion: list[list[int]], expected: float) -> None:
    labels, predicted = make_rows(confusion)
    counted = count_confusion(predicted, labels, label_count=len(confusion))

    assert counted.tolist() == confusion
    assert correlate(counted) == pytest.approx(expected, abs=1e-12)


@given(
    st.integers(2, 4).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), min_size=1).map(lambda pairs: (n, pairs))
    )
)
def test_the_correlation_is_that_of_the_indicator_columns(case: tuple[int, list[tuple[int, int]]]) -> None:
    """R_K is the correlation of two tables of indicators: computed here as such, with numpy's own covariance."""
    label_count, pairs = case
    labels, predicted = np.array(pairs).T
    true, got = np.eye(label_count)[labels], np.eye(label_count)[predicted]

    def covariance(one: np.ndarray, other: np.ndarray) -> float:
        return float(((one - one.mean(0)) * (other - other.mean(0))).sum())

    spread = math.sqrt(covariance(true, true) * covariance(got, got))
    expected = covariance(true, got) / spread if spread > 1e-9 else 0.0

    assert correlate(count_confusion(predicted, labels, label_count=label_count)) == pytest.approx(expected, abs=1e-9)


def test_training_and_evaluation_have_one_formula() -> None:
    metric = MatthewsCorrelation(2)
    confusion = [[60_000_000, 30_000_001], [20_000_000, 90_000_000]]  # four sums whose product passes 2**63
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    metric.confusion += torch.tensor(confusion) - torch.eye(2, dtype=torch.long)

    assert metric.confusion.tolist() == confusion
    assert float(metric.compute()) == pytest.approx(correlate(np.array(confusion)), abs=1e-6)


def test_the_interval_is_that_of_drawing_the_rows_themselves() -> None:
    """Counts are drawn for speed; rows drawn one by one must come to the same."""
    labels, predicted = make_rows([[60, 40], [30, 270]])
    random = np.random.default_rng(7)
    slow = []
    for _ in range(4_000):
        rows = random.integers(0, len(labels), len(labels))
        slow.append(correlate(count_confusion(predicted[rows], labels[rows], label_count=2)))

    interval = mcc_interval(labels, predicted, label_count=2, resamples=20_000)

    assert tuple(interval) == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.006)


def test_an_interval_narrows_with_the_rows_and_widens_with_the_confidence() -> None:
    few, many = make_rows([[6, 4], [3, 27]]), make_rows([[600, 400], [300, 2700]])

    def width(rows: tuple[np.ndarray, np.ndarray], confidence: float = 0.95) -> float:
        low, high = mcc_interval(*rows, label_count=2, confidence=confidence)
        return high - low

    assert width(many) == pytest.approx(width(few) / 10, rel=0.15)
    assert width(many, 0.5) < width(many) < width(many, 0.999)


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = make_rows([[60, 40], [30, 270]])

    assert mcc_interval(*rows, label_count=2, seed=3) == mcc_interval(*rows, label_count=2, seed=3)
    assert mcc_interval(*rows, label_count=2, seed=3) != mcc_interval(*rows, label_count=2, seed=4)


def test_a_model_is_no_better_than_itself() -> None:
    labels, predicted = make_rows([[60, 40], [30, 270]])

    difference = paired_difference(labels, predicted, predicted, label_count=2)

    assert difference == (0.0, 0.0, 0.0, 0.5)


def test_a_better_model_is_told_from_a_worse_one() -> None:
    """Each of 40 mistakes mended: far beyond chance, though the two intervals of the correlations overlap."""
    labels, first = make_rows([[100, 60], [40, 300]])
    second = first.copy()
    second[np.flatnonzero(first != labels)[:40]] = labels[np.flatnonzero(first != labels)[:40]]

    better = paired_difference(labels, first, second, label_count=2)
    worse = paired_difference(labels, second, first, label_count=2)

    observed = correlate(count_confusion(second, labels, label_count=2)) - correlate(
        count_confusion(first, labels, label_count=2)
    )
    assert better.low > 0
    assert better.mean == pytest.approx(observed, abs=0.005)
    assert better.probability_better == 1.0
    assert worse == pytest.approx((-better.mean, -better.high, -better.low, 0.0))


def test_the_margin_moves_what_counts_as_better() -> None:
    labels, first = make_rows([[100, 60], [40, 300]])
    second = first.copy()
    second[0:3] = 1  # three right ones broken

    chances = [
        paired_difference(labels, first, second, label_count=2, margin=margin).probability_better
        for margin in (0.0, -0.01, -0.05)
    ]

    assert chances == sorted(chances)
    assert chances[0] < 0.05
    assert chances[-1] > 0.99


def test_many_labels_are_drawn_as_they_are() -> None:
    """77 labels have half a million kinds of rows; only those that occur are drawn."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 77, 3_000)
    first = np.where(random.random(3_000) < 0.8, labels, random.integers(0, 77, 3_000))
    second = np.where(random.random(3_000) < 0.9, labels, random.integers(0, 77, 3_000))

    difference = paired_difference(labels, first, second, label_count=77, resamples=200)

    assert 0.06 < difference.low < difference.mean < difference.high < 0.14


@pytest.mark.parametrize("labels", [[], [0, 2], [0, -1]])
def test_rows_that_are_none_are_refused(labels: list[int]) -> None:
    rows = np.array(labels, dtype=np.int64)

    with pytest.raises(ValueError, match="label indices from 0 to 1"):
        mcc_interval(rows, rows, label_count=2)
