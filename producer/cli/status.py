"""producer status: where a job is."""

from __future__ import annotations

import click

from producer.cli.options import context_options, start


@click.command(epilog="Example: producer status 019a2b3c4d5e7f608192a3b4c5d6e7f8 --json")
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
@context_options
@click.pass_context
def status(ctx: click.Context, job_id: str, as_json: bool) -> None:
    """Say where a job is.

    Prints its state and how many of its rows are scored, failed, cancelled and pending. Says on stderr if no worker is
    there to score it.
    """
    from producer.cli.show import note_missing_workers, print_status

    started = start(ctx)
    with started.connect() as client:
        found = client.job(job_id).status()
    print_status(found, as_json=as_json)
    note_missing_workers(found, started.narrator)
