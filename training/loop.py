"""Training a run, from where it is to its best epoch's weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger

from scorequeue.errors import InternalError
from scorequeue.logs import fields
from training.checkpoints import DurableCheckpointIO, ResumeCheckpoint, StepSeeds, read_callback_state, remove_others
from training.config import FitConfig
from training.curves import CurveRecorder
from training.data import SentenceData
from training.distributed import helpers
from training.divergence import StopOnDivergence
from training.loggers import HyperparameterLog, close_loggers, describe_tracking, make_loggers
from training.model import SentenceClassifier
from training.runs import RECORD_FILE, Run
from training.trainer import make_trainer, run_trainer

log = logging.getLogger(__name__)


def train(
    run: Run,
    config: FitConfig,
    *,
    data: SentenceData,
    module: SentenceClassifier,
    recorder: CurveRecorder,
    callbacks: list[pl.Callback],
) -> None:
    """Train what is left to train, and put the best epoch's weights into the module.

    Args:
        run: Where it is, and where checkpoints go.
        config: The run's settings.
        data: Batches.
        module: What learns.
        recorder: Gets the whole course, that before a resume too.
        callbacks: What else takes part, the recorder among them.

    Raises:
        DivergedError: The loss is no number any more.
        InternalError: A checkpoint cannot be written, no epoch can be kept, or the run's folder is removed meanwhile.
        KeyboardInterrupt: Interrupted; its text says how to go on.
    """
    if run.record.best is None:
        best = _run(run, config, data=data, module=module, recorder=recorder, callbacks=callbacks)
        if not best:
            raise InternalError("no epoch was good enough to keep; lower --lr and run it again")
        recorder.write(run.folder)
        run.update(best=Path(best).name)
    else:
        log.info("fit resumes", extra=fields("fit", run=run.folder.name, left="publishing"))
        recorder.read(run.folder)
    remove_others(run.checkpoints, best=str(run.record.best))
    weights = DurableCheckpointIO().load_checkpoint(run.checkpoints / str(run.record.best))
    module.load_state_dict(weights["state_dict"])


def train_along(run: Run, config: FitConfig, *, data: SentenceData, module: SentenceClassifier) -> None:
    """Take a helper's part in the training of a run; the main process writes, logs and keeps what comes out."""
    trainer, _ = _make_trainer(run, config, data=data, callbacks=[], loggers=[])
    run_trainer(trainer, module, data, checkpoint=run.resume_file if run.resume_file.exists() else None)


def _run(
    run: Run,
    config: FitConfig,
    *,
    data: SentenceData,
    module: SentenceClassifier,
    recorder: CurveRecorder,
    callbacks: list[pl.Callback],
) -> str:
    """Train to the end; the path of the best epoch's weights."""
    checkpoint = run.resume_file if run.resume_file.exists() else None
    if checkpoint is not None:
        recorder.load_state_dict(read_callback_state(checkpoint, recorder.state_key))
    tracker_id = run.record.tracking.get("tracker_id")
    loggers = make_loggers(config.logger, folder=run.folder, curves=recorder.curves, tracker_id=tracker_id)
    run.update(tracking=describe_tracking(loggers, folder=run.folder))
    log.info(
        "fit starts" if checkpoint is None else "fit resumes",
        extra=fields(
            "fit",
            run=run.folder.name,
            dataset=config.dataset,
            base_model=config.base_model,
            parent=run.record.parent,
            train_rows=len(data.train_rows),
            dev_rows=len(data.dev_rows),
            epochs=config.epochs,
            precision=run.record.precision,
            device="cuda" if torch.cuda.is_available() else "cpu",
            processes=run.record.devices,
        ),
    )
    try:
        with _told_as_gone(run), helpers(run.record.devices - 1, run=run.folder, registry=config.registry):
            trainer, best = _make_trainer(
                run, config, data=data, callbacks=[*callbacks, HyperparameterLog(recorder)], loggers=loggers
            )
            run_trainer(trainer, module, data, checkpoint=checkpoint)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(run.describe_continuation()) from interrupt
    finally:
        with _told_as_gone(run):  # they write what is left
            close_loggers(loggers)
    return best.best_model_path


@contextmanager
def _told_as_gone(run: Run) -> Iterator[None]:
    """Whoever writes into a folder that somebody removed fails in its own way; say what is behind all of them."""
    try:
        yield
    except Exception as error:
        if (run.folder / RECORD_FILE).is_file():  # checkpoints make the folder again
            raise
        raise InternalError(
            f"{run.folder} is gone; somebody removed it while the fit wrote to it, and nothing was published; fit anew"
        ) from error


def _make_trainer(
    run: Run, config: FitConfig, *, data: SentenceData, callbacks: list[pl.Callback], loggers: list[Logger]
) -> tuple[pl.Trainer, ModelCheckpoint]:
    """A trainer with all that processes have to do in step; the others' callbacks and loggers are the main one's."""
    best = ModelCheckpoint(
        run.checkpoints,
        filename="best-{epoch}",
        monitor="val_mcc",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,  # an epoch that a resumed fit repeats is the same epoch
    )
    trainer = make_trainer(
        config,
        data,
        precision=run.record.precision,
        devices=run.record.devices,
        loggers=loggers,
        callbacks=[
            StepSeeds(config.seed),
            StopOnDivergence(),
            *callbacks,
            best,
            EarlyStopping("val_mcc", mode="max", patience=config.patience),
            ResumeCheckpoint(run.checkpoints, best=best, every_s=config.checkpoint_every_s, check_held=run.check_held),
        ],
    )
    return trainer, best
