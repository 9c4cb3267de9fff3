"""Rows cut into encoded chunks, and the same chunks once more when Redis has lost some.

Files and lists are read again. What can be read only once, such as standard input, is copied to a temporary file while
it is sent; the file has no name, so that nothing is left behind whatever ends the process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import IO

from producer.spool import memory_spool, spooling
from scorequeue import codec
from scorequeue.columns import chunk_from_rows
from scorequeue.errors import LimitError
from scorequeue.jobs import FIRST_ROW, Row
from scorequeue.records import ChunkUpload

CALL_ROWS = 8192
"""Rows sent in one call. Measured: 341,000 rows/s with 1,024, and 486,000 with 4,096, 8,192 or more."""

CALL_BYTES = 2 * 1024 * 1024
"""Bytes after which a call is sent though it has fewer rows: long texts must not block Redis."""

_UNREPEATABLE = "rows that can be read only once"

_RECORD = struct.Struct("<II")


class ChunkSource:
    """A job's rows as chunks: iterating starts over each time, whatever was read before.

    Args:
        rows: The rows, for the first time.
        chunk_rows: Rows in each chunk but the last.
        most_bytes: Most bytes of an encoded chunk.
        most_rows: Most rows of the job.
        again: Reads the rows once more; None for rows that can be read only once.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        chunk_rows: int,
        most_bytes: int,
        most_rows: int,
        again: Callable[[], Iterable[Row]] | None = None,
    ) -> None:
        self._chunk_rows = chunk_rows
        self._most_bytes = most_bytes
        self._most_rows = most_rows
        self._again = again
        self._is_first = True
        self._unread = self._cut(rows)
        self._spool = memory_spool(_UNREPEATABLE, most_bytes=CALL_BYTES) if again is None else None
        self._spooled = 0

    def __iter__(self) -> Iterator[ChunkUpload]:
        """Yield the chunks in order.

        Raises:
            LimitError: A chunk has too many bytes, or the job too many rows.
        """
        is_first, self._is_first = self._is_first, False
        if self._spool is not None:
            return self._spooled_chunks(self._spool)
        if is_first or self._again is None:
            return self._unread
        return self._cut(self._again())

    def close(self) -> None:
        """Let go of the copy of what can be read only once."""
        if self._spool is not None:
            with suppress(OSError):  # what was not written yet is not needed any more
                self._spool.close()

    def _spooled_chunks(self, spool: IO[bytes]) -> Iterator[ChunkUpload]:
        at = 0
        while True:
            if at < self._spooled:
                with spooling(_UNREPEATABLE):
                    spool.seek(at)  # and what was not written yet is
                rows, size = _RECORD.unpack(spool.read(_RECORD.size))
                payload = spool.read(size)
                yield ChunkUpload(payload, rows, codec.digest(payload))
            else:
                chunk = next(self._unread, None)
                if chunk is None:
                    return
                with spooling(_UNREPEATABLE):
                    spool.seek(self._spooled)
                    spool.write(_RECORD.pack(chunk.rows, len(chunk.payload)) + chunk.payload)
                    self._spooled = spool.tell()
                yield chunk
                rows, payload = chunk.rows, chunk.payload
            at += _RECORD.size + len(payload)

    def _cut(self, rows: Iterable[Row]) -> Iterator[ChunkUpload]:
        rows = iter(rows)
        first_row = FIRST_ROW
        while piece := list(islice(rows, self._chunk_rows)):
            last_row = first_row + len(piece) - 1
            if last_row > self._most_rows:
                raise LimitError(
                    f"expected at most {self._most_rows:,} rows in a job (SCOREQUEUE_MAX_JOB_ROWS), got more;"
                    " submit them as several jobs"
                )
            payload = codec.encode_chunk(chunk_from_rows(piece, first_row=first_row))
            if len(payload) > self._most_bytes:
                raise LimitError(
                    f"expected at most {self._most_bytes:,} bytes in a chunk (SCOREQUEUE_MAX_CHUNK_BYTES), rows"
                    f" {first_row:,} to {last_row:,} have {len(payload):,}; choose fewer --chunk-rows"
                )
            yield ChunkUpload(payload, len(piece), codec.digest(payload))
            first_row = last_row + 1


def calls(chunks: Iterable[ChunkUpload]) -> Iterator[list[ChunkUpload]]:
    """Group chunks into calls of about ``CALL_ROWS`` rows or ``CALL_BYTES`` bytes."""
    call: list[ChunkUpload] = []
    rows = size = 0
    for chunk in chunks:
        call.append(chunk)
        rows += chunk.rows
        size += len(chunk.payload)
        if rows >= CALL_ROWS or size >= CALL_BYTES:
            yield call
            call, rows, size = [], 0, 0
    if call:
        yield call
