"""A job on its way into the ledger: several chunks a call, held back while the queue is full, sent again where lost."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple, TypeVar

from producer.chunks import ChunkSource, calls
from producer.gate import Gate
from scorequeue.errors import (
    ContentConflictError,
    JobClosedError,
    JobDeletedError,
    JobNotFoundError,
    NotFinishedError,
    RedisFullError,
    RedisUnavailableError,
    UploadLostError,
    UsageError,
)
from scorequeue.jobs import ENDED_EARLY, JobSpec, JobState, Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.records import ChunkUpload, Opened, fold_digest

MOST_LOSSES = 10
"""How often an upload is taken up again after Redis lost the end of it."""

TOUCH_EVERY_S = 60.0
"""An upload that is held back says so often that it goes on; after an hour of silence it would expire."""

LOSS_WINDOW_S = 30.0
"""A job that is gone so soon after it was sent was lost with the last second of Redis's history, and did not expire."""

_RECORDS_PER_READ = 4096
_GATE_MAX_AGE_S = 1.0
_FULL_POLL_S = 0.5
_TAKE_BACK_S = 2.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class UploadProgress(NamedTuple):
    """How far an upload is.

    Attributes:
        rows: Rows that have arrived.
        waiting_for: Why it stands still, in words.
        whole_job: Id of the job once all of it has arrived.
        job_id: Its id before that, as soon as some of it has.
        note: What the caller should know of the job, in words.
    """

    rows: int
    waiting_for: str | None
    whole_job: str | None = None
    job_id: str | None = None
    note: str | None = None


OnUpload = Callable[[UploadProgress], None]


class Upload:
    """One job's way into the ledger: ``open -> add_chunks ... -> seal``, or all in one call if it fits.

    An idempotency key, or an earlier try, may lead to a job that is there already. Then what has arrived is compared by
    digest, the rest is sent, and the seal checks that nothing is left over. So ``run`` may be called again at any time:
    after a seal that Redis lost, it sends what is missing.
    """

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        *,
        spec: JobSpec,
        source: ChunkSource,
        max_outstanding: int,
        give_up_at: float | None,
        on_upload: OnUpload,
    ) -> None:
        self._patient_ledger = ledger
        self._ledger = ledger.until(give_up_at)
        self._gate = gate
        self._spec = spec
        self._source = source
        self._max_outstanding = max_outstanding
        self._give_up_at = give_up_at
        self._on_upload = on_upload
        self._rows = 0
        self._chunks = 0
        self._digest = ""
        self._sent_at = float("-inf")
        self._ledger_name = ""
        self._touched_at = float("-inf")

    def run(self, *, give_up_at: float | None = None) -> Opened:
        """Send the rows.

        Args:
            give_up_at: When to give up sending again what was sent once, by the monotonic clock; None means never. The
                first time, the constructor's holds.

        Returns:
            The job as it was found or made.

        Raises:
            ContentConflictError: The idempotency key belongs to other content or options.
            LimitError: A chunk has too many bytes, or the job too many rows.
            NotFinishedError: The queue stayed full until the time was over.
            JobDeletedError: Somebody deleted the job meanwhile.
            JobClosedError: The job was cancelled, or its deadline passed, before all of it had arrived.
        """
        if self._is_promised:
            self._give_up_at, self._ledger = give_up_at, self._patient_ledger.until(give_up_at)
        for losses in range(1, MOST_LOSSES + 1):
            try:
                opened = self._send_all()
                self._sent_at, self._ledger_name = time.monotonic(), opened.ledger_name
                return opened
            except JobDeletedError:
                raise
            except (UploadLostError, JobNotFoundError) as exc:
                if losses == MOST_LOSSES:
                    raise
                facts = fields("upload_lost", job_id=self._spec.id, rows=self._rows, error=str(exc))
                log.warning("Redis lost some of the upload; it is sent again", extra=facts)
        raise AssertionError("the last loss was raised")

    @property
    def _is_promised(self) -> bool:
        """Whether the caller was told that the job is there."""
        return bool(self._ledger_name)

    def is_lost(self) -> bool:
        """Whether a job that is gone was lost by Redis, and did not expire."""
        return time.monotonic() - self._sent_at < LOSS_WINDOW_S or self._ledger.name() != self._ledger_name

    def close(self) -> None:
        """Let go of what was kept to send it again."""
        self._source.close()

    def _send_all(self) -> Opened:
        self._rows = self._chunks = 0
        self._digest = ""
        batches = calls(self._source)
        start = list(islice(batches, 2))
        if len(start) == 1:
            # A client of many small jobs asks for room now and then: the job itself takes one round trip.
            self._wait_for_room(self._spec.lane, max_age_s=_GATE_MAX_AGE_S)
            opened = self._when_not_full(lambda: self._ledger.submit(self._spec, start[0]))
            if opened.is_new:
                self._on_upload(UploadProgress(sum(chunk.rows for chunk in start[0]), None, opened.job_id))
                return opened
        else:
            opened = self._when_not_full(lambda: self._ledger.open(self._spec))
        lane = self._spec.lane if opened.is_new else self._check_same_options(opened)
        digests = self._arrived_digests(opened)
        try:
            for batch in chain(start, batches):
                self._send(batch, opened, digests, lane)
            state = self._ledger.seal(opened.job_id, chunks=self._chunks, rows=self._rows, digest=self._digest)
            if state in ENDED_EARLY:
                raise self._no_more(opened._replace(state=state))
        except (RedisUnavailableError, JobNotFoundError, JobClosedError):
            raise  # it may go on, or there is nothing to take back, or what was scored of it stays
        except BaseException:  # the caller's own generator may raise anything
            self._take_back(opened)
            raise
        self._on_upload(UploadProgress(self._rows, None, opened.job_id))
        # Not after a job of one call: many of them a second would wait for the disk, which is written once a second.
        if self._ledger.sync() is False:
            facts = fields("not_synced", job_id=opened.job_id)
            log.warning("Redis's disk is slow: a power cut now could lose the end of the upload", extra=facts)
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
            self._wait_for_room(lane, job_id=opened.job_id)
            self._when_not_full(
                lambda: self._ledger.add_chunks(opened.job_id, start + known, rest), job_id=opened.job_id
            )
            self._touched_at = time.monotonic()
        self._chunks += len(batch)
        for chunk in batch:
            self._rows += chunk.rows
            self._digest = fold_digest(self._digest, chunk.digest)
        self._on_upload(UploadProgress(self._rows, None, job_id=opened.job_id))

    def _take_back(self, opened: Opened) -> None:
        """Delete a job that will never be whole, that nobody knows of and nobody can go on with."""
        if self._spec.idempotency_key is None and not self._is_promised:
            with contextlib.suppress(RedisUnavailableError):
                self._ledger.until(time.monotonic() + _TAKE_BACK_S).delete(opened.job_id)

    def _when_not_full(self, action: Callable[[], T], *, job_id: str | None = None) -> T:
        """Do what a full Redis refuses, as soon as it does not."""
        while True:
            try:
                return action()
            except RedisFullError as exc:
                self._held_back(str(exc), job_id)
                if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                    raise NotFinishedError(f"gave up uploading: {exc}") from exc
                time.sleep(_FULL_POLL_S)

    def _held_back(self, cause: str, job_id: str | None) -> None:
        """Say why nothing goes on, and let the job not expire meanwhile. An end of the job shows here too."""
        self._on_upload(UploadProgress(self._rows, cause, job_id=job_id))
        if job_id is not None and time.monotonic() - self._touched_at > TOUCH_EVERY_S:
            self._ledger.touch(job_id)
            self._touched_at = time.monotonic()

    def _wait_for_room(self, lane: Lane, *, max_age_s: float = 0.0, job_id: str | None = None) -> None:
        self._gate.wait(
            lane,
            max_outstanding=self._max_outstanding,
            give_up_at=self._give_up_at,
            on_wait=lambda cause: self._held_back(cause, job_id),
            max_age_s=max_age_s,
        )

    def _check_same_options(self, opened: Opened) -> Lane:
        """Refuse to go on with a job that was cut, read or to be scored in another way; return its lane.

        How it is treated (lane, labels, times) is settled by whoever opened it; what differs is said.
        """
        spec = self._spec
        ours_too, theirs_too = _differing(spec.reader_options, opened.reader_options)
        for what, ours, theirs in (
            ("chunk rows", spec.chunk_rows, opened.chunk_rows),
            ("reader options", ours_too, theirs_too),
            ("model version", spec.model_version, opened.asked_version),
        ):
            if ours != theirs:
                raise ContentConflictError(
                    f"job {opened.job_id} has this idempotency key with {what} {_shown(theirs)}, got {_shown(ours)};"
                    " use the same options or another key"
                )
        status = self._ledger.status(opened.job_id)
        deadline_s = None if status.deadline_at is None else (status.deadline_at - status.created_at).total_seconds()
        kept = [
            f"{what} ({theirs})"
            for what, ours, theirs in (
                ("lane", spec.lane, status.lane),
                ("metadata", _listed(spec.metadata), _listed(status.metadata)),
                ("deadline", _seconds(spec.deadline_s), _seconds(deadline_s)),
                ("time to live", _seconds(spec.ttl_s), _seconds(opened.ttl_s)),
            )
            if ours != theirs
        ]
        if kept:
            note = f"job {opened.job_id} was there under this idempotency key already, and keeps its {', '.join(kept)}"
            self._on_upload(UploadProgress(self._rows, None, note=note))
        return status.lane

    def _arrived_digests(self, opened: Opened) -> Iterator[str]:
        for start in range(0, opened.chunks, _RECORDS_PER_READ):
            count = min(_RECORDS_PER_READ, opened.chunks - start)
            for record in self._ledger.chunk_records(opened.job_id, start, count):
                yield record.digest

    def _no_more(self, opened: Opened) -> UsageError | JobClosedError:
        if opened.state in ENDED_EARLY:
            return JobClosedError(
                f"job {opened.job_id} has this idempotency key and is {opened.state}; use another key"
            )
        return ContentConflictError(
            f"job {opened.job_id} has this idempotency key and ends after {opened.chunks} chunks, more came;"
            " use another key for other input"
        )


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, str]:
    """Name the reader options in which two jobs differ, as each of them has it."""
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    mine, other = (", ".join(f"{name}={options.get(name, 'none')}" for name in names) for options in (ours, theirs))
    return mine, other


def _shown(value: object) -> object:
    return "none" if value is None else value


def _listed(metadata: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(metadata.items())) or "none"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:,.3f}".rstrip("0").rstrip(".") + " s"
