"""The `training` command: parse, call the library, print. torch is imported by the commands, not by `--help`."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

import scorequeue
from scorequeue import logs
from scorequeue.errors import ExitCode, ScorequeueError
from scorequeue.registry import Registry
from training.config import DEFAULT_REGISTRY, DEFAULT_RUNS, FitConfig

log = logging.getLogger(__name__)


def _setting(*names: str, env: str, **options: Any) -> Any:
    """An option that is a setting: its help names its environment variable."""
    return click.option(*names, envvar=f"SCOREQUEUE_{env}", show_envvar=True, **options)


registry_option = _setting(
    "--registry",
    env="REGISTRY",
    type=click.Path(path_type=Path),
    default=DEFAULT_REGISTRY,
    show_default=True,
    help="Folder of the versions.",
)


def _log_options(command: Any) -> Any:
    for option in (
        _setting("--quiet", env="QUIET", is_flag=True, help="Print nothing on stderr but errors."),
        _setting(
            "--log-format",
            env="LOG_FORMAT",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="How log lines look.",
        ),
        _setting(
            "--log-level",
            env="LOG_LEVEL",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            help="Least level that is logged.",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(scorequeue.__version__, prog_name="training")
def cli() -> None:
    """Make and look at checkpoint versions.

    Example: training fit --dataset sample
    """


@cli.command()
@_setting(
    "--dataset",
    env="FIT_DATASET",
    default="cola",
    show_default=True,
    help="cola (from the hub), sample (made here, needs no network), or a folder in CoLA's file layout.",
)
@_setting(
    "--base-model",
    env="FIT_BASE_MODEL",
    default="minilm-l6",
    show_default=True,
    help="minilm-l6, bert-tiny, electra-small, a transformers folder, or a hub id.",
)
@_setting("--epochs", env="FIT_EPOCHS", type=int, help="Passes over the data.  [default: 5; sample: 1]")
@_setting("--lr", env="FIT_LR", type=float, help="Peak learning rate of the encoder.  [default: 1e-4]")
@_setting(
    "--head-lr",
    env="FIT_HEAD_LR",
    type=float,
    help="Peak learning rate of pooler and classifier.  [default: 1e-4; sample: 5e-4]",
)
@_setting("--batch-size", env="FIT_BATCH_SIZE", type=int, help="Rows in a step.  [default: 32; sample: 16]")
@_setting("--dropout", env="FIT_DROPOUT", type=float, help="Rate.  [default: the base model's; sample: 0]")
@_setting("--max-length", env="FIT_MAX_LENGTH", type=int, help="Most tokens of a text.  [default: the model's limit]")
@_setting("--seed", env="FIT_SEED", type=int, help="Seed of weights, order and made sentences.  [default: 0]")
@_setting(
    "--precision",
    env="FIT_PRECISION",
    type=click.Choice(["auto", "32-true", "bf16-mixed"]),
    default="auto",
    show_default=True,
    help="auto: bfloat16 where the device has it natively, else float32.",
)
@_setting(
    "--logger",
    env="FIT_LOGGER",
    type=click.Choice(["tensorboard", "csv"]),
    default="tensorboard",
    show_default=True,
    help="Where curves go; the CSV file is always written.",
)
@_setting(
    "--runs",
    env="FIT_RUNS",
    type=click.Path(path_type=Path),
    default=DEFAULT_RUNS,
    show_default=True,
    help="Folder of logs and of the best epoch's weights.",
)
@click.option("--fast-dev-run", is_flag=True, help="Run one batch of each loop and publish nothing.")
@registry_option
@_log_options
def fit(*, quiet: bool, log_level: str, log_format: str, **values: Any) -> None:
    """Train a checkpoint and print the new version.

    The epoch with the best validation Matthews correlation is published; a registry's first version becomes current.

    Example: training fit --dataset sample
    """
    logs.configure("error" if quiet else log_level, "json" if log_format == "json" else "text")
    config = FitConfig.load(**values)
    # Read by OpenMP when torch is imported. Its threads would spin while they wait for each other, which next to
    # another busy process (a worker, say) costs most of the speed (docs/performance.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console

    from training.fit import fit as run_fit

    result = run_fit(config, console=None if quiet else Console(stderr=True))
    if not quiet:
        click.echo(
            f"validation MCC {result.mcc:.3f}, accuracy {result.accuracy:.3f}, loss {result.loss:.3f}; "
            f"trained {result.rows_per_second:.0f} rows/s, {result.seconds:.0f} s in all",
            err=True,
        )
    if result.version is None:
        click.echo("fast dev run: nothing was published", err=True)
    else:
        click.echo(result.version)


@cli.command("import")
@click.argument("source", metavar="FOLDER|HUB_ID")
@_setting(
    "--max-length",
    env="IMPORT_MAX_LENGTH",
    type=click.IntRange(min=4),
    help="Most tokens of a text; longer ones are cut.  [default: the model's limit]",
)
@registry_option
@_log_options
def import_version(
    *, source: str, max_length: int | None, registry: Path, quiet: bool, log_level: str, log_format: str
) -> None:
    """Publish a transformers sequence classifier and print the new version.

    It takes safetensors weights, a fast tokenizer and 2 or more labels, of which each text has one. One text a row is
    scored: models for pairs of texts are refused where config.json shows it. A registry's first version becomes
    current.

    Example: training import path/to/checkpoint
    """
    logs.configure("error" if quiet else log_level, "json" if log_format == "json" else "text")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for a fit
    from training.importing import import_checkpoint

    result = import_checkpoint(source, registry=registry, max_length=max_length)
    if not quiet:
        labels = ", ".join(result.labels)
        click.echo(f"{len(result.labels)} labels ({labels}), at most {result.max_length} tokens a text", err=True)
        if result.current != result.version:
            click.echo(
                f"published, not promoted: new jobs stay on {result.current}; to score a job with this one: "
                f"producer submit --model-version {result.version}",
                err=True,
            )
    click.echo(result.version)


@cli.command("list")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_versions(*, registry: Path, as_json: bool) -> None:
    """List the versions, oldest first, the current one with a star.

    Example: training list
    """
    store = Registry(registry)
    current = store.current()
    manifests = [store.manifest(version) for version in store.versions()]
    if as_json:
        rows = [
            {
                "version": manifest.version,
                "is_current": manifest.version == current,
                "created_at": manifest.created_at.isoformat(),
                "base_model": manifest.base_model,
                "dataset": manifest.dataset.get("name"),
                "metrics": manifest.metrics,
            }
            for manifest in manifests
        ]
        click.echo(json.dumps(rows))
        return
    for manifest in manifests:
        star = "*" if manifest.version == current else " "
        mcc = f"{manifest.metrics['mcc']:.3f}" if "mcc" in manifest.metrics else "-"
        click.echo(f"{star} {manifest.version}  mcc {mcc}  {manifest.base_model}  {manifest.dataset.get('name', '-')}")


@cli.command()
@click.argument("version", required=False)
@registry_option
@click.option("--json", "as_json", is_flag=True, help="The manifest as it is.")
def show(*, version: str | None, registry: Path, as_json: bool) -> None:
    """Verify a version and show its manifest; without a name, the current one.

    Example: training show 20261123T101500-1f3c9a
    """
    store = Registry(registry)
    manifest = store.verify(store.resolve(version))
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    for name, value in manifest.model_dump(mode="json", exclude={"golden", "format", "labels", "files"}).items():
        if isinstance(value, dict):
            value = "  ".join(f"{key} {entry}" for key, entry in value.items())
        click.echo(f"{name.replace('_', ' '):<16} {'-' if value is None else value}")
    click.echo(f"{'labels':<16} {', '.join(manifest.labels)}")
    click.echo(f"{'golden':<16} {len(manifest.golden)} sentences")
    click.echo(f"{'files':<16} {len(manifest.files)}, all as the manifest says")


def main() -> None:
    """Run the command; every way it can end is an exit code of errors.ExitCode."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = _end("interrupted; nothing was published", ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        code = _end("interrupted; nothing was published", ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except ScorequeueError as error:
        code = _end(f"Error: {error}", error.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # the reader left; there is nobody to flush to
        code = ExitCode.DONE
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("scorequeue", "training"):
            raise
        code = _end(f'Error: {error.name} is not installed; run: pip install "scorequeue[training]"', ExitCode.USAGE)
    except Exception:
        log.exception("unexpected error", extra=logs.fields("crash"))
        code = _end("Error: unexpected, see the trace above; please report it", ExitCode.UNEXPECTED)
    sys.exit(code or ExitCode.DONE)


def _end(message: str, code: ExitCode) -> ExitCode:
    click.echo(message, err=True)
    return code


if __name__ == "__main__":
    main()
