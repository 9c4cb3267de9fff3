"""``training list``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from scorequeue.registry import Registry
from training.cli.options import registry_option
from training.cli.tables import plain, print_table
from training.listing import Listed, list_registry, tell_age


@click.command("list")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_versions(*, registry: Path, as_json: bool) -> None:
    """List the versions, oldest first: the current one with a star, the one that `rollback` brings back with a <.

    The last column says what was decided last: promoted, forced, refused, rolled back (another came back in its place),
    brought back, or not judged.

    Example: training list
    """
    listed = list_registry(Registry(registry))
    if as_json:
        click.echo(json.dumps([describe(one) for one in listed]))
    elif listed:
        now = datetime.now(UTC)
        head = ("", "version", "age", "MCC", "95 % interval", "dataset", "base model", "parent", "went")
        print_table(head, [_cells(one, now) for one in listed])
    else:
        click.echo(f"no version in registry {registry} yet; make one with `training fit`", err=True)


def describe(one: Listed) -> dict[str, Any]:
    """A version as a program reads it."""
    found: dict[str, Any] = {
        "version": one.version,
        "is_current": one.is_current,
        "is_previous": one.is_previous,
        "went": one.went(),
        "last": None if one.last is None else one.last.model_dump(mode="json", exclude={"numbers"}),
    }
    if one.manifest is None:
        return found | {"error": one.error}
    return found | {
        "created_at": one.manifest.created_at.isoformat(),
        "base_model": one.manifest.base_model,
        "parent": one.manifest.parent,
        "dataset": one.manifest.dataset.get("name"),
        "train_rows": one.manifest.dataset.get("train_rows"),
        "metrics": one.manifest.metrics,
    }


def _cells(one: Listed, now: datetime) -> tuple[str, ...]:
    mark = "*" if one.is_current else "<" if one.is_previous else ""
    if one.manifest is None:
        return (mark, one.version, "-", "-", "-", "-", "-", "-", plain(f"damaged: {one.error}"))
    metrics, data = one.manifest.metrics, one.manifest.dataset
    rows = data.get("train_rows")
    return (
        mark,
        one.version,
        tell_age(one.manifest.created_at, now),
        f"{metrics['mcc']:.3f}" if "mcc" in metrics else "-",
        f"{metrics['mcc_low']:.3f} to {metrics['mcc_high']:.3f}" if {"mcc_low", "mcc_high"} <= metrics.keys() else "-",
        plain(f"{data.get('name', '-')}{f', {rows:,} rows' if isinstance(rows, int) else ''}"),
        plain(one.manifest.base_model),
        one.manifest.parent or "-",
        one.went(),
    )
