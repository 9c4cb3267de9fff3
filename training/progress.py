"""What a fit shows while it runs: a bar on a terminal, else a line per epoch; and how fast it trained."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from scorequeue.logs import fields
from training.data import Batch

log = logging.getLogger(__name__)

REFRESH_STEPS = 10
"""Steps between two updates: reading the loss makes a GPU finish its queue."""


class Speedometer(pl.Callback):
    """Counts training rows and the seconds spent on them, without validation and the saving of the best epoch."""

    def __init__(self) -> None:
        self.rows = 0
        self.seconds = 0.0
        self._since = 0.0

    @property
    def rows_per_second(self) -> float:
        """Training rows a second so far."""
        return self.rows / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock: a fit that is resumed in mid-epoch starts no epoch."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        """Rows and seconds, for a checkpoint."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from a checkpoint."""
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Stop the clock after each batch; Lightning validates inside of the epoch."""
        now = time.perf_counter()
        self.rows += len(batch["labels"]) * trainer.world_size
        self.seconds += now - self._since
        self._since = now


class EpochProgress(pl.Callback):
    """Shows steps, loss and the last epoch's correlation.

    Args:
        console: Where to draw; a console that is no terminal gets a log line per epoch instead.
        speedometer: Knows the rate.
    """

    def __init__(self, console: Console, *, speedometer: Speedometer) -> None:
        self._speedometer = speedometer
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw the empty bar."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=int(trainer.estimated_stepping_batches), figures="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Move the bar, now and then."""
        if self._bar is None or trainer.global_step % REFRESH_STEPS:
            return
        figures = f"loss {float(outputs['loss']):.3f}  {self._speedometer.rows_per_second:.0f} rows/s"
        if (mcc := trainer.callback_metrics.get("val_mcc")) is not None:
            figures += f"  mcc {float(mcc):.3f}"
        name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.update(self._task, completed=trainer.global_step, description=name, figures=figures)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note the epoch where no bar is drawn."""
        if self._bar is None:
            figures = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
            rate = round(self._speedometer.rows_per_second, 1)
            log.info(
                "epoch done", extra=fields("epoch", epoch=trainer.current_epoch + 1, **figures, rows_per_second=rate)
            )

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Take the bar away before an error is printed."""
        self.on_train_end(trainer, module)
