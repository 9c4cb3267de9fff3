"""producer doctor: whether everything is well, and what to do if not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from producer.cli.options import context_options, start
from scorequeue.terminal import harmless

if TYPE_CHECKING:
    from producer.diagnosis import Diagnosis

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "cyan"}


@click.command(epilog="Example: producer doctor --registry /srv/registry")
@click.option(
    "--registry",
    metavar="DIR",
    type=click.Path(),
    envvar="SCOREQUEUE_REGISTRY",
    show_envvar=True,
    help="Folder of checkpoint versions; default: .scorequeue/registry.",
)
@click.option("--verify", is_flag=True, help="Compare the current version's files with their checksums too.")
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
@context_options
@click.pass_context
def doctor(ctx: click.Context, registry: str | None, verify: bool, as_json: bool) -> None:
    """Say whether all is well, and what to do if not.

    Looks at Redis, the queue, the workers and the registry. One line for each check: ok, warn, fail or unknown (it
    cannot be told from here, or this user may not ask), what was found, and the next step. Expired leases are taken
    back on the way. Exits with 0 when nothing fails, else with the code of the first that does: 3 for Redis, 6 for the
    registry.
    """
    from producer.doctor import diagnose
    from producer.facts import gather

    started = start(ctx, registry=registry)
    found = diagnose(gather(started.settings, verify=verify))
    if as_json:
        checks = [
            {"name": check.name, "state": check.state, "found": check.found, "next": check.next or None}
            for check in found.checks
        ]
        click.echo(json.dumps({"checks": checks}, ensure_ascii=False))
    else:
        _print_lines(found)
    if found.failed:
        names = ", ".join(check.name for check in found.failed)
        started.narrator.note(f"{len(found.failed)} of {len(found.checks)} checks failed: {names}")
        ctx.exit(found.exit_code)


def _print_lines(found: Diagnosis) -> None:
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        state = click.style(f"{check.state:<7}", fg=_COLOURS[check.state])
        step = f" -> {check.next}" if check.next else ""
        click.echo(f"{state}  {harmless(f'{check.name:<{width}}  {check.found}{step}')}")
