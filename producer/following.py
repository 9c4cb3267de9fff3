"""A job's results while they come: in input order, each chunk as soon as it and all before it are done.

Chunks are handed out in order, so that mostly the next one is the next to be done. What is done shows in the chunk
records, which are small: they are asked for first, and only results that are there are fetched. Where nothing is new,
the job is asked how it stands four times a second, and its end is heard at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile

from producer.downloads import ResultReader, refuse_discarded
from scorequeue import codec
from scorequeue.columns import ChunkResult
from scorequeue.jobs import JobStatus
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkRecord

_MOST_RECORDS = 1024
"""Chunk records that are asked for at once."""


class Follower(ResultReader):
    """Reads the results of a job that runs: ``waiting for the next chunk -> reading what is done -> ... -> ended``.

    ``status`` is what the job said last. Once it has ended, the rest is read as it was at the end. A job that is being
    tried again is followed to the end of that; what was read before somebody had it tried again stays as it was read.

    Args:
        ledger: Where they are.
        status: The job's status.
        page_rows: Rows that are read in one round trip, at least a chunk.
        look: Asks for the status anew; raises what ends the following.
        pause: Returns when the job may have ended, or a while has passed.
        retry_token: What the ledger said of the job's retries before ``status`` was asked for.
    """

    def __init__(
        self,
        ledger: Ledger,
        status: JobStatus,
        *,
        page_rows: int,
        look: Callable[[], JobStatus],
        pause: Callable[[], None],
        retry_token: str,
    ) -> None:
        super().__init__(ledger, status, page_rows=page_rows)
        self._look = look
        self._pause = pause
        self._retry_token = retry_token

    def is_outdated(self) -> bool:
        """Whether the job was tried again since it is followed: what was read before may no longer be what is there."""
        return self._ledger.retry_token(self.status.id) != self._retry_token

    def chunks(self) -> Iterator[ChunkResult]:
        """Yield the results of the chunks that are committed until the job has ended, in input order.

        Raises:
            JobNotFoundError: The job or its results are gone, or were discarded.
            NotFinishedError: The time is over.
        """
        return (result for _, result in self.all_chunks() if result is not None)

    def all_chunks(self) -> Iterator[tuple[ChunkRecord, ChunkResult | None]]:
        """Yield the record of every chunk, beside its result if it got one. Raises what ``chunks`` raises."""
        at = rows = 0
        is_idle = False
        while not self.status.state.is_final:
            # Where nothing was done a moment ago, one record tells whether that has changed.
            done = self._done_from(at, 1 if is_idle else _MOST_RECORDS)
            for record, result in self._results_of(at, done):
                at, rows = at + 1, rows + result.rows
                yield record, result
            if not done:
                if is_idle:
                    self._pause()
                self.status = self._look()
            is_idle = not done
        refuse_discarded(self._ledger, self.status.id)
        yield from self._from(at, rows=rows)

    def _done_from(self, at: int, most: int) -> list[ChunkRecord]:
        """Return the records of the next chunks without a pending row, up to the first that has one."""
        return list(takewhile(lambda record: not record.pending, self._ledger.chunk_records(self.status.id, at, most)))

    def _results_of(self, at: int, records: list[ChunkRecord]) -> Iterator[tuple[ChunkRecord, ChunkResult]]:
        """Yield the chunks from ``at`` on; fewer if the job ended meanwhile."""
        while records:
            count = rows = 0
            while count < len(records) and rows + records[count].rows <= self._page_rows:
                rows, count = rows + records[count].rows, count + 1
            part, records = records[: count or 1], records[count or 1 :]
            for record, payload in zip(part, self._ledger.result_payloads(self.status.id, at, len(part)), strict=True):
                if payload is None:  # it was there: the job was deleted, lost, or ended and was discarded
                    self.status = self._look()
                    if not self.status.state.is_final:
                        raise self._vanished()
                    return
                yield record, codec.decode_result(payload)
            at += len(part)
