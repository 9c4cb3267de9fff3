"""How results, a status and an audit look."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import click

from scorequeue.terminal import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from producer.downloads import ResultReader
    from producer.inputs import Inputs
    from producer.job import Job
    from producer.joinable import Column
    from producer.progress import Narrator
    from scorequeue.jobs import JobStatus

_FILE_WIDTH = 120
"""Characters of a table's lines in a file, which has no width of its own."""


_MOST_SOURCES = 3
"""Inputs of a job that are all named; of more, only the first is."""


def write_results(
    job: Job,
    *,
    output_format: str,
    output: str | None,
    inputs: Inputs | None,
    columns: Sequence[Column] | None = None,
    partial: bool,
    only_errors: bool = False,
    followed: ResultReader | None = None,
) -> None:
    """Write a job's results; as they come, if they are followed.

    Args:
        job: The job.
        output_format: A name that ``choose_format`` gave.
        output: A file, or None or ``-`` for standard output.
        inputs: Its inputs, to which they are joined.
        columns: The columns that ``check_join`` found.
        partial: Whether to take what is there while it runs.
        only_errors: Whether to leave out the rows that were scored.
        followed: The reader that follows it.
    """
    from producer.join import join
    from producer.output import write_output
    from producer.writers import render_joined, render_results, render_table

    reader = followed or job.reader(partial=partial)
    is_live = followed is not None
    if output_format == "table":
        from rich.console import Console

        is_file = output is not None and output != "-"
        console = Console(file=io.StringIO(), width=_FILE_WIDTH) if is_file else Console(file=sys.stdout)
        rows = join(reader, inputs, is_one_table=False) if inputs is not None else reader.chunks()
        write_output(render_table(console, rows, only_errors=only_errors), output, is_live=is_live)
    elif inputs is not None:
        write_output(render_joined(output_format, join(reader, inputs), columns=columns), output, is_live=is_live)
    else:
        pieces = render_results(output_format, reader.chunks(), only_errors=only_errors)
        write_output(pieces, output, is_live=is_live)


def note_missing_workers(status: JobStatus, narrator: Narrator) -> None:
    """Say that nobody is there to score a job, if so."""
    if status.live_workers == 0 and not status.state.is_final:
        narrator.note(f"no live worker listens on lane {status.lane}; start one with: worker start")


def missing_workers_teller(narrator: Narrator) -> Callable[[JobStatus], None]:
    """Return what is told each status of a job that somebody waits for, and notes each time the last worker is gone."""
    had_workers = True

    def tell(status: JobStatus) -> None:
        nonlocal had_workers
        if had_workers and status.live_workers == 0:
            note_missing_workers(status, narrator)
        had_workers = status.live_workers > 0

    return tell


def status_lines(status: JobStatus) -> str:
    """Return a status as aligned lines."""
    rate = f", {status.rows_per_second:,.0f} rows/s" if status.rows_per_second else ""
    left = f", about {status.eta_seconds:,.0f} s left" if status.eta_seconds else ""
    facts = {
        "job": status.id,
        "state": f"{status.state}{rate}{left}",
        "rows": f"{status.total:,} = {status.scored:,} scored + {status.failed:,} failed"
        f" + {status.cancelled:,} cancelled + {status.pending:,} pending",
        "truncated": f"{status.truncated:,}" if status.truncated else None,
        "error": status.error,
        "lane": f"{status.lane}, live workers: {status.live_workers}",
        "model": status.model_version or "the one that is current when the job starts",
        "source": _sources(status.source) or None,
        "metadata": ", ".join(f"{key}={value}" for key, value in status.metadata.items()) or None,
        "key": status.idempotency_key,
    }
    for name in ("created", "started", "finished", "deadline", "results_expire"):
        at = getattr(status, f"{name}_at")
        facts[name.replace("_", " ")] = at.strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else None
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:<{width}}{harmless(str(value))}" for name, value in facts.items() if value is not None)


def _sources(names: Sequence[str]) -> str:
    """Return the names of a job's inputs: a few, and how many more there are."""
    if len(names) <= _MOST_SOURCES:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1:,} more"


def list_lines(jobs: Sequence[JobStatus]) -> str:
    """Return one aligned line for each job."""
    rows = [("job", "created", "state", "lane", "done", "failed", "source")]
    for job in jobs:
        done = f"{job.total - job.pending:,}/{job.total:,}"
        made = job.created_at.strftime("%Y-%m-%d %H:%M:%S")
        rows.append(
            (job.id, made, str(job.state), str(job.lane), done, f"{job.failed:,}", harmless(_sources(job.source)))
        )
    return "\n".join(aligned(rows, right=(4, 5)))


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int]) -> Iterator[str]:
    """Yield rows as lines whose cells stand below each other; the last one ends where it ends.

    Args:
        rows: The cells, a heading first if there is one.
        right: Columns that stand on the right of their width, as numbers do.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def print_status(status: JobStatus, *, as_json: bool) -> None:
    """Print a status for a program or for a person."""
    click.echo(status.model_dump_json() if as_json else status_lines(status))
