"""How a fit went: loss and learning rate by step, validation figures by epoch; kept through a resume."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from scorequeue.errors import InternalError
from scorequeue.folders import replace_synced
from scorequeue.logs import fields
from training.data import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepPoint:
    """A training step.

    Attributes:
        step: Steps done, from 1.
        train_loss: The batch's mean cross entropy before the step, in nats.
        lr: The encoder's learning rate in the step.
    """

    step: int
    train_loss: float
    lr: float


@dataclass(frozen=True, slots=True)
class EpochPoint:
    """A validation.

    Attributes:
        epoch: Epochs done, from 1.
        step: Training steps done by then.
        val_loss: Mean cross entropy, in nats.
        val_mcc: Matthews correlation.
        val_accuracy: Share of rows whose most probable label is theirs.
    """

    epoch: int
    step: int
    val_loss: float
    val_mcc: float
    val_accuracy: float


@dataclass(frozen=True, slots=True)
class Curves:
    """A fit's course.

    Attributes:
        steps: Every tenth step, in order; the last one of an epoch where epochs are shorter than that.
        epochs: Every epoch, in order.
    """

    steps: tuple[StepPoint, ...] = ()
    epochs: tuple[EpochPoint, ...] = ()


CURVES_FILE = "curves.json"


class CurveRecorder(pl.Callback):
    """Logs the learning rate, and keeps the curves, in Lightning's checkpoints too.

    A resumed fit thus has the points up to its checkpoint once, whatever was logged before the kill.
    """

    def __init__(self) -> None:
        self._steps: list[StepPoint] = []
        self._epochs: list[EpochPoint] = []

    @property
    def curves(self) -> Curves:
        """The course so far."""
        return Curves(tuple(self._steps), tuple(self._epochs))

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Log the rate of the coming step, where the trainer logs it."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            module.log("lr", trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0])

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Note loss and rate, at the steps that the trainer logs: reading a loss makes a GPU finish its queue."""
        if trainer.global_step % trainer.log_every_n_steps == 0:
            figures = trainer.callback_metrics
            self._steps.append(StepPoint(trainer.global_step, float(figures["train_loss"]), float(figures["lr"])))

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note the epoch's figures."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return  # the best epoch is measured once more at the end
        figures = {name: float(trainer.callback_metrics[name]) for name in ("val_loss", "val_mcc", "val_accuracy")}
        self._epochs.append(EpochPoint(trainer.current_epoch + 1, trainer.global_step, **figures))

    def state_dict(self) -> dict[str, Any]:
        """The points, for a checkpoint."""
        return {"steps": [asdict(point) for point in self._steps], "epochs": [asdict(point) for point in self._epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the points of a checkpoint."""
        steps = [StepPoint(**point) for point in state_dict["steps"]]
        self._epochs = [EpochPoint(**point) for point in state_dict["epochs"]]
        self._steps = steps

    def write(self, folder: Path) -> None:
        """Keep the points beside the checkpoints, once training has ended.

        Raises:
            InternalError: They cannot be written.
        """
        file = folder / CURVES_FILE
        try:
            replace_synced(file, json.dumps(self.state_dict()))
        except OSError as error:
            raise InternalError(f"cannot write {file}: {error.strerror}; make room, then --resume") from error

    def read(self, folder: Path) -> None:
        """Take the points that `write` kept. Curves are no reason to lose a fit: those that cannot be read are none."""
        file = folder / CURVES_FILE
        try:
            self.load_state_dict(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            log.warning(f"{file} cannot be read: the report will have no curves", extra=fields("curves_lost"))
