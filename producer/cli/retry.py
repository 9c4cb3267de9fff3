"""producer retry: score a job's failed rows again."""

from __future__ import annotations

import json

import click

from producer.cli.options import context_options, start


@click.command(epilog="Example: producer retry 019a2b3c4d5e7f608192a3b4c5d6e7f8")
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print how many rows as one line of JSON.")
@context_options
@click.pass_context
def retry(ctx: click.Context, job_id: str, as_json: bool) -> None:
    """Score rows again that failed while they were scored.

    Rows with the errors scoring_failed and worker_lost become pending again, on the job's model version; rows whose
    input was faulty do not. The job has to have ended as completed. See how it goes on with: producer status JOB.
    """
    started = start(ctx)
    with started.connect() as client:
        rows = client.job(job_id).retry()
    if as_json:
        click.echo(json.dumps({"id": job_id, "retried": rows}))
    note = f"{rows:,} rows of job {job_id} are tried again" if rows else f"job {job_id} has no row to try again"
    started.narrator.note(note)
