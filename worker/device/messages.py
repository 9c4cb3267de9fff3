"""What the worker's process and a device process say to each other, beside the batches themselves.

The answer to a ``LoadRequest`` is ``Loaded``, to a batch ``Scored`` or ``BatchFailed``, to ``CheckGolden`` itself; a
version that cannot be loaded and golden sentences that fail are answered with the ``ScorequeueError``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.backends import Scores


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """The first message: which version, and how to run it. What is not said here is as in ``WorkerSettings``.

    Attributes:
        registry: Folder of checkpoint versions.
        version: The version's name.
        token_budget: Most padded tokens in a batch; None takes what is kept for this model and device, or measures it.
        unmeasured_budget: The budget where none is kept and the device has other work, beside which a measurement would
            come out wrong; None where it has nothing else to do.
    """

    registry: Path
    version: str
    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    cache_dir: Path = Path()
    token_budget: int | None = None
    unmeasured_budget: int | None = None
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The version is ready: its golden sentences gave their scores.

    Attributes:
        backend: As in ``Backend``; likewise ``device``, ``dtype``, ``depth`` and ``is_fast``.
        token_budget: Most padded tokens in a batch.
        start_s: Seconds from the start of the process until the version was tried, without measuring the budget.
        batch_s: Seconds of a batch as large as the budget.
    """

    backend: str
    device: str
    dtype: str
    depth: int
    token_budget: int
    start_s: float
    batch_s: float
    is_fast: bool


@dataclass(frozen=True, slots=True)
class CheckGolden:
    """Asks to score the golden sentences once more, while nothing else runs."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch's scores: float32 (rows, labels)."""

    scores: Scores


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """A batch raised.

    Attributes:
        kind: Name of the exception's class.
        reason: What it says; for the log.
        is_memory: Whether the device had no memory for it: a smaller one may go.
        trace: For the log.
    """

    kind: str
    reason: str
    is_memory: bool
    trace: str
