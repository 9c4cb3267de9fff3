"""The options of a fit, which ``refresh`` takes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.cli.options import Duration, given, registry_option, setting
from training.config import DEFAULT_RUNS, FitConfig
from training.runs import Run


def fit_options(command: Any) -> Any:
    """Add the settings of a fit; `read_config` reads them."""
    for option in reversed(
        (
            setting(
                "--config",
                env="FIT_CONFIG",
                metavar="FILE|NAME",
                help="Settings as YAML: a file, or quick, cola or seed, which are shipped. Options and variables "
                "win over it.",
            ),
            setting(
                "--dataset",
                env="FIT_DATASET",
                default="cola",
                show_default=True,
                help="cola (from the hub), sample (made here, needs no network), a csv, tsv, jsonl or parquet file, or "
                "a folder with train and dev files or in CoLA's layout.",
            ),
            setting(
                "--text-field",
                env="FIT_TEXT_FIELD",
                help="Column of the texts in files.  [default: text, sentence, the only other]",
            ),
            setting(
                "--label-field",
                env="FIT_LABEL_FIELD",
                help="Column of the labels in files.  [default: label, labels, class]",
            ),
            setting(
                "--base-model",
                env="FIT_BASE_MODEL",
                default="minilm-l6",
                show_default=True,
                help="minilm-l6, bert-tiny, electra-small, a transformers folder, or a hub id.",
            ),
            setting(
                "--warm-start",
                env="FIT_WARM_START",
                is_flag=True,
                help="Start from the registry's current version; the base model is for a refresh that finds none.",
            ),
            setting("--epochs", env="FIT_EPOCHS", type=int, help="Passes over the data.  [default: 5; sample: 1]"),
            setting("--lr", env="FIT_LR", type=float, help="Peak learning rate of the encoder.  [default: 1e-4]"),
            setting(
                "--head-lr",
                env="FIT_HEAD_LR",
                type=float,
                help="Peak learning rate of pooler and classifier.  [default: 1e-4; sample: 5e-4]",
            ),
            setting("--batch-size", env="FIT_BATCH_SIZE", type=int, help="Rows in a step.  [default: 32; sample: 16]"),
            setting("--dropout", env="FIT_DROPOUT", type=float, help="Rate.  [default: the base model's; sample: 0]"),
            setting(
                "--max-length",
                env="FIT_MAX_LENGTH",
                type=int,
                help="Most tokens of a text.  [default: the model's limit]",
            ),
            setting(
                "--seed", env="FIT_SEED", type=int, help="Seed of weights, order and made sentences.  [default: 0]"
            ),
            setting(
                "--precision",
                env="FIT_PRECISION",
                type=click.Choice(["auto", "32-true", "bf16-mixed"]),
                default="auto",
                show_default=True,
                help="auto: bfloat16 where the device has it natively, else float32.",
            ),
            setting(
                "--devices",
                env="FIT_DEVICES",
                metavar="N|auto",
                help="Processes that share each batch, one a GPU, or on the CPU; auto: all GPUs.  [default: 1]",
            ),
            setting(
                "--logger",
                env="FIT_LOGGER",
                type=click.Choice(["tensorboard", "csv", "wandb", "mlflow"]),
                default="tensorboard",
                show_default=True,
                help="Where curves go; the CSV file is always written.",
            ),
            setting(
                "--runs",
                env="FIT_RUNS",
                type=click.Path(path_type=Path),
                default=DEFAULT_RUNS,
                show_default=True,
                help="Folder of logs and of the best epoch's weights.",
            ),
            setting(
                "--checkpoint-every",
                "checkpoint_every_s",
                env="FIT_CHECKPOINT_EVERY",
                type=Duration(),
                help="Least time between two checkpoints to resume from: what a kill costs at most.  [default: 2m]",
            ),
            click.option(
                "--fast-dev-run",
                is_flag=True,
                help="Run one batch of each loop, in one process whatever --devices says, and publish nothing.",
            ),
            registry_option,
        )
    ):
        command = option(command)
    return command


def read_config(ctx: click.Context, *, run: Run | None = None) -> FitConfig:
    """The checked settings of a command with `fit_options`.

    Args:
        ctx: The command's context.
        run: A run to go on with: what the user does not set is as there.

    Raises:
        UsageError: A value is out of range or a name is unknown.
        InputError: The config file cannot be read.
    """
    options = given(ctx, FitConfig.model_fields)
    if run is not None:
        return FitConfig.resume(run.record.settings, ctx.params["config"], **options)
    return FitConfig.load(ctx.params["config"], **options)
