"""What the worker's process and a device process say to each other, beside the batches themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scorequeue.errors import ScorequeueError
from worker.backends import Scores


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """The first message: which version, and how to run it.

    Attributes:
        registry: Folder of checkpoint versions.
        version: The version's name.
        backend: ``torch``, ``openvino``, ``fake`` or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        cache_dir: Where converted models and token budgets are kept.
        token_budget: Most padded tokens in a batch; None takes what is kept for this model and device, or measures it.
        unmeasured_budget: The budget where none is kept and the device has other work, beside which a measurement would
            come out wrong; None where it has nothing else to do.
        log_level: As in the worker's settings.
        log_format: Likewise.
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
        backend: ``torch``, ``openvino`` or ``fake``.
        device: What it runs on, in words.
        dtype: Number format of its weights.
        depth: Batches that the device works on at once.
        token_budget: Most padded tokens in a batch.
        start_s: Seconds from the start of the process until the version was tried, without measuring the budget.
        batch_s: Seconds of a batch as large as the budget.
        is_fast: Whether the device is so fast that one process cannot tokenise for it: a GPU.
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
class LoadFailed:
    """The version cannot be used; the process ends."""

    error: ScorequeueError


@dataclass(frozen=True, slots=True)
class CheckGolden:
    """Asks to score the golden sentences once more; the answer is ``Healthy`` or ``Sick``."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """The golden sentences gave their scores."""


@dataclass(frozen=True, slots=True)
class Sick:
    """They did not, and why."""

    reason: str


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
