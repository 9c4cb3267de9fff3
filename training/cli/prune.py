"""``training prune``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from training.cli.options import log_options, registry_option, setting, start


@click.command()
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest versions stay.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--ignore-jobs", is_flag=True, help="Ask no Redis: no queue uses this registry.")
@setting(
    "--redis-url", env="REDIS_URL", metavar="URL", help="Address of Redis; default: the embedded one, else localhost."
)
@setting("--namespace", env="NAMESPACE", metavar="NAME", help="Prefix of all keys; default: scorequeue.")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def prune(
    *,
    keep: int,
    dry_run: bool,
    ignore_jobs: bool,
    redis_url: str | None,
    namespace: str | None,
    registry: Path,
    as_json: bool,
    quiet: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Remove old versions, and print those that went.

    What stays whatever its age: the current version, the one that `rollback` would bring back, those that a job which
    has not ended is pinned to, and those that a live worker has ready. Where Redis cannot be asked, nothing is removed
    (3).

    Example: training prune --keep 10 --dry-run
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    from scorequeue.pruning import prune as run_prune
    from scorequeue.registry import Registry

    asked = "no job was asked for"

    def find_in_use() -> Mapping[str, str]:
        nonlocal asked
        if ignore_jobs:
            return {}
        from scorequeue.masking import mask_url
        from scorequeue.settings import Settings
        from training.pins import read_pins

        settings = Settings.load(redis_url=redis_url, namespace=namespace)
        pins = read_pins(settings)
        asked = f"{pins.workers} live workers in namespace {settings.namespace} of {mask_url(settings.redis_url)}"
        return pins.in_use

    found = run_prune(Registry(registry), keep=keep, find_in_use=find_in_use, is_dry_run=dry_run)
    if as_json:
        names = ("removed", "spared", "leftovers", "undeleted")
        click.echo(json.dumps({name: getattr(found, name) for name in names} | {"dry_run": dry_run}))
        return
    if not quiet:
        for version, why in found.spared.items():
            click.echo(f"{version} stays: {why}", err=True)
        verb = "would go" if dry_run else "removed"
        click.echo(f"{len(found.removed)} {verb}, {len(found.spared)} older ones stay; {asked}", err=True)
        for name in found.leftovers:
            click.echo(f"{name}: left by a killed program, deleted", err=True)
        for name in found.undeleted:
            click.echo(f"{name}: a program has a file of it open; the next prune deletes it", err=True)
    for version in found.removed:
        click.echo(version)
