"""What scores of labelled sentences come to: the figures, how sure they are, and the same by source."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from scorequeue.errors import VerificationError
from training.bootstrap import CONFIDENCE, Interval, mcc_interval
from training.confusion import Counts, correlate, count_confusion

Scores = NDArray[np.float32]
"""(rows, labels): probabilities."""

CALIBRATION_BINS = 15
"""As in Guo et al. 2017."""

SMALL_SLICE_ROWS = 30
"""Fewer rows of a source say little about it."""


class CalibrationBin(BaseModel):
    """Rows whose confidence (the score of the label they get) is above ``low`` and at most ``high``.

    Attributes:
        low: Lower end.
        high: Upper end.
        rows: How many rows.
        confidence: Their mean confidence; 0 if there are none.
        accuracy: Share of them that is right; 0 if there are none.
    """

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


class Figures(BaseModel):
    """What an evaluation comes to.

    Attributes:
        rows: How many rows.
        loss: Mean cross entropy, in nats.
        accuracy: Share of rows whose most probable label is theirs.
        accuracy_low: Lower end of its 95 % interval (Wilson 1927).
        accuracy_high: Upper end of it.
        mcc: Matthews correlation; R_K (Gorodkin 2004) for more than two labels; 0 if all rows get one label.
        mcc_low: Lower end of its 95 % bootstrap interval.
        mcc_high: Upper end of it.
        f1: Mean of the F1 of the labels that rows have or get.
        f1_of_label: F1 of each label, in label order: harmonic mean of precision and recall; 0 if no row is right.
        calibration_error: Mean distance of confidence and accuracy over the bins, weighted by rows (Guo et al. 2017).
        confusion: Rows by true label, and by the label they get.
        bins: The bins of the calibration error, equally wide, from 0 to 1.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    loss: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    mcc: float
    mcc_low: float
    mcc_high: float
    f1: float
    f1_of_label: tuple[float, ...]
    calibration_error: float
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[CalibrationBin, ...]

    def summary(self) -> dict[str, float]:
        """The single numbers, as a manifest has them under ``metrics``."""
        names = ("mcc", "mcc_low", "mcc_high", "accuracy", "f1", "calibration_error", "loss")
        return {name: getattr(self, name) for name in names}


class Slice(NamedTuple):
    """The figures of one source.

    Attributes:
        source: Its name in the data.
        rows: How many rows.
        accuracy: Share of them that is right.
        mcc: Their Matthews correlation.
        mcc_low: Lower end of its 95 % interval.
        mcc_high: Upper end of it.
        is_small: It has fewer than ``SMALL_SLICE_ROWS`` rows.
    """

    source: str
    rows: int
    accuracy: float
    mcc: float
    mcc_low: float
    mcc_high: float
    is_small: bool

    @property
    def has_mcc(self) -> bool:
        """Whether its correlation says anything: 0 in every resample means that all rows have or get one label."""
        return (self.mcc_low, self.mcc_high) != (0.0, 0.0)


def measure(scores: Scores, labels: Counts) -> Figures:
    """Sum up scores.

    Args:
        scores: (rows, labels) probabilities.
        labels: (rows,) true label indices.

    Raises:
        VerificationError: A score is not a finite number.
        ValueError: There are no rows.
    """
    if not len(labels):
        raise ValueError("expected at least one row to measure, got none")
    if not (is_finite := np.isfinite(scores).all(-1)).all():
        raise VerificationError(
            f"{(~is_finite).sum():,} of {len(labels):,} rows have scores that are not finite, row "
            f"{is_finite.argmin() + 1:,} first; the weights are broken: fit or import it again"
        )
    label_count = scores.shape[1]
    predicted = scores.argmax(-1)  # (rows,)
    chosen = scores[np.arange(len(labels)), labels]  # (rows,)
    confusion = count_confusion(predicted, labels, label_count=label_count)
    f1_of_label, occurs = _f1(confusion)
    bins = calibrate(scores.max(-1), predicted == labels)
    right = int((predicted == labels).sum())
    accuracy = _wilson(right, len(labels))
    mcc = mcc_interval(labels, predicted, label_count=label_count)
    return Figures(
        rows=len(labels),
        loss=float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean(dtype=np.float64)),
        accuracy=right / len(labels),
        accuracy_low=accuracy.low,
        accuracy_high=accuracy.high,
        mcc=correlate(confusion),
        mcc_low=mcc.low,
        mcc_high=mcc.high,
        f1=float(f1_of_label[occurs].mean()),
        f1_of_label=tuple(f1_of_label.tolist()),
        calibration_error=sum(part.rows * abs(part.confidence - part.accuracy) for part in bins) / len(labels),
        confusion=tuple(map(tuple, confusion.tolist())),
        bins=bins,
    )


def calibrate(confidence: NDArray[np.float32], is_right: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Put rows into equally wide bins of confidence.

    Args:
        confidence: (rows,) score of the label that a row gets.
        is_right: (rows,) whether it is the true one.
    """
    width = 1 / CALIBRATION_BINS
    places = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    rows = np.bincount(places, minlength=CALIBRATION_BINS)
    sums = (np.bincount(places, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, is_right))
    means = (total / np.maximum(rows, 1) for total in sums)
    return tuple(
        CalibrationBin(low=place * width, high=(place + 1) * width, rows=count, confidence=mean, accuracy=share)
        for place, (count, mean, share) in enumerate(zip(rows.tolist(), *means, strict=True))
    )


def measure_sources(scores: Scores, labels: Counts, sources: Sequence[str]) -> tuple[Slice, ...]:
    """The figures of each source, the one with the most rows first; none where the data names no sources.

    Args:
        scores: (rows, labels) probabilities.
        labels: (rows,) true label indices.
        sources: Where each row comes from, or empty.
    """
    if not len(sources):
        return ()
    predicted = scores.argmax(-1)
    names, members = np.unique(np.asarray(sources, dtype=object), return_inverse=True)
    slices = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(members == number)
        table = count_confusion(predicted[rows], labels[rows], label_count=scores.shape[1])
        interval = mcc_interval(labels[rows], predicted[rows], label_count=scores.shape[1])
        accuracy = float(np.trace(table) / len(rows))
        is_small = len(rows) < SMALL_SLICE_ROWS
        slices.append(Slice(str(name), len(rows), accuracy, correlate(table), *interval, is_small))
    return tuple(sorted(slices, key=lambda one: (-one.rows, one.source)))


def _f1(confusion: Counts) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """F1 of each label, and whether rows have or get it."""
    has_or_gets = confusion.sum(0) + confusion.sum(1)  # (labels,)
    return 2 * np.diag(confusion) / np.maximum(has_or_gets, 1), has_or_gets > 0


def _wilson(right: int, rows: int) -> Interval:
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = (right + z**2 / 2) / (rows + z**2)
    half = z / (rows + z**2) * (right * (rows - right) / rows + z**2 / 4) ** 0.5
    return Interval(max(0.0, centre - half), min(1.0, centre + half))
