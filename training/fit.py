"""Fit a checkpoint and publish it: dataset and base model in, a version of the registry out."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from scorequeue.errors import UsageError, VersionError
from scorequeue.logs import fields
from scorequeue.registry import ManifestDraft, Registry
from training.config import FitConfig
from training.curves import CurveRecorder, Curves
from training.distributed import count_devices
from training.evaluate import cap_rows, evaluate
from training.export import read_git_commit, read_packages, write_folder
from training.figures import Figures
from training.golden import choose_golden, score_golden
from training.loop import train
from training.parts import Parts, prepare
from training.predict import Predictor, fastest_device
from training.progress import EpochProgress, Speedometer
from training.publishing import publish_version
from training.quiet import quiet_libraries
from training.runs import Run, RunRecord, describe_settings
from training.trainer import choose_precision, make_trainer, run_trainer

REST_BYTES = 10_000_000
"""Room for what a version has beside its weights: tokenizer, judged rows, report."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit ended with.

    Attributes:
        version: The published version; None after a fast dev run, which publishes nothing.
        mcc: Validation Matthews correlation of the published weights.
        accuracy: Validation accuracy of the same weights.
        loss: Validation loss of the same weights.
        rows_per_second: Training rows a second, validation and saving left out.
        seconds: Time of the whole fit, loading and publishing included.
        curves: Loss and learning rate by step, validation figures by epoch.
    """

    version: str | None
    mcc: float
    accuracy: float
    loss: float
    rows_per_second: float
    seconds: float
    curves: Curves


def fit(config: FitConfig, *, resume: Run | None = None, console: Console | None = None) -> FitResult:
    """Train on a dataset and publish the epoch with the best validation correlation.

    Args:
        config: Checked settings.
        resume: The run to go on with, from `training.runs.find`; None starts a new one.
        console: Where to draw progress; None draws nothing.

    Raises:
        UsageError: The dataset or the base model cannot be had, the run was started with other settings or data, or the
            current version has other labels than the data.
        VersionNotFoundError: Nothing is current to start from.
        VerificationError: The base model's weights are not the published ones, or the current version is damaged.
        DivergedError: The loss is no number any more.
        InternalError: A checkpoint or the version cannot be written; the registry is looked at before the first epoch.
        KeyboardInterrupt: Interrupted; nothing was published. Its text says how to go on.
    """
    started_at = datetime.now(UTC)
    with quiet_libraries():
        parts = prepare(config, parent=resume.record.parent if resume else None)
        speedometer, recorder = Speedometer(), CurveRecorder()
        callbacks: list[pl.Callback] = [speedometer, recorder]
        if console is not None:
            callbacks.append(EpochProgress(console, speedometer=speedometer))
        if config.fast_dev_run:
            trainer = make_trainer(
                config, parts.data, precision=choose_precision(config.precision), callbacks=callbacks
            )
            run_trainer(trainer, parts.module, parts.data)
            figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
            version = None
        else:
            weights = sum(value.nbytes for value in parts.module.model.state_dict().values())
            Registry(config.registry).check_room(weights + REST_BYTES)
            with open_run(config, parts, resume=resume) as run:
                train(run, config, data=parts.data, module=parts.module, recorder=recorder, callbacks=callbacks)
                version, judged = publish(config, parts, run=run, curves=recorder.curves)
                run.finish(version)
            figures = {f"val_{name}": value for name, value in judged.summary().items()}
            log.info("version published", extra=fields("publish", version=version, registry=str(config.registry)))
    return FitResult(
        version=version,
        mcc=figures["val_mcc"],
        accuracy=figures["val_accuracy"],
        loss=figures["val_loss"],
        rows_per_second=speedometer.rows_per_second,
        seconds=(datetime.now(UTC) - started_at).total_seconds(),
        curves=recorder.curves,
    )


def open_run(config: FitConfig, parts: Parts, *, resume: Run | None) -> Run:
    """The run to work on, with its mark held until it is left.

    Raises:
        UsageError: A run to resume has other settings or data, is being fitted, or was published meanwhile.
    """
    fingerprint = str(parts.dataset.describe()["fingerprint"])
    settings = config.model_dump(mode="json")
    if resume is None:
        name = f"{Path(config.dataset).name}-{Path(parts.base.name).name}"
        record = RunRecord(
            settings=describe_settings(settings),
            fingerprint=fingerprint,
            precision=choose_precision(config.precision),
            parent=parts.parent,
            devices=count_devices(config.devices),
        )
        return Run.start(config.runs, name=name, record=record)
    resume.take()
    try:
        resume.check_settings(settings)
        if resume.record.fingerprint != fingerprint:
            raise UsageError(
                f"dataset {config.dataset} has changed since {resume.folder} was started (its fingerprint differs); "
                "bring the old data back to go on, or start anew without --resume"
            )
        if (version := find_published(Registry(config.registry), resume)) is not None:
            raise UsageError(f"{resume.folder} was published as {version}; there is nothing to resume")
    except BaseException:
        resume.leave()
        raise
    return resume


def find_published(registry: Registry, run: Run) -> str | None:
    """The version that a run was published as, if it was killed before its record said so; the record says it then."""
    for version in registry.versions():
        with contextlib.suppress(VersionError, OSError):  # a damaged version, or one that is pruned meanwhile
            if registry.manifest(version).tracking.get("run_id") == run.record.id:
                run.finish(version)
                return version
    return None


def publish(config: FitConfig, parts: Parts, *, run: Run, curves: Curves) -> tuple[str, Figures]:
    """Export the fitted model, judge the folder in float32 and publish it; the first version becomes current.

    Returns:
        The version, and how it does on the validation rows.

    Raises:
        VerificationError: Its scores are not finite.
        InternalError: The registry cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="scorequeue-") as scratch:
        folder = Path(scratch)
        write_folder(
            folder,
            model=parts.module.model,
            tokenizer=parts.base.tokenizer,
            labels=parts.dataset.labels,
            max_length=parts.base.max_length,
        )
        evaluation = evaluate(Predictor(folder, device=fastest_device()), cap_rows(parts.dataset.dev))
        settings: dict[str, Any] = config.model_dump(mode="json", exclude={"registry", "runs"})
        draft = ManifestDraft(
            base_model=parts.base.name,
            parent=run.record.parent,
            labels=parts.dataset.labels,
            max_length=parts.base.max_length,
            dataset=parts.dataset.describe(),
            training_config=settings | {"precision": run.record.precision},
            seed=config.seed,
            git_commit=read_git_commit(),
            tracking=run.record.tracking | {"run_id": run.record.id},
            golden=score_golden(folder, choose_golden(evaluation.rows.texts, evaluation.scores)),
            packages=read_packages("pytorch-lightning", "torchmetrics"),
        )
        run.check_held()
        version = publish_version(
            folder,
            draft=draft,
            registry=config.registry,
            evaluation=evaluation,
            judged_on=f"dev of {config.dataset}",
            curves=curves,
        )
        return version, evaluation.figures
