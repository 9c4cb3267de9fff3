"""``training fit``."""

from __future__ import annotations

from typing import Any

import click

from training.cli.fit_options import fit_options, read_config
from training.cli.options import log_options, start


@click.command()
@fit_options
@log_options
@click.pass_context
def fit(ctx: click.Context, *, quiet: bool, log_level: str, log_format: str, **_: Any) -> None:
    """Train a checkpoint and print the new version.

    The epoch with the best validation Matthews correlation is published; a registry's first version becomes current.

    Settings come from options, else variables, else the config file, else the dataset's recipe, else the defaults.

    Example: training fit --config quick --epochs 2
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    config = read_config(ctx)
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
