"""The values that cross boundaries: rows, results, jobs.

Row types are named tuples: there are hundreds of thousands a second of them, and a frozen pydantic model costs more
than twice as much to make (docs/decisions.md). What there is one of per job is a pydantic model.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FIRST_ROW = 1
"""Rows are counted from one, as lines are."""


MOST_SECONDS = 10 * 365 * 86_400.0
"""Longest deadline or time to live: behind it, times would not fit into the ledger's numbers."""


class Lane(StrEnum):
    """Which of the two queues a job waits in."""

    EXPRESS = "express"
    BULK = "bulk"


EXPRESS_ROWS = 64
"""Most rows of a job that is express without being told."""


class JobState(StrEnum):
    """Where a job is: ``submitting -> queued -> running -> completed | cancelled | expired | failed``."""

    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in FINAL_STATES


ENDED_EARLY = frozenset({JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED})
FINAL_STATES = ENDED_EARLY | {JobState.COMPLETED}


class ErrorCode(StrEnum):
    """Why a row failed."""

    EMPTY_TEXT = "empty_text"
    WRONG_TYPE = "wrong_type"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    INVALID_CSV = "invalid_csv"
    MISSING_FIELD = "missing_field"
    TEXT_TOO_LONG = "text_too_long"
    SCORING_FAILED = "scoring_failed"
    WORKER_LOST = "worker_lost"


RETRYABLE = frozenset({ErrorCode.SCORING_FAILED, ErrorCode.WORKER_LOST})
"""Failures that are not the input's: such rows may be tried again."""


class RowError(NamedTuple):
    """Why a row has no scores."""

    code: ErrorCode
    message: str


class Row(NamedTuple):
    """One sentence of the input, or the fault that stands in its place.

    Attributes:
        text: The sentence; empty when ``error`` is set.
        id: The caller's id; None means the row's position in the job.
        source: Name of the file it came from; None for rows given from Python.
        line: Line of that file where the row starts, from 1.
        error: Set for a row that cannot be scored. Such a row keeps its place and ends as a failed row.
    """

    text: str
    id: str | None = None
    source: str | None = None
    line: int | None = None
    error: RowError | None = None


class RowResult(NamedTuple):
    """What became of one row.

    Attributes:
        row: Position in the job, from 1.
        id: The caller's id, else the position.
        label: The label with the highest score; None for a failed row.
        score: That label's probability.
        scores: Probability of each label, in the model's label order; they sum to 1.
        truncated: Whether the text was longer than the model reads.
        model_version: The version that scored it.
        source: File of the input, for failed rows.
        line: Line of that file, for failed rows.
        error: Set for a failed row.
    """

    row: int
    id: str
    label: str | None
    score: float | None
    scores: dict[str, float]
    truncated: bool
    model_version: str
    source: str | None
    line: int | None
    error: RowError | None


JOB_ID_PATTERN = re.compile(r"[0-9a-f]{32}")
JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def _check_utf8(text: str) -> str:
    """Refuse what could be stored but not printed again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    return text


Utf8 = Annotated[str, AfterValidator(_check_utf8)]


class JobSpec(BaseModel):
    """What a producer asks for when it opens a job.

    Attributes:
        id: UUIDv7 in hex, made by the producer, so that an ``open`` repeated after a lost answer is the same job.
        lane: Lane of all the job's chunks.
        chunk_rows: Rows in each chunk but the last.
        source: Names of the inputs, for people.
        metadata: The caller's own labels.
        model_version: Version to score with; None pins ``current`` at the first claim.
        idempotency_key: Two opens with the same key are one job.
        reader_options: How the input is read; a resumed upload must agree on it.
        deadline_s: Seconds after opening at which what is not scored is dropped; None means never.
        ttl_s: Seconds that results are kept after the end.
    """

    model_config = ConfigDict(frozen=True)

    id: JobId
    lane: Lane
    chunk_rows: int = Field(gt=0, le=65_536)
    source: tuple[str, ...] = ()
    metadata: dict[Utf8, Utf8] = Field(default_factory=dict)
    model_version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    idempotency_key: str | None = Field(default=None, min_length=1)
    reader_options: dict[str, str] = Field(default_factory=dict)
    deadline_s: float | None = Field(default=None, gt=0, lt=MOST_SECONDS)
    ttl_s: float = Field(gt=0, lt=MOST_SECONDS)


class JobStatus(BaseModel):
    """A job as ``producer status`` shows it; times are UTC.

    ``total = scored + failed + cancelled + pending`` holds at all times, and a job that has ended has ``pending = 0``.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    state: JobState
    lane: Lane
    source: tuple[str, ...]
    metadata: dict[str, str]
    total: int
    scored: int
    failed: int
    cancelled: int
    pending: int
    truncated: int
    chunks: int
    model_version: str | None
    idempotency_key: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    results_expire_at: datetime | None
    rows_per_second: float | None
    eta_seconds: float | None
    live_workers: int

    @property
    def finished_ms(self) -> int | None:
        """When the job ended, in milliseconds of Redis's clock as the ledger notes it; None if it has not."""
        return None if self.finished_at is None else round(self.finished_at.timestamp() * 1000)
