"""A job's chunks out of the ledger, in input order, many in a round trip."""

from __future__ import annotations

from collections.abc import Iterator

from scorequeue import codec
from scorequeue.columns import ChunkResult
from scorequeue.errors import JobNotFoundError
from scorequeue.jobs import JobState, JobStatus
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkRecord


class ResultReader:
    """Reads the results of a job as it was at one moment.

    Args:
        ledger: Where they are.
        status: The job's status; rows that are committed later may or may not be among the results.
        page_rows: Rows that are read in one round trip, at least a chunk.
    """

    def __init__(self, ledger: Ledger, status: JobStatus, *, page_rows: int) -> None:
        self.status = status
        self._ledger = ledger
        self._page_rows = page_rows

    def chunks(self) -> Iterator[ChunkResult]:
        """Yield the results of the chunks that were committed, in input order.

        Raises:
            JobNotFoundError: Results vanished while they were read; at the end at the latest.
        """
        rows = 0
        for start, count in self._pages():
            for result in self._page(start, count):
                if result is not None:
                    rows += result.rows
                    yield result
        self._check_rows(rows)

    def all_chunks(self) -> Iterator[tuple[ChunkRecord, ChunkResult | None]]:
        """Yield the record of every chunk, beside its result if it was committed. Raises what ``chunks`` raises."""
        return self._from(0, rows=0)

    def _from(self, first: int, *, rows: int) -> Iterator[tuple[ChunkRecord, ChunkResult | None]]:
        """Yield the chunks from ``first`` on; those before it had so many rows with a result."""
        for start, count in self._pages(first):
            records = self._ledger.chunk_records(self.status.id, start, count)
            if len(records) != count:
                raise self._vanished()
            for record, result in zip(records, self._page(start, count), strict=True):
                if result is not None:
                    rows += result.rows
                elif record.pending < record.rows:  # committed: without a result its rows would look cancelled
                    raise self._vanished()
                yield record, result
        self._check_rows(rows)

    def is_outdated(self) -> bool:
        """Whether what was read may have been replaced since, which ``status`` does not tell."""
        return False

    def reader_options(self) -> dict[str, str]:
        """Return how the job's input was read."""
        return self._ledger.reader_options(self.status.id)

    def _pages(self, first: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the first chunk of each round trip, and how many there are in it."""
        status = self.status
        # All chunks but the last one have as many rows.
        chunk_rows = max(1, -(-status.total // max(1, status.chunks)))
        most = max(1, self._page_rows // chunk_rows)
        for start in range(first, status.chunks, most):
            yield start, min(most, status.chunks - start)

    def _page(self, start: int, count: int) -> Iterator[ChunkResult | None]:
        for payload in self._ledger.result_payloads(self.status.id, start, count):
            if payload is not None:
                yield codec.decode_result(payload)
            elif self.status.state is JobState.COMPLETED:
                raise self._vanished()
            else:
                yield None

    def _check_rows(self, rows: int) -> None:
        """Refuse to end a download that is short: a job that did not complete has chunks without results anyway.

        Rows that were to be tried again when their job ended count as failed, and their results still say so.
        """
        if rows < self.status.scored + self.status.failed:
            raise self._vanished()

    def _vanished(self) -> JobNotFoundError:
        return JobNotFoundError(
            f"results of job {self.status.id} are gone: they expired, were discarded or deleted, or Redis lost them,"
            " while they were read; what was read is not all"
        )


def refuse_discarded(ledger: Ledger, job_id: str) -> None:
    """Raise JobNotFoundError if the results of a job that has ended were discarded."""
    if ledger.is_discarded(job_id):
        raise JobNotFoundError(f"results of job {job_id} were discarded when they were downloaded")
