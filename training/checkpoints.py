"""Lightning's checkpoints of a fit: written so that a kill or a full disk leaves the one before, and when.

A fit resumed from one goes on exactly, since all that it depends on is in the checkpoint or follows from the seed and
the place: the order of rows from seed and epoch (data.py), dropout from seed, step and process (`StepSeeds`).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from scorequeue.errors import InputError, InternalError
from scorequeue.folders import sync_folder
from training.data import Batch
from training.runs import RESUME_FILE

BEST_PATTERN = "best-*.ckpt"


class DurableCheckpointIO(CheckpointIO):
    """Writes aside, syncs and renames: under its name a checkpoint is whole, and the one before stays until then.

    Lightning's own writes aside too, but a power cut can leave its renamed file empty. Nothing is removed when
    Lightning asks: the checkpoint to resume from may still name it. `remove_others` does it in time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            InternalError: The disk is full, or the folder cannot be written.
        """
        path = Path(path)
        aside = path.with_name(f".{path.name}.incoming")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        except (OSError, RuntimeError) as error:  # torch's zip writer says RuntimeError for a write that failed
            aside.unlink(missing_ok=True)
            cause = getattr(error, "strerror", None) or "the write failed"
            raise InternalError(
                f"cannot write checkpoint {path}: {cause}; make room or fix its rights, then go on with --resume"
            ) from error
        sync_folder(path.parent)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Read a checkpoint, as tensors and plain values; never by unpickling anything else.

        Raises:
            InputError: It is not a whole checkpoint.
        """
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for files that are none of its own
            raise InputError(f"{path} is not a whole checkpoint; start the fit anew without --resume") from error
        for state in checkpoint.get("callbacks", {}).values():
            if "best_k_models" in state:
                _move(state, folder=Path(path).resolve().parent)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Leave it."""


def _move(state: dict[str, Any], *, folder: Path) -> None:
    """Let ModelCheckpoint's state speak of a folder: a run may be mounted elsewhere today, and paths are absolute."""
    state["dirpath"] = str(folder)
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        if state[name]:
            state[name] = str(folder / Path(state[name]).name)
    state["best_k_models"] = {str(folder / Path(file).name): score for file, score in state["best_k_models"].items()}


def read_callback_state(file: Path, key: str) -> dict[str, Any]:
    """What a callback saved into a checkpoint."""
    state: dict[str, Any] = DurableCheckpointIO().load_checkpoint(file)["callbacks"][key]
    return state


def remove_others(folder: Path, *, best: str) -> None:
    """Remove the weights of epochs that a better one has followed; call it when no checkpoint names them any more."""
    for file in folder.glob(BEST_PATTERN):
        if file.name != Path(best).name:
            file.unlink(missing_ok=True)


class ResumeCheckpoint(Checkpoint):
    """Keeps one checkpoint to resume from: everything, between two steps or two epochs, not more often than wanted.

    It comes behind the callbacks whose state it saves (Lightning puts checkpoints last). After an epoch's last batch it
    waits for the validation: in between Lightning does not resume exactly.

    Args:
        folder: Where to write ``resume.ckpt``.
        best: Keeps the best epoch's weights, which the checkpoint names.
        every_s: Least seconds between two; what a kill costs at most.
        check_held: Raises if another process has taken the run over; asked in the main process, before each.
        clock: Seconds of a steady clock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        best: ModelCheckpoint,
        every_s: float,
        check_held: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._best = best
        self._every_s = every_s
        self._check_held = check_held
        self._clock = clock
        self._saved_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._saved_at = self._clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save in mid-epoch if it is time."""
        if not trainer.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save between two epochs if it is time and there is another one to come."""
        if not trainer.should_stop and trainer.current_epoch + 1 < trainer.max_epochs:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        is_due = self._clock() - self._saved_at >= self._every_s
        if trainer.world_size > 1:
            # All processes take part in saving; asking at each step would cost as much as a step's own exchange.
            if trainer.global_step % trainer.log_every_n_steps:
                return
            is_due = trainer.strategy.broadcast(is_due)
        if not is_due:
            return
        if trainer.is_global_zero:
            self._check_held()
        trainer.save_checkpoint(self._folder / RESUME_FILE)
        if trainer.is_global_zero:
            remove_others(self._folder, best=self._best.best_model_path)
        self._saved_at = self._clock()


class StepSeeds(pl.Callback):
    """Makes dropout a function of seed, step and process, so that a resumed fit drops what an unbroken one would.

    Args:
        seed: The fit's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seed the coming step."""
        seed = random.Random(f"{self._seed}/{trainer.global_step}/{trainer.global_rank}").getrandbits(63)
        torch.default_generator.manual_seed(seed)  # 1 us; torch.manual_seed looks for devices for 140
        if module.device.type == "cuda":
            torch.cuda.default_generators[module.device.index].manual_seed(seed)
