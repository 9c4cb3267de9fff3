"""``training refresh``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from scorequeue.errors import GateRefusedError
from training.cli.fit_options import fit_options, read_config
from training.cli.options import log_options, start

if TYPE_CHECKING:
    from training.refresh import Refreshed


@click.command()
@fit_options
@click.option("--strict", is_flag=True, help="Exit with 7 if nothing was promoted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the gate's checks and numbers.")
@log_options
@click.pass_context
def refresh(
    ctx: click.Context, *, strict: bool, as_json: bool, quiet: bool, log_level: str, log_format: str, **_: Any
) -> None:
    """Fit, evaluate, and promote if better: what a scheduler runs every night.

    It takes the options of a fit. It ends with 0 whether the new version went live or not, so that a scheduler does not
    run it again; stdout says which. One refresh at a time works on a registry: a second one waits a minute, in case the
    first was killed, and then says who is at work.

    Example: training refresh --config cola --dataset sentences.csv --warm-start
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    config = read_config(ctx)
    from rich.console import Console

    from training.refresh import refresh as run_refresh

    result = run_refresh(config, console=None if quiet else Console(stderr=True))
    if as_json:
        click.echo(json.dumps(describe(result)))
    else:
        click.echo(f"version: {result.version or '-'}")
        click.echo(f"promoted: {str(result.promoted).lower()}")
        click.echo(f"reason: {result.reason}")
    if strict and not result.promoted:
        raise GateRefusedError(f"nothing was promoted: {result.reason}")


def describe(result: Refreshed) -> dict[str, object]:
    """The result as a program reads it."""
    verdict = result.verdict
    return {
        "version": result.version,
        "promoted": result.promoted,
        "reason": result.reason,
        "previous": result.previous,
        "checks": [] if verdict is None else [check.model_dump() for check in verdict.checks],
        "numbers": {} if verdict is None else verdict.numbers,
    }
