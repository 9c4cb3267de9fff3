"""producer list: the namespace's jobs."""

from __future__ import annotations

import click

from producer.cli.options import context_options, start

_STATES = ("submitting", "queued", "running", "completed", "cancelled", "expired", "failed")


@click.command("list", epilog="Example: producer list --state running --limit 10")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only jobs in it; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each job.")
@context_options
@click.pass_context
def list_jobs(ctx: click.Context, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List jobs, the newest first.

    A line a job: its id, when it was made, its state, and how many of its rows are done. Jobs are listed until their
    results expire.
    """
    from producer.cli.show import list_lines
    from scorequeue.jobs import JobState

    started = start(ctx)
    with started.connect() as client:
        found = client.jobs(states=[JobState(state) for state in states], limit=limit)
    if as_json:
        for status in found:
            click.echo(status.model_dump_json())
    elif found:
        click.echo(list_lines(found))
    if not found:
        started.narrator.note("no jobs" if not states else f"no jobs in state {' or '.join(states)}")
