"""Rows counted by true and predicted label, and the Matthews correlation of such a table: the one formula for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]


def count_confusion(predicted: Counts, labels: Counts, *, label_count: int) -> Counts:
    """Rows by true label and predicted label: (labels, labels) int64."""
    cells = np.bincount(labels * label_count + predicted, minlength=label_count**2)
    return cells.reshape(label_count, label_count)


def correlate(confusion: NDArray[Any]) -> float:
    """Matthews correlation of a (true, predicted) table, from -1 to 1; see `correlate_sums`."""
    return float(correlate_sums(np.trace(confusion), confusion.sum(1), confusion.sum(0)))


def correlate_sums(right: Any, true: NDArray[Any], predicted: NDArray[Any]) -> Numbers:
    """Matthews correlation from a table's sums, of many tables at once.

    For more than two labels it is R_K (Gorodkin 2004), which for two is the usual one. It is 0 where all rows have one
    label or get one, as in scikit-learn. (torchmetrics' own class gives a model that says yes to all
    (tp - fp) / sqrt(rows * tp * fp): 0.28 for 7 right of 10, which would keep a collapsed epoch as the best one.)

    Args:
        right: Rows whose predicted label is theirs: (...).
        true: Rows of each label: (..., labels).
        predicted: Rows that get each label: (..., labels).

    Returns:
        (...) float64, from -1 to 1.
    """
    # Products of four counts pass 2**63 at 60,000 rows; float64 holds those of two exactly up to 90 million.
    true, predicted, right = (np.asarray(sums, dtype=np.float64) for sums in (true, predicted, right))
    rows = true.sum(-1)
    covariance = right * rows - (predicted * true).sum(-1)
    spread = np.sqrt((rows**2 - (predicted**2).sum(-1)) * (rows**2 - (true**2).sum(-1)))
    return np.clip(np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0), -1, 1)
