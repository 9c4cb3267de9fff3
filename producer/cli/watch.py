"""producer watch: follow a job until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from producer.cli.options import MostFailed, come_back_later, context_options, max_failed_option, start, timeout_option

if TYPE_CHECKING:
    from scorequeue.jobs import JobStatus


@click.command(epilog="Example: producer watch 019a2b3c4d5e7f608192a3b4c5d6e7f8 --timeout 2h")
@click.argument("job_id", metavar="JOB")
@timeout_option
@max_failed_option("Exit with 8 if more rows failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the final status as one line of JSON.")
@context_options
@click.pass_context
def watch(ctx: click.Context, job_id: str, timeout: float | None, max_failed: MostFailed, as_json: bool) -> None:
    """Follow a job until it ends, and print its final status.

    Shows how far it is on stderr, and says when no live worker listens on its lane. Ctrl-C leaves the job running.
    Exits with 0 when it completed with no more failed rows than --max-failed, else with 8; with 4 at --timeout.
    """
    from producer.cli.show import missing_workers_teller, print_status
    from producer.cli.verdict import judge

    started = start(ctx)
    with started.connect() as client:
        job = client.job(job_id)
        come_back_later(f"Job {job_id} goes on; see: producer watch {job_id}, producer results {job_id}")
        tell_of_workers = missing_workers_teller(started.narrator)
        tell_of_workers(job.status())
        with started.narrator.scoring() as tell:

            def on_status(status: JobStatus) -> None:
                tell_of_workers(status)
                tell(status)

            found = job.wait(timeout, on_status=on_status)
    print_status(found, as_json=as_json)
    judge(found, max_failed)
