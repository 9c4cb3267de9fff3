"""Rows on their way into the ledger: cut into chunks, several chunks a call, held back while the queue is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from scorequeue import codec
from scorequeue.errors import ContentConflictError, NotFinishedError, UsageError
from scorequeue.jobs import FIRST_ROW, JobSpec, JobState, Lane, Row
from scorequeue.ledger import Ledger
from scorequeue.queue import Bells
from scorequeue.records import ChunkUpload, Opened

CALL_ROWS = 8192
"""Rows sent in one call. Measured: 341,000 rows/s with 1,024, and 486,000 with 4,096, 8,192 or more."""

CALL_BYTES = 2 * 1024 * 1024
"""Bytes after which a call is sent though it has fewer rows: long texts must not block Redis."""

MOST_MEMORY_SHARE = 0.8
"""Share of Redis's ``maxmemory`` above which uploads wait, so that results still fit."""

_POLL_S = 0.25
_GATE_MAX_AGE_S = 1.0
_RECORDS_PER_READ = 4096


class UploadProgress(NamedTuple):
    """How far an upload is; ``waiting_for`` says why it stands still, in words."""

    rows: int
    waiting_for: str | None


OnUpload = Callable[[UploadProgress], None]


class Gate:
    """Holds uploads back while too many rows wait in their lane or Redis is nearly full. Safe to use from threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last_free: dict[Lane, float] = {}

    def wait(
        self,
        lane: Lane,
        *,
        max_outstanding: int,
        give_up_at: float | None,
        on_wait: Callable[[str], None],
        max_age_s: float = 0.0,
    ) -> None:
        """Return when there is room.

        Args:
            lane: Where the rows will wait.
            max_outstanding: Most rows that may wait there.
            give_up_at: When to give up, by the monotonic clock; None means never.
            on_wait: Told the cause, in words, a few times a second.
            max_age_s: How old an answer of before may be; 0 asks Redis.

        Raises:
            NotFinishedError: The time is over.
        """
        if time.monotonic() - self._last_free.get(lane, -max_age_s - 1) < max_age_s:
            return
        while (cause := self._cause(lane, max_outstanding)) is not None:
            on_wait(cause)
            if give_up_at is not None and time.monotonic() >= give_up_at:
                raise NotFinishedError(f"gave up uploading: {cause}")
            time.sleep(_POLL_S)
        self._last_free[lane] = time.monotonic()

    def _cause(self, lane: Lane, max_outstanding: int) -> str | None:
        pressure = self._ledger.pressure(lane)
        if pressure.backlog_rows > max_outstanding:
            return (
                f"{pressure.backlog_rows:,} rows wait in lane {lane}, more than {max_outstanding:,}"
                " (--max-outstanding); more workers would help"
            )
        if pressure.memory_share is not None and pressure.memory_share > MOST_MEMORY_SHARE:
            share = f"{pressure.memory_share:.0%} of its maxmemory, more than {MOST_MEMORY_SHARE:.0%}"
            return f"Redis uses {share}; it drains as results expire or jobs are deleted"
        return None


def cut(rows: Iterable[Row], chunk_rows: int) -> Iterator[ChunkUpload]:
    """Yield the rows as encoded chunks of ``chunk_rows``, the last one shorter."""
    rows = iter(rows)
    first_row = FIRST_ROW
    while piece := list(islice(rows, chunk_rows)):
        payload = codec.encode_chunk(codec.chunk_from_rows(piece, first_row=first_row))
        yield ChunkUpload(payload, len(piece), codec.digest(payload))
        first_row += len(piece)


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


class Upload:
    """One job's way into the ledger: ``open -> add_chunks ... -> seal``, or all in one call if it fits.

    An idempotency key may lead to a job that is there already. Then what has arrived is compared by digest, the rest is
    sent, and the seal checks that nothing is left over.
    """

    def __init__(
        self,
        ledger: Ledger,
        bells: Bells,
        gate: Gate,
        *,
        spec: JobSpec,
        max_outstanding: int,
        give_up_at: float | None,
        on_upload: OnUpload,
    ) -> None:
        self._ledger = ledger
        self._bells = bells
        self._gate = gate
        self._spec = spec
        self._max_outstanding = max_outstanding
        self._give_up_at = give_up_at
        self._on_upload = on_upload
        self._rows = 0
        self._chunks = 0

    def run(self, rows: Iterable[Row]) -> Opened:
        """Send the rows.

        Returns:
            The job as it was found or made.

        Raises:
            ContentConflictError: The idempotency key belongs to other content or options.
            NotFinishedError: The queue stayed full until the time was over.
        """
        batches = calls(cut(rows, self._spec.chunk_rows))
        start = list(islice(batches, 2))
        if len(start) == 1:
            # A client of many small jobs asks for room now and then: the job itself takes one round trip.
            self._wait_for_room(self._spec.lane, max_age_s=_GATE_MAX_AGE_S)
            opened = self._ledger.submit(self._spec, start[0])
            if opened.is_new:
                self._bells.ring(self._spec.lane)
                self._on_upload(UploadProgress(sum(chunk.rows for chunk in start[0]), None))
                return opened
        else:
            opened = self._ledger.open(self._spec)
        lane = self._spec.lane if opened.is_new else self._check_same_options(opened)
        digests = self._arrived_digests(opened)
        for batch in chain(start, batches):
            self._send(batch, opened, digests, lane)
        self._ledger.seal(opened.job_id, chunks=self._chunks, rows=self._rows)
        self._bells.ring(lane)
        return opened

    def _send(self, batch: list[ChunkUpload], opened: Opened, arrived: Iterator[str], lane: Lane) -> None:
        """Send a call's chunks but those that have arrived before."""
        start = self._chunks
        known = max(0, min(len(batch), opened.chunks - start))
        for offset, (chunk, there) in enumerate(zip(batch[:known], arrived, strict=False)):
            if chunk.digest != there:
                raise ContentConflictError(
                    f"chunk {start + offset} differs from what job {opened.job_id} got under this idempotency key;"
                    " use another key for other input"
                )
        rest = batch[known:]
        if rest:
            if opened.state is not JobState.SUBMITTING:
                raise self._no_more(opened)
            self._wait_for_room(lane)
            self._ledger.add_chunks(opened.job_id, start + known, rest)
            self._bells.ring(lane)
        self._chunks += len(batch)
        self._rows += sum(chunk.rows for chunk in batch)
        self._on_upload(UploadProgress(self._rows, None))

    def _wait_for_room(self, lane: Lane, *, max_age_s: float = 0.0) -> None:
        def tell(cause: str) -> None:
            self._on_upload(UploadProgress(self._rows, cause))

        self._gate.wait(
            lane,
            max_outstanding=self._max_outstanding,
            give_up_at=self._give_up_at,
            on_wait=tell,
            max_age_s=max_age_s,
        )

    def _check_same_options(self, opened: Opened) -> Lane:
        """Refuse to go on with a job that was cut or read in another way; return its lane."""
        spec = self._spec
        for what, ours, theirs in (
            ("chunk rows", spec.chunk_rows, opened.chunk_rows),
            ("reader options", spec.reader_options, opened.reader_options),
        ):
            if ours != theirs:
                raise ContentConflictError(
                    f"job {opened.job_id} has this idempotency key with {what} {theirs}, got {ours};"
                    " use the same options or another key"
                )
        return self._ledger.status(opened.job_id).lane

    def _arrived_digests(self, opened: Opened) -> Iterator[str]:
        for start in range(0, opened.chunks, _RECORDS_PER_READ):
            count = min(_RECORDS_PER_READ, opened.chunks - start)
            for record in self._ledger.chunk_records(opened.job_id, start, count):
                yield record.digest

    def _no_more(self, opened: Opened) -> UsageError:
        if opened.state in (JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED):
            return UsageError(f"job {opened.job_id} has this idempotency key and is {opened.state}; use another key")
        return ContentConflictError(
            f"job {opened.job_id} has this idempotency key and ends after {opened.chunks} chunks, more came;"
            " use another key for other input"
        )
