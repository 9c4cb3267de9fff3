"""``training fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.cli.fit_options import fit_options, read_config
from training.cli.options import log_options, start
from training.runs import LAST, find


@click.command()
@fit_options
@click.option(
    "--resume",
    is_flag=False,
    flag_value=LAST,
    metavar="[last|PATH]",
    help="Go on with the newest run that was stopped, or with a run's folder; the other settings are then the run's.",
)
@log_options
@click.pass_context
def fit(
    ctx: click.Context, *, resume: str | None, runs: Path, quiet: bool, log_level: str, log_format: str, **_: Any
) -> None:
    """Train a checkpoint and print the new version.

    The epoch with the best validation Matthews correlation is published; a registry's first version becomes current.

    Settings come from options, else variables, else the config file, else the dataset's recipe, else the defaults.

    Example: training fit --config quick --epochs 2
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    run = None if resume is None else find(resume, runs=runs)
    config = read_config(ctx, run=run)
    from rich.console import Console

    from training.fit import fit as run_fit

    result = run_fit(config, resume=run, console=None if quiet else Console(stderr=True))
    if not quiet:
        rate = f"trained {result.rows_per_second:.0f} rows/s, " if result.rows_per_second else ""
        click.echo(
            f"validation MCC {result.mcc:.3f}, accuracy {result.accuracy:.3f}, loss {result.loss:.3f}; "
            f"{rate}{result.seconds:.0f} s in all",
            err=True,
        )
    if result.version is None:
        click.echo("fast dev run: nothing was published", err=True)
    else:
        click.echo(result.version)
