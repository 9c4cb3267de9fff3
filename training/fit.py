"""Fit a checkpoint and publish it: dataset and base model in, a version of the registry out."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console

from scorequeue.errors import InternalError, MissingExtraError
from scorequeue.logs import fields
from scorequeue.registry import ManifestDraft
from training import base_models, sources
from training.config import FitConfig
from training.curves import CurveRecorder, Curves
from training.data import SentenceData
from training.evaluate import cap_rows, evaluate
from training.export import read_git_commit, read_packages, write_folder
from training.figures import Figures
from training.golden import choose_golden, score_golden
from training.model import SentenceClassifier
from training.predict import Predictor, fastest_device
from training.progress import EpochProgress, Speedometer
from training.publishing import publish_version
from training.quiet import quiet_libraries
from training.sources import LabelledSentences

log = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10


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


def fit(config: FitConfig, *, console: Console | None = None) -> FitResult:
    """Train on a dataset and publish the epoch with the best validation correlation.

    Args:
        config: Checked settings.
        console: Where to draw progress; None draws nothing.

    Raises:
        UsageError: The dataset or the base model cannot be had.
        VerificationError: The base model's weights are not the published ones.
        KeyboardInterrupt: Interrupted; nothing was published.
    """
    started_at = datetime.now(UTC)
    with quiet_libraries():
        pl.seed_everything(config.seed, verbose=False)
        dataset = sources.load(
            config.dataset, seed=config.seed, text_field=config.text_field, label_field=config.label_field
        )
        base = base_models.load(config.base_model, labels=dataset.labels, max_length=config.max_length)
        data = SentenceData(
            dataset,
            tokenizer=base.tokenizer,
            max_length=base.max_length,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        module = SentenceClassifier(
            base.model.train(),
            lr=config.lr,
            head_lr=config.head_lr,
            dropout=config.dropout,
            weight_decay=config.weight_decay,
            warmup=config.warmup,
        )
        precision = choose_precision(config.precision)
        run = config.runs / "-".join(
            [started_at.strftime("%Y%m%dT%H%M%S"), Path(config.dataset).name, Path(config.base_model).name]
        )
        speedometer, recorder = Speedometer(), CurveRecorder()
        best = ModelCheckpoint(
            run / "checkpoints", filename="best-{epoch}", monitor="val_mcc", mode="max", save_weights_only=True
        )
        callbacks: list[pl.Callback] = [
            best,
            EarlyStopping("val_mcc", mode="max", patience=config.patience),
            speedometer,
            recorder,
        ]
        if console is not None:
            callbacks.append(EpochProgress(console, speedometer=speedometer))
        steps = -(-len(dataset.train) // config.batch_size)
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            precision=precision,
            gradient_clip_val=config.clip_norm,
            fast_dev_run=config.fast_dev_run,
            logger=[] if config.fast_dev_run else make_loggers(config.logger, run),
            callbacks=callbacks,
            log_every_n_steps=min(LOG_EVERY_STEPS, steps),
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            devices=1,
        )
        log.info(
            "fit starts",
            extra=fields(
                "fit",
                dataset=config.dataset,
                base_model=config.base_model,
                train_rows=len(dataset.train),
                dev_rows=len(dataset.dev),
                epochs=config.epochs,
                precision=precision,
                device=str(trainer.strategy.root_device),
            ),
        )
        run_trainer(trainer, module, data)
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        version = None
        if not config.fast_dev_run:
            load_best(module, best)
            version, judged = publish(
                config,
                base=base,
                dataset=dataset,
                module=module,
                run=run,
                precision=precision,
                curves=recorder.curves,
            )
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


def make_loggers(name: str, run: Path) -> list[Logger]:
    """The chosen logger and the CSV file that is always written.

    Raises:
        MissingExtraError: The logger's package is not installed; nothing else is taken in its place.
    """
    loggers: list[Logger] = []
    if name == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError("--logger tensorboard needs tensorboard: pip install tensorboard, or --logger csv")
        loggers.append(TensorBoardLogger(run, name="", version=""))
    loggers.append(CSVLogger(run, name="", version="csv"))
    return loggers


def run_trainer(trainer: pl.Trainer, module: SentenceClassifier, data: SentenceData) -> None:
    """Run the loop; an interrupt comes out as KeyboardInterrupt, not as Lightning's ``exit(1)``."""
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise


def load_best(module: SentenceClassifier, best: ModelCheckpoint) -> None:
    """Put the best epoch's weights back.

    Raises:
        InternalError: No epoch ended with a finite correlation.
    """
    if not best.best_model_path:
        raise InternalError("no epoch was good enough to keep (is the loss finite?); lower --lr and run it again")
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])


def publish(
    config: FitConfig,
    *,
    base: base_models.BaseModel,
    dataset: LabelledSentences,
    module: SentenceClassifier,
    run: Path,
    precision: str,
    curves: Curves,
) -> tuple[str, Figures]:
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
            model=module.model,
            tokenizer=base.tokenizer,
            labels=dataset.labels,
            max_length=base.max_length,
        )
        evaluation = evaluate(Predictor(folder, device=fastest_device()), cap_rows(dataset.dev))
        settings: dict[str, Any] = config.model_dump(mode="json", exclude={"registry", "runs"})
        draft = ManifestDraft(
            base_model=config.base_model,
            labels=dataset.labels,
            max_length=base.max_length,
            dataset=dataset.describe(),
            training_config=settings | {"precision": precision},
            seed=config.seed,
            git_commit=read_git_commit(),
            tracking={"logger": config.logger, "run": run.name, "url": str(run)},
            golden=score_golden(folder, choose_golden(evaluation.rows.texts, evaluation.scores)),
            packages=read_packages("pytorch-lightning", "torchmetrics"),
        )
        version = publish_version(
            folder,
            draft=draft,
            registry=config.registry,
            evaluation=evaluation,
            judged_on=f"dev of {config.dataset}",
            curves=curves,
        )
        return version, evaluation.figures
