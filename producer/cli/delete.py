"""producer delete: take a job away."""

from __future__ import annotations

import click

from producer.cli.options import context_options, start


@click.command(epilog="Example: producer delete 019a2b3c4d5e7f608192a3b4c5d6e7f8")
@click.argument("job_id", metavar="JOB")
@context_options
@click.pass_context
def delete(ctx: click.Context, job_id: str) -> None:
    """Take a job and its results away, whatever its state.

    Rows that were not scored yet never will be. For an hour the id is known as that of a deleted job, so that an upload
    which is still going on ends instead of bringing it back.
    """
    started = start(ctx)
    with started.connect() as client:
        was_there = client.job(job_id).delete()
    started.narrator.note(f"job {job_id} {'is' if was_there else 'was already'} deleted")
