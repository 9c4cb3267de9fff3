"""The audit: a job's rows counted again, trusting no counter."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from scorequeue import codec
from scorequeue.columns import ChunkResult
from scorequeue.errors import CodecError
from scorequeue.jobs import FIRST_ROW, JobState, JobStatus
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkRecord

_MOST_SHOWN = 20
"""Differences that are named one by one; beyond, they are counted."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What a recount found.

    Attributes:
        job_id: The job.
        state: Its state when the recount began.
        total: Rows in the chunk records.
        scored: Rows with a label in the decoded results.
        failed: Rows with an error in the decoded results.
        cancelled: Rows of a job that has ended which have no result.
        pending: Rows of a job that has not ended which have no result yet.
        chunks: Chunk records.
        discarded: Chunks whose results were discarded: their rows are counted as their records say.
        difference_count: How many things do not add up.
        differences: One sentence for each of the first 20 of them, and one that says how many more there are.
    """

    job_id: str
    state: JobState
    total: int
    scored: int
    failed: int
    cancelled: int
    pending: int
    chunks: int
    discarded: int
    difference_count: int
    differences: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every row is accounted for once."""
        return not self.difference_count

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as ``audit --json`` prints it."""
        return {**asdict(self), "is_clean": self.is_clean}


def recount(ledger: Ledger, job_id: str, *, page_rows: int) -> Audit:
    """Count a job's rows from its chunk records and its decoded results.

    A job that is running may be audited: its counters then have to lie between those of before and after.

    Args:
        ledger: Where it is.
        job_id: The job.
        page_rows: Rows that are read in one round trip.

    Raises:
        JobNotFoundError: No such job.
    """
    before = ledger.status(job_id)
    tally = _Tally(has_ended=before.state.is_final, is_discarded=ledger.is_discarded(job_id))
    stuck: list[tuple[int, int]] = []
    page_chunks = max(1, page_rows * max(1, before.chunks) // max(1, before.total))
    for start in range(0, before.chunks, page_chunks):
        count = min(page_chunks, before.chunks - start)
        # Records first: what is noted as committed then has its result.
        records = ledger.chunk_records(job_id, start, count)
        payloads = ledger.result_payloads(job_id, start, count)
        if len(records) != count:
            tally.differ(f"chunks {start} to {start + count - 1}: expected {count} records, found {len(records)}")
        elif not before.state.is_final:
            stuck += _without_input(ledger, job_id, start, records)
        for index, (record, payload) in enumerate(zip(records, payloads, strict=False), start):
            tally.add(index, record, payload)
    after = before if before.state.is_final else ledger.status(job_id)
    if not after.state.is_final:  # an early end takes all inputs away
        for index, rows in stuck:
            tally.differ(f"chunk {index}: {rows} rows are pending, and their input is gone: no worker can score them")
    tally.compare(before, after)
    counts = tally.counts
    return Audit(
        job_id=job_id,
        state=before.state,
        total=counts["total"],
        scored=counts["scored"],
        failed=counts["failed"],
        cancelled=counts["cancelled"],
        pending=counts["pending"],
        chunks=counts["chunks"],
        discarded=counts["discarded"],
        difference_count=tally.difference_count,
        differences=tally.differences(),
    )


def _without_input(ledger: Ledger, job_id: str, start: int, records: list[ChunkRecord]) -> list[tuple[int, int]]:
    """Return each pending chunk whose input is gone, with how many of its rows are pending."""
    missing = ledger.missing_inputs(job_id, [index for index, record in enumerate(records, start) if record.pending])
    # A chunk that was committed since its record was read has let its input go: its record is looked at again.
    again = dict(enumerate(ledger.chunk_records(job_id, start, len(records)), start)) if missing else {}
    return [(index, again[index].pending) for index in missing if index in again and again[index].pending]


class _Tally:
    """Rows counted so far, and what did not add up."""

    def __init__(self, *, has_ended: bool, is_discarded: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._has_ended = has_ended
        self._is_discarded = is_discarded
        self._differences: list[str] = []
        self._versions: set[str] = set()
        self.difference_count = 0

    def differ(self, what: str) -> None:
        self.difference_count += 1
        if len(self._differences) < _MOST_SHOWN:
            self._differences.append(what)

    def differences(self) -> tuple[str, ...]:
        more = self.difference_count - len(self._differences)
        return (*self._differences, *([f"and {more:,} more differences"] if more else []))

    def add(self, index: int, record: ChunkRecord, payload: bytes | None) -> None:
        first_row = FIRST_ROW + self.counts["total"]
        self.counts["chunks"] += 1
        self.counts["total"] += record.rows
        if record.pending + record.scored + record.failed != record.rows:
            self.differ(
                f"chunk {index}: its record says {record.rows} rows, and {record.pending} + {record.scored}"
                f" + {record.failed} by what became of them"
            )
        if record.pending and not self._has_ended:  # its results, if any, may have come since the record was read
            for what in ("scored", "failed", "truncated", "pending"):
                self.counts[what] += getattr(record, what)
            return
        self.counts["left"] += record.pending
        if payload is None:
            self._add_without_result(index, record)
            return
        try:
            result = codec.decode_result(payload)
        except CodecError as exc:
            self.differ(f"chunk {index}: {exc}")
            return
        self._add_result(index, record, result, first_row)

    def _add_without_result(self, index: int, record: ChunkRecord) -> None:
        if record.pending == record.rows and not self._is_discarded:
            self.counts["cancelled"] += record.rows
        elif self._is_discarded:
            self.counts["discarded"] += record.pending < record.rows
            self.counts["scored"] += record.scored
            self.counts["failed"] += record.failed
            self.counts["truncated"] += record.truncated
            # In a job that ended early: rows never scored, or rows that were to be tried again and stay failed.
            self.counts["open"] += record.pending
        else:
            self.differ(f"chunk {index}: committed with {record.rows} rows, but its results are missing")

    def _add_result(self, index: int, record: ChunkRecord, result: ChunkResult, first_row: int) -> None:
        if result.first_row != first_row:
            self.differ(f"chunk {index}: expected rows from {first_row}, its results begin with {result.first_row}")
        if result.rows != record.rows:
            self.differ(f"chunk {index}: expected {record.rows} rows, its results have {result.rows}")
        failed = sum(1 for offset in result.errors if 0 <= offset < result.rows)
        scored = result.rows - failed
        width = len(result.labels)
        without = sum(
            1
            for offset in range(result.rows)
            if offset not in result.errors and not _is_scored(result.scores[offset * width : (offset + 1) * width])
        )
        if without:
            self.differ(f"chunk {index}: {without} rows have neither scores nor an error")
        self.counts["scored"] += scored - without
        self.counts["failed"] += failed
        self.counts["truncated"] += len(result.truncated)
        for what, noted, found in (
            ("scored", record.scored, scored - without),
            # Rows that were to be tried again when the job ended early have failed, as before.
            ("failed", record.failed + record.pending, failed),
            ("truncated", record.truncated, len(result.truncated)),
        ):
            if noted != found:
                self.differ(f"chunk {index}: its record says {noted} {what}, its results have {found}")
        if scored:
            self._versions.add(result.model_version)

    def compare(self, before: JobStatus, after: JobStatus) -> None:
        counts = self.counts
        for status in [before] if before is after else [before, after]:
            if status.pending < 0:  # what is pending is what the other counters leave
                parts = status.scored + status.failed + status.cancelled
                self.differ(f"the counters account for {parts} rows of {status.total}")
        # Of the rows that were there before: an upload may have brought more.
        later = after.pending - (after.total - before.total)
        if self._is_discarded:  # what the records leave open is one or the other, as the counters say
            counts["cancelled"] += min(counts["open"], before.cancelled)
            counts["failed"] += counts["open"] - counts["cancelled"]
        for what, low, found, high in (
            ("chunks", before.chunks, counts["chunks"], before.chunks),
            ("rows", before.total, counts["total"], before.total),
            ("scored", before.scored, counts["scored"], after.scored),
            ("failed", min(before.failed, after.failed), counts["failed"], max(before.failed, after.failed)),
            ("truncated", before.truncated, counts["truncated"], after.truncated),
            ("cancelled", before.cancelled, counts["cancelled"], after.cancelled),
            ("pending", min(before.pending, later), counts["pending"], max(before.pending, later)),
        ):
            if not low <= found <= high:
                self.differ(
                    f"the counters say {low if low == high else f'{low} to {high}'} {what}, the recount {found}"
                )
        if before.state is JobState.COMPLETED and counts["cancelled"]:
            self.differ("the job is completed, and some of its rows have no result")
        if before.state is JobState.COMPLETED and counts["left"]:
            self.differ(f"the job is completed, and the records of its chunks have {counts['left']} rows pending")
        wrong = sorted(self._versions - {before.model_version or after.model_version or ""})
        if wrong:
            self.differ(f"expected one model version, {after.model_version}, found results of {', '.join(wrong)}")


def _is_scored(scores: Any) -> bool:
    return len(scores) > 0 and all(map(math.isfinite, scores))
