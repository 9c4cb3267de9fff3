"""The figures that a checkpoint is judged by: Matthews correlation, accuracy and loss."""

from __future__ import annotations

import torch
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from training.confusion import correlate


class MatthewsCorrelation(Metric):
    """Matthews correlation over all rows seen since the last reset, as `correlate` has it.

    Args:
        labels: Number of labels.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    confusion: torch.Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.add_state("confusion", torch.zeros(labels, labels, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: torch.Tensor, true: torch.Tensor) -> None:
        """Count rows.

        Args:
            predicted: Label indices (rows,) int64.
            true: Label indices (rows,) int64.
        """
        labels = len(self.confusion)
        cells = torch.bincount(true * labels + predicted, minlength=labels * labels)  # (labels * labels,)
        self.confusion += cells.reshape(labels, labels)

    def compute(self) -> torch.Tensor:
        """The correlation, from -1 to 1, float32."""
        return torch.tensor(correlate(self.confusion.numpy(force=True)))


def make_metrics(labels: int, *, prefix: str = "") -> MetricCollection:
    """Matthews correlation and accuracy over all rows seen since the last reset.

    CoLA is 70 % acceptable, so a model that always says yes has an accuracy of 0.7 and a correlation of 0.

    Args:
        labels: Number of labels.
        prefix: Put before the names ``mcc`` and ``accuracy``.

    Returns:
        Metrics that take predicted and true label indices, both (rows,) int64.
    """
    return MetricCollection(
        {"mcc": MatthewsCorrelation(labels), "accuracy": MulticlassAccuracy(num_classes=labels, average="micro")},
        prefix=prefix,
        # Their states differ, and looking for shared ones would run every update twice.
        compute_groups=False,
    )


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in float32.

    Args:
        logits: (rows, labels), any float type.
        labels: (rows,) int64.
    """
    return torch.nn.functional.cross_entropy(logits.float(), labels)
