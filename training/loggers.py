"""Where a fit's curves go: TensorBoard, Weights & Biases or MLflow, and a CSV file always."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from scorequeue.errors import MissingExtraError, UsageError
from scorequeue.masking import mask_url
from training.curves import CurveRecorder, Curves

PROJECT = "scorequeue"
"""W&B's project and MLflow's experiment, unless their own variables name another."""

EXTRAS = {"tensorboard": "training", "wandb": "wandb", "mlflow": "mlflow"}
"""Which extra brings a logger's package, which is named as the logger."""


def make_loggers(name: str, *, folder: Path, curves: Curves, tracker_id: str | None = None) -> list[Logger]:
    """The chosen logger and the CSV file that is always written.

    Args:
        name: ``tensorboard``, ``csv``, ``wandb`` or ``mlflow``. W&B and MLflow read their own variables, such as
            WANDB_PROJECT and MLFLOW_TRACKING_URI; without the latter, MLflow's records go to ``mlflow.db`` beside the
            runs.
        folder: The run's folder.
        curves: The course of a resumed run up to its checkpoint; empty for a new one. Files are written anew from it:
            they may lack what a kill left unwritten, and hold what came after the checkpoint.
        tracker_id: W&B's or MLflow's id of a resumed run.

    Raises:
        MissingExtraError: The logger's package is not installed; nothing else is taken in its place.
        UsageError: W&B or MLflow cannot be reached, or do not let us in.
    """
    if name in EXTRAS and importlib.util.find_spec(name) is None:
        raise MissingExtraError(
            f'--logger {name} needs its package: pip install "scorequeue[{EXTRAS[name]}]", or take --logger csv'
        )
    for file in (*folder.glob("events.out.tfevents.*"), folder / "csv" / "metrics.csv"):
        file.unlink(missing_ok=True)
    files: list[Logger] = [CSVLogger(folder, name="", version="csv")]
    if name == "tensorboard":
        # Without a figure to show, hyperparameters come with a made-up one; `HyperparameterLog` adds both at the end.
        files.insert(0, TensorBoardLogger(folder, name="", version="", default_hp_metric=False))
    for logger in files:
        _replay(logger, curves)
    if name not in ("wandb", "mlflow"):
        return files
    try:
        make = _make_wandb if name == "wandb" else _make_mlflow
        return [make(folder, tracker_id), *files]
    except Exception as error:  # each has exceptions of its own for no network, no server, no key
        reason = str(error).strip().partition("\n")[0][:200]
        raise UsageError(f"--logger {name} cannot begin: {reason}; set it up, or take --logger csv") from error


def describe_tracking(loggers: list[Logger], *, folder: Path) -> dict[str, Any]:
    """Where the curves are, for the manifest: logger, run, url, and the tracker's id of the run; never a secret."""
    chosen = loggers[0]
    match chosen:
        case WandbLogger():
            experiment = chosen.experiment
            return {
                "logger": "wandb",
                "run": folder.name,
                "url": experiment.url or str(folder),  # none while W&B is offline
                "tracker_id": experiment.id,
            }
        case MLFlowLogger():
            url = str(chosen._tracking_uri)
            url = mask_url(url) if "@" in url or "?" in url else url
            return {"logger": "mlflow", "run": folder.name, "url": url, "tracker_id": chosen.run_id}
    name = "tensorboard" if isinstance(chosen, TensorBoardLogger) else "csv"
    return {"logger": name, "run": folder.name, "url": str(folder)}


def close_loggers(loggers: list[Logger]) -> None:
    """End the tracker's run: W&B would take a second fit of this process for the same run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


class HyperparameterLog(pl.Callback):
    """Gives TensorBoard the hyperparameters beside the best epoch's figures, which its table of runs is for.

    Args:
        recorder: Knows the figures.
    """

    def __init__(self, recorder: CurveRecorder) -> None:
        self._recorder = recorder

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Log them once, at the end."""
        epochs = self._recorder.curves.epochs
        for logger in trainer.loggers:
            if epochs and isinstance(logger, TensorBoardLogger):
                best = max(epochs, key=lambda point: point.val_mcc)
                figures = {"best_val_mcc": best.val_mcc, "best_val_accuracy": best.val_accuracy}
                logger.log_hyperparams(_plain(module.hparams), figures)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _make_wandb(folder: Path, tracker_id: str | None) -> Logger:
    import wandb

    logger = WandbLogger(
        name=folder.name,
        save_dir=folder,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=tracker_id,
        settings=wandb.Settings(silent=True),
    )
    _begin(logger)
    return logger


def _make_mlflow(folder: Path, tracker_id: str | None) -> Logger:
    # Lightning's default, a folder ./mlruns, is refused by MLflow since 3.x.
    logger = MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=folder.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent.resolve() / 'mlflow.db'}"),
        run_id=tracker_id,
    )
    _begin(logger)
    return logger


def _begin(logger: WandbLogger | MLFlowLogger) -> None:
    """Begin the tracker's run now, where an error can be told; Lightning would with the first figure."""
    assert logger.experiment is not None


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
