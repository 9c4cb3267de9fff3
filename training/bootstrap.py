"""How sure a Matthews correlation is, and the difference between two models: the bootstrap (Efron 1979).

Rows are drawn again with replacement. A correlation depends only on how many rows of each kind were drawn (true label,
label by the first model, label by the second), and these counts are multinomial: so they are drawn, not the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.confusion import Counts, Numbers, correlate_sums

RESAMPLES = 2_000
"""Enough for the second digit of an interval's ends; takes milliseconds for two labels."""

CONFIDENCE = 0.95

BLOCK_COUNTS = 1 << 22
"""Counts that are drawn at once: 32 MiB."""


class Interval(NamedTuple):
    """Where a figure is expected to be for other rows of the same kind.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


class Difference(NamedTuple):
    """How much higher the second model's correlation is than the first's.

    Attributes:
        mean: Mean of the resamples.
        low: Lower end of the two-sided interval.
        high: Upper end of it.
        probability_better: Share of resamples in which the difference is above the margin; ties count half, so a
            model against itself has 0.5.
    """

    mean: float
    low: float
    high: float
    probability_better: float


def mcc_interval(
    labels: Counts,
    predicted: Counts,
    *,
    label_count: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The percentile interval (Efron and Tibshirani 1993, chapter 13) of a Matthews correlation.

    In 1,500 made data sets each it held the true value in 94.8 % (527 rows, correlation 0.35), 94.5 % (527, 0.95) and
    93.3 % (100, 0.35). The BCa interval (their chapter 14) had 95.1, 96.4 and 94.7: not worth its correction.

    Args:
        labels: True label indices: (rows,) int64.
        predicted: Predicted ones: (rows,) int64.
        label_count: How many labels there are.
        resamples: How often rows are drawn.
        confidence: Share of the resamples inside.
        seed: Same seed, same interval.
    """
    (drawn,) = _resample(labels, (predicted,), label_count=label_count, resamples=resamples, seed=seed)
    return _interval(drawn, confidence)


def paired_difference(
    labels: Counts,
    first_predicted: Counts,
    second_predicted: Counts,
    *,
    label_count: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    margin: float = 0.0,
) -> Difference:
    """How much higher the second model's Matthews correlation is than the first's, on the same rows.

    Both are judged on the same drawn rows, so what is hard for both does not blur the difference.

    Args:
        labels: True label indices: (rows,) int64.
        first_predicted: The first model's: (rows,) int64.
        second_predicted: The second model's: (rows,) int64.
        label_count: How many labels there are.
        resamples: How often rows are drawn.
        seed: Same seed, same numbers.
        confidence: Of the two-sided percentile interval.
        margin: What a difference has to be above to count as better; negative allows as much loss.
    """
    first, second = _resample(
        labels, (first_predicted, second_predicted), label_count=label_count, resamples=resamples, seed=seed
    )
    differences = second - first  # (resamples,)
    better = (differences > margin).mean() + (differences == margin).mean() / 2
    return Difference(float(differences.mean()), *_interval(differences, confidence), float(better))


def _resample(
    labels: Counts, predictions: tuple[Counts, ...], *, label_count: int, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Correlations of each model on rows drawn with replacement: (models, resamples)."""
    columns = np.stack([labels, *predictions])  # (1 + models, rows)
    if columns.ndim != 2 or not columns.size or columns.min() < 0 or columns.max() >= label_count:
        raise ValueError(f"expected rows with label indices from 0 to {label_count - 1}, got {columns.shape} of them")
    kinds, counts = np.unique(columns, axis=1, return_counts=True)  # (1 + models, kinds), (kinds,)
    is_label = np.eye(label_count)[kinds]  # (1 + models, kinds, labels)
    is_right = (kinds[1:] == kinds[0]).astype(np.float64)  # (models, kinds)
    correlations = []
    for drawn in _draw(counts, resamples=resamples, seed=seed):  # (block, kinds)
        true = drawn @ is_label[0]  # (block, labels)
        correlations.append(
            [
                correlate_sums(drawn @ right, true, drawn @ got)
                for right, got in zip(is_right, is_label[1:], strict=True)
            ]
        )
    return np.concatenate(correlations, axis=1)


def _draw(counts: Counts, *, resamples: int, seed: int) -> Iterator[Numbers]:
    random = np.random.default_rng(seed)
    rows = int(counts.sum())
    block = max(1, min(resamples, BLOCK_COUNTS // len(counts)))
    for start in range(0, resamples, block):
        drawn = random.multinomial(rows, counts / rows, size=min(block, resamples - start))
        yield drawn.astype(np.float64)


def _interval(figures: Numbers, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, (tail, 1 - tail))
    return Interval(float(low), float(high))
