"""producer audit: count a job's rows again."""

from __future__ import annotations

import json

import click

from producer.cli.options import context_options, start
from scorequeue.errors import JobNotCleanError


@click.command(epilog="Example: producer audit 019a2b3c4d5e7f608192a3b4c5d6e7f8")
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
@context_options
@click.pass_context
def audit(ctx: click.Context, job_id: str, as_json: bool) -> None:
    """Count a job's rows again, and compare with its counters.

    Decodes every result instead of trusting what was noted: each row must be there once, in its place, with scores or
    with an error. Exits with 8 if anything differs, and names each difference.
    """
    started = start(ctx)
    with started.connect() as client:
        found = client.job(job_id).audit()
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        click.echo(
            f"{found.total:,} rows in {found.chunks:,} chunks ({found.state}): {found.scored:,} scored"
            f" + {found.failed:,} failed + {found.cancelled:,} cancelled + {found.pending:,} pending"
        )
        if found.discarded:
            click.echo(f"results of {found.discarded:,} chunks were discarded; their rows are counted by their records")
        click.echo("every row is accounted for once" if found.is_clean else "\n".join(found.differences))
    if not found.is_clean:
        differences = "1 difference" if found.difference_count == 1 else f"{found.difference_count:,} differences"
        raise JobNotCleanError(
            f"the audit of job {job_id} found {differences}:"
            f" its results are not to be relied on; submit its input again, then: producer delete {job_id}"
        )
