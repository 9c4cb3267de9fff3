"""``training show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from scorequeue.manifest import Manifest
from scorequeue.registry import Registry
from training.cli.options import registry_option
from training.cli.tables import plain
from training.listing import entries_about, tell_entry


@click.command()
@click.argument("version", required=False)
@registry_option
@click.option("--json", "as_json", is_flag=True, help="The manifest as it is.")
def show(*, version: str | None, registry: Path, as_json: bool) -> None:
    """Verify a version and show what it is and how it went with it; without a name, the current one.

    Example: training show 20261123T101500-1f3c9a
    """
    store = Registry(registry)
    manifest = store.verify(store.resolve(None if version == "current" else version))
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    for name, value in _lines(store, manifest):
        click.echo(plain(f"{name:<18}{value}"))


def _lines(store: Registry, manifest: Manifest) -> Iterator[tuple[str, str]]:
    version = manifest.version
    state = "current" if version == store.pointed() else "what `rollback` brings back" * (version == store.previous())
    yield "version", version + (f" ({state})" if state else "")
    yield "folder", str(store.path(version))
    yield "created", f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC"
    yield "base model", manifest.base_model
    yield "parent", manifest.parent or "-"
    yield "labels", ", ".join(manifest.labels)
    yield "max length", f"{manifest.max_length} tokens"
    yield "data", _tell(manifest.dataset)
    metrics = manifest.metrics
    if "mcc" in metrics:
        interval = f" ({metrics['mcc_low']:.3f} to {metrics['mcc_high']:.3f})" if "mcc_low" in metrics else ""
        yield "MCC", f"{metrics['mcc']:.3f}{interval}"
    rest = {name: round(value, 4) for name, value in metrics.items() if not name.startswith("mcc")}
    yield "other figures", _tell(rest)
    yield "settings", _tell(manifest.training_config)
    yield "seed", "-" if manifest.seed is None else str(manifest.seed)
    yield "commit", manifest.git_commit or "-"
    yield "tracking", _tell(manifest.tracking)
    yield "packages", _tell(manifest.packages)
    yield "golden sentences", str(len(manifest.golden))
    yield "files", f"{len(manifest.files)}, all as the manifest says"
    for entry in entries_about(version, store.history()):
        yield f"{entry.at:%Y-%m-%d %H:%M}", tell_entry(entry, version) + (f": {entry.why}" if entry.why else "")


def _tell(facts: Mapping[str, Any]) -> str:
    """Facts on one line; those that say nothing are left out."""
    return "  ".join(f"{name} {value}" for name, value in facts.items() if value is not None) or "-"
