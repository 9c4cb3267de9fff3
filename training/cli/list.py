"""``training list``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from scorequeue.registry import Registry
from training.cli.options import registry_option


@click.command("list")
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
