"""Where a fit's curves go: TensorBoard, and a CSV file always."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from scorequeue.errors import MissingExtraError
from training.curves import Curves


def make_loggers(name: str, *, folder: Path, curves: Curves) -> list[Logger]:
    """The chosen logger and the CSV file that is always written.

    Args:
        name: ``tensorboard`` or ``csv``.
        folder: The run's folder.
        curves: The course of a resumed run up to its checkpoint; empty for a new one. Files are written anew from it:
            they may lack what a kill left unwritten, and hold what came after the checkpoint.

    Raises:
        MissingExtraError: The logger's package is not installed; nothing else is taken in its place.
    """
    for file in (*folder.glob("events.out.tfevents.*"), folder / "csv" / "metrics.csv"):
        file.unlink(missing_ok=True)
    loggers: list[Logger] = []
    if name == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError("--logger tensorboard needs tensorboard: pip install tensorboard, or --logger csv")
        loggers.append(TensorBoardLogger(folder, name="", version=""))
    loggers.append(CSVLogger(folder, name="", version="csv"))
    for logger in loggers:
        _replay(logger, curves)
    return loggers


def _replay(logger: Logger, curves: Curves) -> None:
    """Log what Lightning logged when these points were made: at the number of steps done before."""
    steps = [(point.step, 0, point) for point in curves.steps]
    epochs = [(point.step, 1, point) for point in curves.epochs]
    epoch = 0
    for step, ends_epoch, point in sorted(steps + epochs, key=lambda entry: entry[:2]):
        figures = {name: value for name, value in asdict(point).items() if name not in ("step", "epoch")}
        logger.log_metrics(figures | {"epoch": epoch}, step=step - 1)
        epoch += ends_epoch
    if steps or epochs:
        logger.save()
