"""``training rollback``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from scorequeue.registry import Registry
from training.cli.options import registry_option


@click.command()
@click.option("--why", default="", help="The reason, for the history.")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def rollback(*, why: str, registry: Path, as_json: bool) -> None:
    """Go back to the version that was current before, and print it.

    Once more goes one further back. A version that was pruned is passed over, one that is damaged is refused (6).

    Example: training rollback --why "too many false alarms"
    """
    store = Registry(registry)
    before = store.pointed()
    version = store.rollback(why=why.strip())
    if as_json:
        click.echo(json.dumps({"version": version, "previous": before}))
        return
    click.echo(
        f"{before or 'a pointer that is damaged or gone'} was current; workers take up the other one within seconds",
        err=True,
    )
    click.echo(version)
