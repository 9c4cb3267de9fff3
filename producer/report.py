"""What is in some inputs, before any of it is submitted: rows, faults, lengths. Needs no Redis.

from producer import Inputs, read_report

with Inputs.open(["in.csv"]) as inputs:
    report = read_report(inputs)
print(report.good, report.faulty, report.longest[0].characters)

Memory is flat for inputs of any size: lengths are counted, not kept, and ids are compared up to a million of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from producer.inputs import Inputs
from producer.tally import PlacedRow, Tally
from scorequeue.errors import LimitError, UsageError
from scorequeue.jobs import EXPRESS_ROWS, ErrorCode, Lane

SHOWN_CHARACTERS = 60
"""Characters that are shown of the longest texts."""

_BATCH_ROWS = 512
"""Rows that are looked at together: most of the work is then done by C loops. Fewer than the 700 new objects after
which Python looks for garbage; with 4,096 that took as long as the reading."""


@dataclass(frozen=True, slots=True)
class InputFacts:
    """One input.

    Attributes:
        name: What messages call it.
        format: ``txt``, ``csv``...
        text_field: Name of the text's column, or its number where columns have no names; None where there are none.
        id_field: The same of the id's; None where the row's position is the id.
        bytes: Its size on disk, before unzipping; None for a pipe.
        rows: Its rows, faulty ones included.
    """

    name: str
    format: str
    text_field: str | None
    id_field: str | None
    bytes: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is: its position in the job, from 1, and the file and line that it came from, if any."""

    row: int
    source: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: how many rows have it, and where the first of them are."""

    code: ErrorCode
    count: int
    first: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of a length from ``least`` to ``most``."""

    least: int
    most: int
    rows: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the good rows; zeros where there are none.

    Attributes:
        least: The shortest.
        median: Half of the rows are at most so long.
        mean: The average, to one decimal.
        p95: 95 of 100 rows are at most so long.
        most: The longest.
        histogram: Bins whose borders double, from the first to the last with rows in it.
    """

    least: int
    median: int
    mean: float
    p95: int
    most: int
    histogram: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class LongText:
    """One of the longest texts, by its place, with its first characters as they are."""

    row: int
    source: str | None
    line: int | None
    characters: int
    start: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a submit of the inputs would put on the queue; ``rows = good + faulty``.

    Attributes:
        inputs: Each input, in order.
        rows: All rows.
        good: Rows that would be scored.
        faulty: Rows that would end as failed.
        blank: Those of the faulty rows that hold nothing but blanks.
        faults: Kinds of fault, the most frequent first.
        characters: Lengths in characters.
        words: Lengths in words, which are what stands between blanks. How many tokens they are is the model's affair.
        longest: The longest texts, the longest first.
        text_bytes: UTF-8 bytes of the good rows.
        duplicate_ids: Rows whose id a row before had, among those whose ids were compared.
        ids_compared: How many ids were: at most a million.
        chunk_rows: Rows in each chunk but the last.
        chunks: Chunks that the job would have.
        lane: Lane that it would wait in.
    """

    inputs: tuple[InputFacts, ...]
    rows: int
    good: int
    faulty: int
    blank: int
    faults: tuple[Fault, ...]
    characters: Lengths
    words: Lengths
    longest: tuple[LongText, ...]
    text_bytes: int
    duplicate_ids: int
    ids_compared: int
    chunk_rows: int
    chunks: int
    lane: Lane

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON knows, under the names of the attributes."""
        return asdict(self)


def read_report(
    inputs: Inputs,
    *,
    lane: str = "auto",
    chunk_rows: int = 256,
    max_rows: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Report:
    """Read inputs to their end, and say what is in them.

    Args:
        inputs: Open inputs, which are used up.
        lane: Lane that the submit would name.
        chunk_rows: Rows that the submit would put into a chunk.
        max_rows: Most rows that a job may have; None means any number.
        on_rows: Told now and then how many rows were read.

    Raises:
        InputError: The rest of an input cannot be read.
        LimitError: There are more rows than a job may have.
        UsageError: There is no such lane.
    """
    if lane not in ("auto", *Lane):
        raise UsageError(f"expected a lane of auto, {', '.join(Lane)}, got {lane!r}")
    tally = Tally()
    facts: list[InputFacts] = []
    for reader, rows in inputs.each():
        before = tally.rows
        while batch := list(islice(rows, _BATCH_ROWS)):
            tally.add(batch)
            if max_rows is not None and tally.rows > max_rows:
                raise LimitError(
                    f"expected at most {max_rows:,} rows in a job (SCOREQUEUE_MAX_JOB_ROWS), got more;"
                    " submit them as several jobs"
                )
            if on_rows is not None:
                on_rows(tally.rows)
        fields = (reader.input_format, reader.text_field, reader.id_field)
        facts.append(InputFacts(reader.name, *fields, reader.size, tally.rows - before))
    if lane == "auto":
        lane = Lane.EXPRESS if tally.rows <= EXPRESS_ROWS else Lane.BULK
    return Report(
        inputs=tuple(facts),
        rows=tally.rows,
        good=tally.rows - sum(tally.faults.values()),
        faulty=sum(tally.faults.values()),
        blank=tally.faults[ErrorCode.EMPTY_TEXT],
        faults=tuple(
            Fault(code, count, tuple(map(_place, tally.places[code]))) for code, count in tally.faults.most_common()
        ),
        characters=_lengths(tally.characters),
        words=_lengths(tally.words),
        longest=tuple(map(_long_text, tally.longest())),
        text_bytes=tally.text_bytes,
        duplicate_ids=tally.duplicate_ids,
        ids_compared=tally.ids_compared,
        chunk_rows=chunk_rows,
        chunks=-(-tally.rows // chunk_rows),
        lane=Lane(lane),
    )


def _place(placed: PlacedRow) -> Place:
    return Place(placed.number, placed.row.source, placed.row.line)


def _long_text(placed: PlacedRow) -> LongText:
    row = placed.row
    return LongText(placed.number, row.source, row.line, len(row.text), row.text[:SHOWN_CHARACTERS])


def _lengths(counts: Mapping[int, int]) -> Lengths:
    rows = sum(counts.values())
    if not rows:
        return Lengths(0, 0, 0.0, 0, 0, ())
    bins: Counter[int] = Counter()
    for length, count in counts.items():
        bins[length.bit_length()] += count
    return Lengths(
        least=min(counts),
        median=_quantile(counts, rows, 50),
        mean=round(sum(length * count for length, count in counts.items()) / rows, 1),
        p95=_quantile(counts, rows, 95),
        most=max(counts),
        histogram=tuple(Bin(1 << (bits - 1), (1 << bits) - 1, bins[bits]) for bits in range(min(bins), max(bins) + 1)),
    )


def _quantile(counts: Mapping[int, int], rows: int, percent: int) -> int:
    """Return the least length that so many of 100 rows do not exceed."""
    seen = 0
    for length in sorted(counts):
        seen += counts[length]
        if seen * 100 >= rows * percent:
            return length
    raise AssertionError("the last length covers all rows")
