"""``training import``."""

from __future__ import annotations

from pathlib import Path

import click

from training.cli.options import dataset_options, log_options, registry_option, setting, start


@click.command("import")
@click.argument("source", metavar="FOLDER|HUB_ID")
@setting(
    "--max-length",
    env="IMPORT_MAX_LENGTH",
    type=click.IntRange(min=4),
    help="Most tokens of a text; longer ones are cut.  [default: the model's limit]",
)
@dataset_options(required=False)
@registry_option
@log_options
def import_version(
    *,
    source: str,
    max_length: int | None,
    dataset: str | None,
    split: str,
    text_field: str | None,
    label_field: str | None,
    registry: Path,
    quiet: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Publish a transformers sequence classifier and print the new version.

    It takes safetensors weights, a fast tokenizer and 2 or more labels, of which each text has one. One text a row is
    scored: models for pairs of texts are refused where config.json shows it. With --dataset it is judged as a fit is.
    A registry's first version becomes current.

    Example: training import path/to/checkpoint
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    from training.importing import import_checkpoint
    from training.sources import Part

    part = None if dataset is None else Part(dataset, split, text_field, label_field)
    result = import_checkpoint(source, registry=registry, max_length=max_length, part=part)
    if not quiet:
        labels = ", ".join(result.labels)
        click.echo(f"{len(result.labels)} labels ({labels}), at most {result.max_length} tokens a text", err=True)
        if result.figures is not None:
            click.echo(f"MCC {result.figures.mcc:.3f}, accuracy {result.figures.accuracy:.3f}", err=True)
        if result.current != result.version:
            stay = "" if result.current is None else f" new jobs stay on {result.current};"
            click.echo(
                f"published, not promoted:{stay} to score a job with this one: "
                f"producer submit --model-version {result.version}",
                err=True,
            )
    click.echo(result.version)
