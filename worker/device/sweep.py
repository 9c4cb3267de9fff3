"""How many padded tokens a batch should have: measured for a model on its device, once, and kept.

Small batches waste the device, large ones make everybody wait and gain nothing: the curve is flat from some budget on.
The smallest one on the flat part is taken, or a smaller one if that costs little and express rows need not wait long.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scorequeue.logs import fields
from worker.backends import Backend, DeviceFullError, PaddedBatch, Running
from worker.budget import SMALLEST_BUDGET

log = logging.getLogger(__name__)

LARGEST_BUDGET = 262_144

NEAR_BEST = 0.97
"""The smallest budget that reaches this share of the best speed is on the flat part."""

GOOD_ENOUGH = 0.9
"""Share of the best speed that is enough where more would make express rows wait."""

FAST_ENOUGH = 0.85
"""The same for a device that is faster than rows can be tokenised for it."""

WAIT_S = 0.045
"""Seconds that all batches in flight should take together: an express row may have to wait for them. On an H100, MiniLM
has 0.87 of its best speed with 25 ms of batches in flight and 0.93 with 50, more than can be tokenised for it."""

LONGEST_WAIT_S = 5 * WAIT_S
"""The sweep ends there: a model so slow is slow with small batches too."""

ROW_TOKENS = 16
"""Tokens of the rows that are measured with: a short sentence with its special tokens."""

REPEATS = 3
"""Runs of each budget; the fastest counts, because whatever else the machine does only makes one slower."""

PATIENCE = 2
"""Budgets without a gain after which larger ones are not tried."""

FAKE_BUDGET = 65_536
"""The fake backend's: its speed does not depend on it."""

FILE_NAME = "budgets.json"
TOKEN_ID = 5


@dataclass(frozen=True, slots=True)
class Point:
    """One budget.

    Attributes:
        token_budget: Padded tokens of the batch.
        batch_s: Seconds from one batch's end to the next one's with the device kept busy, the fastest of a few runs.
        depth: Batches that are in flight then.
    """

    token_budget: int
    batch_s: float
    depth: int = 1

    @property
    def tokens_per_s(self) -> float:
        """Speed at this budget."""
        return self.token_budget / self.batch_s

    @property
    def wait_s(self) -> float:
        """Seconds until all that is in flight has ended."""
        return self.depth * self.batch_s


def measure(backend: Backend, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[Point]:
    """Time batches of doubling size, until larger ones gain nothing, take too long, or do not fit.

    Args:
        backend: Nobody else may use it meanwhile.
        clock: Seconds.
    """
    best = 0.0
    without_gain = 0
    budget = SMALLEST_BUDGET
    while budget <= LARGEST_BUDGET:
        try:
            batch_s = min(_batch_seconds(backend, budget, clock) for _ in range(REPEATS))
            point = Point(budget, batch_s, backend.depth)
        except DeviceFullError:
            return
        yield point
        without_gain = 0 if point.tokens_per_s > best / NEAR_BEST else without_gain + 1
        best = max(best, point.tokens_per_s)
        if point.wait_s > LONGEST_WAIT_S or without_gain >= PATIENCE:
            return
        budget *= 2


def choose(points: list[Point], *, good_enough: float = GOOD_ENOUGH) -> int:
    """Return the budget to take of those measured, see above.

    On two cores with MiniLM in OpenVINO, 512 tokens reach 95 % of the best speed and an express row beside a bulk job
    is back in 68 ms (p95); with 1,024 tokens it takes 129 ms.
    """
    if not points:
        return SMALLEST_BUDGET  # not even that fits: batches are halved until they do
    best = max(point.tokens_per_s for point in points)
    flat = next(point for point in points if point.tokens_per_s >= NEAR_BEST * best)
    if flat.wait_s <= WAIT_S:
        return flat.token_budget
    quick = [point for point in points if point.wait_s <= WAIT_S and point.tokens_per_s >= good_enough * best]
    if quick:
        return quick[-1].token_budget
    return next(point.token_budget for point in points if point.tokens_per_s >= good_enough * best)


def find_budget(backend: Backend, folder: Path, *, cache_dir: Path, otherwise: int | None = None) -> int:
    """Return the budget for a model on its device: the one that is kept, else measured now and kept.

    Args:
        backend: The model on its device, warmed up; nobody else may use it meanwhile.
        folder: Its checkpoint folder.
        cache_dir: Where budgets are kept; one that cannot be written costs the next start a few seconds.
        otherwise: The budget where none is kept and the device has other work: a measurement would come out wrong, and
            hold that work up. None where it has nothing else to do.
    """
    if backend.name == "fake":
        return FAKE_BUDGET
    key = budget_key(backend, folder)
    kept = _read(cache_dir).get(key, otherwise)
    if kept is not None:
        return kept
    began = time.monotonic()
    budget = choose(list(measure(backend)), good_enough=FAST_ENOUGH if backend.is_fast else GOOD_ENOUGH)
    keep(budget, key=key, cache_dir=cache_dir)
    took_s = round(time.monotonic() - began, 1)
    log.info("token budget measured", extra=fields("budget_measured", token_budget=budget, took_s=took_s))
    return budget


def keep(token_budget: int, *, key: str, cache_dir: Path) -> None:
    """Keep a budget for the next start."""
    kept = _read(cache_dir) | {key: token_budget}
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache_dir, delete=False) as file:
            json.dump(kept, file, indent=2)
        os.replace(file.name, cache_dir / FILE_NAME)  # another worker may read or write at the same time
    except OSError as error:
        log.warning("the token budget cannot be kept", extra=fields("cache_unwritable", error=str(error)))


def budget_key(backend: Backend, folder: Path) -> str:
    """Name what the speed depends on: the shapes of the model, not its weights, and the device in words."""
    shapes = []
    for weights in folder.glob("*.safetensors"):  # one, or several shards
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes += [(name, entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
    shapes.sort()
    model = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    return f"{model} {backend.name} {backend.dtype} {backend.device}"


def _batch_seconds(backend: Backend, budget: int, clock: Callable[[], float]) -> float:
    rows = budget // ROW_TOKENS
    batch = PaddedBatch(np.full((rows, ROW_TOKENS), TOKEN_ID, np.int32), np.full(rows, ROW_TOKENS, np.int32))
    began = clock()
    batches = 2 * backend.depth if backend.depth > 1 else 1
    running: deque[Running] = deque()
    for _ in range(batches):
        running.append(backend.begin(batch))
        if len(running) >= backend.depth:
            running.popleft()()
    while running:
        running.popleft()()
    return (clock() - began) / batches


def _read(cache_dir: Path) -> dict[str, int]:
    """Return what is kept; nothing where it cannot be read, because it can be measured again."""
    try:
        kept = json.loads((cache_dir / FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {key: budget for key, budget in kept.items() if type(budget) is int and budget >= SMALLEST_BUDGET}
