"""submit --dry-run: what a submit would put on the queue, for eyes or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from producer.cli.options import Start
from producer.cli.show import aligned
from scorequeue.errors import JobNotCleanError

if TYPE_CHECKING:
    from producer.inputs import Inputs
    from producer.report import Fault, InputFacts, Lengths, Report

_BAR_CHARACTERS = 40


def report_inputs(started: Start, inputs: Inputs, options: dict[str, Any]) -> None:
    """Read the inputs of a submit, print the report, and judge it as the end of a job is judged.

    Raises:
        JobNotCleanError: More rows are faulty than ``--max-failed`` allows.
    """
    from producer.report import read_report

    settings = started.settings
    with started.narrator.reading(inputs) as on_rows:
        report = read_report(
            inputs,
            lane=options["lane"],
            chunk_rows=settings.chunk_rows,
            max_rows=settings.max_job_rows,
            on_rows=on_rows,
        )
    click.echo(json.dumps(report.to_dict()) if options["as_json"] else report_lines(report))
    if not options["max_failed"].allows(report.faulty, report.rows):
        raise JobNotCleanError(
            f"{report.faulty:,} of {report.rows:,} rows are faulty, more than --max-failed {options['max_failed']};"
            " nothing was submitted"
        )


def report_lines(report: Report) -> str:
    """Return a report as aligned lines."""
    from scorequeue.terminal import harmless

    return "\n".join(map(harmless, _lines(report)))


def _lines(report: Report) -> Iterator[str]:
    blank = f", {report.blank:,} of them blank" if report.blank else ""
    yield f"rows        {report.rows:,} = {report.good:,} good + {report.faulty:,} faulty{blank}"
    for facts in report.inputs:
        yield f"input       {_input_line(facts)}"
    yield f"chunks      {report.chunks:,} of up to {report.chunk_rows:,} rows, in lane {report.lane}"
    yield f"text        {report.text_bytes:,} bytes of UTF-8 in the good rows"
    if report.ids_compared:
        yield f"ids         {report.duplicate_ids:,} of {report.ids_compared:,} had been there before"
    if report.faults:
        yield ""
        yield from aligned(
            [("fault", "rows", "first at"), *((str(f.code), f"{f.count:,}", _places(f)) for f in report.faults)],
            right=(1,),
        )
    if report.good:
        yield ""
        yield from aligned(
            [
                ("length", "least", "median", "mean", "95 %", "most"),
                ("characters", *_figures(report.characters)),
                ("words", *_figures(report.words)),
            ],
            right=range(1, 6),
        )
        yield ""
        bins = report.characters.histogram
        scale = max(bin.rows for bin in bins)
        bars = [
            (f"{b.least:,} to {b.most:,}", f"{b.rows:,}", "#" * -(-b.rows * _BAR_CHARACTERS // scale)) for b in bins
        ]
        yield from aligned([("characters", "rows", ""), *bars], right=(0, 1))
        yield ""
        longest = [
            (f"{t.row:,}", f"{t.line:,}" if t.line else "", f"{t.characters:,}", t.start) for t in report.longest
        ]
        yield from aligned([("row", "line", "characters", "the longest begin"), *longest], right=(0, 1, 2))


def _input_line(facts: InputFacts) -> str:
    parts = [f"{facts.name}: {facts.format}, {facts.rows:,} rows"]
    if facts.bytes is not None:
        parts.append(f"{facts.bytes:,} bytes")
    if facts.text_field is not None:
        parts.append(f"text field {facts.text_field!r}, id {_id_of(facts)}")
    return ", ".join(parts)


def _id_of(facts: InputFacts) -> str:
    return f"field {facts.id_field!r}" if facts.id_field is not None else "the row's position"


def _places(fault: Fault) -> str:
    """Return where a fault is first, naming each file once: ``a.csv lines 3, 9; b.csv line 2``."""
    found: dict[str, list[int]] = {}
    for place in fault.first:
        key, number = (place.source, place.line) if place.source and place.line else ("", place.row)
        found.setdefault(key, []).append(number)
    parts = []
    for source, numbers in found.items():
        what = ("line" if source else "row") + ("s" if len(numbers) > 1 else "")
        parts.append(f"{source} {what} ".lstrip() + ", ".join(f"{number:,}" for number in numbers))
    return "; ".join(parts) + (", ..." if fault.count > len(fault.first) else "")


def _figures(lengths: Lengths) -> tuple[str, ...]:
    return (
        f"{lengths.least:,}",
        f"{lengths.median:,}",
        f"{lengths.mean:,}",
        f"{lengths.p95:,}",
        f"{lengths.most:,}",
    )
