"""How many padded tokens a batch should have: measured for a model on its device, once, and kept.

Small batches waste the device, large ones make everybody wait and gain nothing: the curve is flat from some budget on.
The smallest one on the flat part is taken, or a smaller one if that costs little and express rows need not wait long.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter
from safetensors import safe_open

from scorequeue.logs import fields
from worker.backends import Backend, DeviceFullError, PaddedBatch
from worker.budget import SMALLEST_BUDGET

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_BUDGET, FAKE_BUDGET = 262_144, 65_536
"""The last one that is tried; what the fake backend gets, whose speed does not depend on it."""

NEAR_BEST, GOOD_ENOUGH, FAST_ENOUGH = 0.97, 0.9, 0.85
"""Shares of the best speed: from the first on the curve is flat; the second is enough where more would make express
rows wait, and the third where the device is faster than rows can be tokenised for it."""

WAIT_S = 0.045
"""Seconds that all batches in flight should take together: an express row may have to wait for them. On an H100, MiniLM
has 0.87 of its best speed with 25 ms of batches in flight and 0.93 with 50, more than can be tokenised for it. The
sweep ends at five times as much: a model so slow is slow with small batches too."""

ROW_TOKENS, TOKEN_ID = 16, 5
"""The rows that are measured with: as long as a short sentence with its special tokens."""

REPEATS, PATIENCE = 3, 2
"""Runs of each budget, of which the fastest counts; budgets without a gain after which larger ones are not tried."""

FILE_NAME = "budgets.json"
_BUDGETS = TypeAdapter(dict[str, Annotated[int, Field(strict=True, ge=SMALLEST_BUDGET)]])


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured of one budget: seconds from one batch's end to the next one's, the device kept busy."""

    token_budget: int
    batch_s: float
    depth: int = 1  # batches that are in flight

    @property
    def tokens_per_s(self) -> float:
        """Speed at this budget."""
        return self.token_budget / self.batch_s

    @property
    def wait_s(self) -> float:
        """Seconds until all that is in flight has ended."""
        return self.depth * self.batch_s


def measure(backend: Backend, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[Point]:
    """Time batches of doubling size, until larger ones gain nothing, take too long, or do not fit."""
    best = 0.0
    without_gain = 0
    budget = SMALLEST_BUDGET
    while budget <= LARGEST_BUDGET:
        try:
            point = Point(budget, min(_batch_seconds(backend, budget, clock) for _ in range(REPEATS)), backend.depth)
        except DeviceFullError:
            return
        yield point
        without_gain = 0 if point.tokens_per_s > best / NEAR_BEST else without_gain + 1
        best = max(best, point.tokens_per_s)
        if point.wait_s > 5 * WAIT_S or without_gain >= PATIENCE:
            return
        budget *= 2


def choose(points: Sequence[Point], *, is_fast: bool = False) -> int:
    """Return the budget to take of those measured, see above.

    On two cores with MiniLM in OpenVINO, 512 tokens reach 95 % of the best speed and an express row beside a bulk job
    is back in 68 ms (p95); with 1,024 tokens it takes 129 ms.

    Args:
        points: By rising budget.
        is_fast: Whether the device takes more rows than one process can tokenise.
    """
    if not points:
        return SMALLEST_BUDGET  # not even that fits: batches are halved until they do
    best = max(point.tokens_per_s for point in points)
    flat = next(point for point in points if point.tokens_per_s >= NEAR_BEST * best)
    if flat.wait_s <= WAIT_S:
        return flat.token_budget
    good_enough = FAST_ENOUGH if is_fast else GOOD_ENOUGH
    fast = [point for point in points if point.tokens_per_s >= good_enough * best]
    quick = [point for point in fast if point.wait_s <= WAIT_S]
    return (quick[-1] if quick else fast[0]).token_budget


def find_budget(backend: Backend, folder: Path, *, cache_dir: Path, otherwise: int | None = None) -> int:
    """Return the budget for a model on its device: the one that is kept, else measured now and kept.

    Args:
        backend: The model on its device, warmed up.
        folder: Its checkpoint folder.
        cache_dir: Where budgets are kept.
        otherwise: The budget where none is kept and the device has other work: a measurement would come out wrong, and
            hold that work up. None where it has nothing else to do.
    """
    if backend.name == "fake":
        return FAKE_BUDGET
    kept = _read(cache_dir).get(budget_key(backend, folder), otherwise)
    return kept if kept is not None else measure_budget(backend, folder, cache_dir=cache_dir)[0]


def measure_budget(backend: Backend, folder: Path, *, cache_dir: Path) -> tuple[int, list[Point]]:
    """Measure the budget of a warmed up model and keep it; returns what was measured, too.

    A cache that cannot be written costs the next start a few seconds.
    """
    began = time.monotonic()
    points = list(measure(backend))
    budget = choose(points, is_fast=backend.is_fast)
    took_s = round(time.monotonic() - began, 1)
    log.info("token budget measured", extra=fields("budget_measured", token_budget=budget, took_s=took_s))
    keep(budget, key=budget_key(backend, folder), cache_dir=cache_dir)
    return budget, points


def keep(token_budget: int, *, key: str, cache_dir: Path) -> None:
    """Keep a budget for the next start."""
    kept = _read(cache_dir) | {key: token_budget}
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        aside = cache_dir / f"{FILE_NAME}.{uuid.uuid4().hex}"  # not a temporary file, which others could not read
        aside.write_text(json.dumps(kept, indent=2))
        aside.replace(cache_dir / FILE_NAME)  # another worker may read or write at the same time
    except OSError as error:
        log.warning("the token budget cannot be kept", extra=fields("cache_unwritable", error=str(error)))


def budget_key(backend: Backend, folder: Path) -> str:
    """Name what the speed depends on: the shapes of the model, not its weights, and the device in words."""
    shapes = []
    for weights in folder.glob("*.safetensors"):  # one, or several shards
        with safe_open(weights, "numpy") as file:
            shapes += [(name, file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118  # no mapping
    model = hashlib.sha256(json.dumps(sorted(shapes)).encode()).hexdigest()[:16]
    return f"{model} {backend.name} {backend.dtype} {backend.device}"


def in_flight(begun: Iterable[T], *, depth: int) -> Iterator[T]:
    """Yield what is begun in order, each once ``depth`` are begun: so many batches are on the device all the time."""
    running: deque[T] = deque()
    for one in begun:
        running.append(one)
        if len(running) >= depth:
            yield running.popleft()
    yield from running


def _batch_seconds(backend: Backend, budget: int, clock: Callable[[], float]) -> float:
    rows = budget // ROW_TOKENS
    batch = PaddedBatch(np.full((rows, ROW_TOKENS), TOKEN_ID, np.int32), np.full(rows, ROW_TOKENS, np.int32))
    began = clock()
    batches = 2 * backend.depth if backend.depth > 1 else 1
    for wait in in_flight((backend.begin(batch) for _ in range(batches)), depth=backend.depth):
        wait()
    return (clock() - began) / batches


def _read(cache_dir: Path) -> dict[str, int]:
    """Return what is kept; nothing where it cannot be read, because it can be measured again."""
    try:
        return _BUDGETS.validate_json((cache_dir / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
