"""Ends a fit whose loss is no number any more: it would run to its end and have learned nothing."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl

from scorequeue.errors import DivergedError
from training.data import Batch


class StopOnDivergence(pl.Callback):
    """Looks at the loss at the steps that are logged: reading it makes a GPU finish its queue.

    A loss that is not finite makes all weights so, hence it is still seen some steps later.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """End the fit if need be.

        Raises:
            DivergedError: With the step.
        """
        if trainer.global_step % trainer.log_every_n_steps and not trainer.is_last_batch:
            return
        # The logged loss is that of all processes, so they end at the same step.
        loss = float(trainer.callback_metrics["train_loss"])
        if not math.isfinite(loss):
            rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
            raise DivergedError(
                f"the training loss is {loss} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}), "
                f"with a learning rate of {max(rates):.2g}; nothing was published: lower --lr and --head-lr"
                + (", or try --precision 32-true" if trainer.precision != "32-true" else "")
            )
