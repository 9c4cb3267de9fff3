"""``training show``."""

from __future__ import annotations

from pathlib import Path

import click

from scorequeue.registry import Registry
from training.cli.options import registry_option


@click.command()
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
