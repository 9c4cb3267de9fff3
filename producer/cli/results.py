"""producer results: a job's rows with their scores, in input order."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from producer.cli.options import come_back_later, context_options, start
from scorequeue.errors import UsageError

if TYPE_CHECKING:
    from producer.downloads import ResultReader


@click.command(epilog="Example: producer results 019a2b3c4d5e7f608192a3b4c5d6e7f8 --join in.csv --output scored.csv")
@click.argument("job_id", metavar="JOB")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["jsonl", "csv", "tsv", "parquet", "table"]),
    help="Default: by the suffix of --output, else a table on a terminal, else jsonl.",
)
@click.option("--output", metavar="FILE", type=click.Path(), help="Write to a file, which appears once it is whole.")
@click.option("--errors", "only_errors", is_flag=True, help="Only the rows that failed.")
@click.option("--partial", is_flag=True, help="Take what is there while the job still runs.")
@click.option("--follow", is_flag=True, help="Write rows in input order while the job runs, until it ends.")
@click.option("--discard", is_flag=True, help="Let go of the results in Redis once the --output file is on disk.")
@click.option(
    "--join",
    "joined",
    metavar="INPUT",
    multiple=True,
    type=click.Path(),
    help="Write this input's own columns and pred_label, pred_score, pred_error; one for each input of the job.",
)
@context_options
@click.pass_context
def results(
    ctx: click.Context,
    job_id: str,
    output_format: str | None,
    output: str | None,
    only_errors: bool,
    partial: bool,
    follow: bool,
    discard: bool,
    joined: tuple[str, ...],
) -> None:
    """Write a job's results in input order.

    Scored rows carry a label, its score and the score of every label; failed rows carry their error, file and line.
    With --follow rows are written while the job runs.
    """
    from producer.cli.show import note_missing_workers, write_results
    from producer.inputs import Inputs
    from producer.joinable import check_join
    from producer.output import check_output, check_stdout
    from producer.patterns import expand, shown
    from producer.writers import choose_format

    joined = expand(joined)
    if joined and only_errors:
        raise UsageError("expected either --join or --errors, got both")
    if follow and (partial or discard):
        raise UsageError("expected --follow without --partial and --discard: it takes all, while a retry may change it")
    if discard:
        _check_discard(output, only_errors=only_errors, partial=partial)
    check_output(output, inputs=joined)
    started = start(ctx)
    with started.connect() as client:
        job = client.job(job_id)
        if follow:
            come_back_later(f"Job {job_id} goes on; see: producer results {job_id} --follow")
            is_to_stdout = output is None or output == "-"
            reader: ResultReader = job.follower(on_status=lambda _: check_stdout() if is_to_stdout else None)
            note_missing_workers(reader.status, started.narrator)
        else:
            reader = job.reader(partial=partial)
        inputs = columns = None
        if joined:
            inputs = Inputs.reopen(joined, reader.reader_options(), names=reader.status.source, where=shown(joined))
        try:
            output_format = choose_format(
                output_format,
                output,
                is_terminal=sys.stdout.isatty(),
                joined=inputs.readers[0].input_format if inputs else None,
            )
            if inputs is not None:
                columns = check_join(inputs, output_format)
            write_results(
                job,
                output_format=output_format,
                output=output,
                inputs=inputs,
                columns=columns,
                partial=partial,
                only_errors=only_errors,
                followed=reader if follow else None,
            )
            if discard:
                chunks = job.discard()
                started.narrator.note(f"the results are in {output}, and {chunks:,} chunks of them no longer in Redis")
        finally:
            if inputs is not None:
                inputs.close()


def _check_discard(output: str | None, *, only_errors: bool, partial: bool) -> None:
    """Refuse to let go of results of which no whole copy is on disk."""
    if only_errors or partial:
        raise UsageError("expected --discard with all results, got it with --errors or --partial")
    if output is None or output == "-" or (os.path.exists(output) and not os.path.isfile(output)):
        raise UsageError(
            "expected --discard together with --output FILE: what goes to a pipe or a terminal is not known to be kept"
        )
