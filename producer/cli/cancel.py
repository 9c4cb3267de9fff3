"""producer cancel: end a job early."""

from __future__ import annotations

import click

from producer.cli.options import context_options, start


@click.command(epilog="Example: producer cancel 019a2b3c4d5e7f608192a3b4c5d6e7f8")
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print the job's status as one line of JSON.")
@context_options
@click.pass_context
def cancel(ctx: click.Context, job_id: str, as_json: bool) -> None:
    """End a job early.

    What is scored stays and can be downloaded; the rest counts as cancelled. A job that has ended stays as it is.
    """
    from producer.cli.show import print_status

    started = start(ctx)
    with started.connect() as client:
        status = client.job(job_id).cancel()
    if as_json:
        print_status(status, as_json=True)
    started.narrator.note(
        f"job {job_id} is {status.state}: {status.scored:,} rows scored, {status.failed:,} failed,"
        f" {status.cancelled:,} cancelled"
    )
