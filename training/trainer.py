"""Lightning's trainer as a fit sets it up and runs it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from training.checkpoints import DurableCheckpointIO
from training.config import FitConfig
from training.data import SentenceData
from training.model import SentenceClassifier

LOG_EVERY_STEPS = 10


class StopOnTerminate(pl.Callback):
    """Takes SIGTERM for an interrupt, as whoever runs the fit hears it, in place of Lightning's handler.

    Lightning 2.6 notes it and goes on to the batch's end, where it ends with exit code 0, which a scheduler takes for a
    success; with several processes it exchanges a message inside of the signal handler, and all wait for ever.
    """

    def __init__(self) -> None:
        found = signal.getsignal(signal.SIGTERM)
        self._handler = found if callable(found) else _interrupt

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the handler back that Lightning has put its own over; at the end it restores what was there."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def choose_precision(wanted: str) -> str:
    """Fill in ``auto``: bfloat16 where the device computes in it natively, else float32.

    Without native instructions a CPU emulates bfloat16 and trains slower than in float32.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return "bf16-mixed" if any(check() for check in checks if check is not None) else "32-true"


def make_trainer(
    config: FitConfig,
    data: SentenceData,
    *,
    precision: str,
    callbacks: list[pl.Callback],
    loggers: list[Logger] | None = None,
    devices: int = 1,
) -> pl.Trainer:
    """Lightning's trainer, silent but for the callbacks."""
    steps = -(-len(data.train_rows) // config.batch_size)
    return pl.Trainer(
        max_epochs=config.epochs,
        precision=precision,
        gradient_clip_val=config.clip_norm,
        fast_dev_run=config.fast_dev_run,
        logger=loggers or [],
        callbacks=[StopOnTerminate(), *callbacks],
        plugins=[DurableCheckpointIO()],
        log_every_n_steps=min(LOG_EVERY_STEPS, steps),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=not config.fast_dev_run,
        use_distributed_sampler=False,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
    )


def run_trainer(
    trainer: pl.Trainer, module: SentenceClassifier, data: SentenceData, *, checkpoint: Path | None = None
) -> None:
    """Run the loop; an interrupt comes out as KeyboardInterrupt, not as Lightning's ``exit(1)``."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
