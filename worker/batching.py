"""Which rows go through the model together, and which go next. Pure policy: no torch, no Redis, no thread, no clock.

Rows are known here by their token length alone. Whole chunks are taken into a window, a window's rows are sorted by
length, and batches are cut from the sorted rows, shortest first: a chunk usually ends with its longest row, so in this
order chunks finish all through the window instead of all at its end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from scorequeue.jobs import Lane

Ints = npt.NDArray[np.int64]
T = TypeVar("T")

FULL_ENOUGH = 0.5
"""Share of the token budget from which on a batch ends rather than pad its rows to the next length."""

TOP_UP = 0.25
"""Share of the token budget to which an express batch is filled up with bulk rows of fitting length."""

EXPRESS_TURNS = 3
"""Batches that express may fill alone, one after the other, while bulk waits; the next one is bulk's."""

ROWS_STEP = 8
"""Batches of more rows have a multiple of it, so that there are few shapes (docs/decisions.md)."""

WIDTHS_PER_DOUBLING = 16
"""To how many different widths rows are padded from any length to its double: 31, 32, 34, 36 ... 62, 64, 68 tokens."""

EXPRESS_WINDOW_ROWS = 512
"""Most rows of an express window. Of a thousand waiting sentences, sorted by 128, 8 % is padding; by 512, 2 %."""

SINGLY = 1_024
"""Rows that are tried one by one after a loss, because each further loss costs the start of a process."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Row indices, shortest first and equals in their order, and the tokens to which all of them are padded."""

    rows: Ints
    width: int


def plan_batches(lengths: Sequence[int] | npt.NDArray[np.integer], *, token_budget: int, max_rows: int) -> list[Batch]:
    """Cut rows into batches that waste little padding.

    Args:
        lengths: Tokens per row, special tokens included.
        token_budget: Most padded tokens in a batch: width times rows. A row that is longer forms a batch of its own.
        max_rows: Most rows in a batch.

    Returns:
        Batches in running order, shortest rows first. Each row index is in exactly one of them.

    Raises:
        ValueError: A length, the budget or the most rows is below 1.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if token_budget < 1 or max_rows < 1 or (len(sizes) and sizes.min() < 1):
        raise ValueError(f"lengths, token_budget and max_rows start at 1, got {token_budget=}, {max_rows=}")
    window = Window(Lane.BULK, [(None, sizes)])
    batches = []
    while not window.is_empty:
        part, width = window.take_batch(token_budget, max_rows)
        batches.append(Batch(part.positions, width))
    return batches


def padded_width(longest: int) -> int:
    """Return the tokens to which rows are padded: those of the longest one, rounded up so that there are few widths."""
    return int(_padded_widths(np.array([longest]))[0])


def _padded_widths(lengths: npt.NDArray[np.integer]) -> Ints:
    """Return what ``padded_width`` says of each length, all at least 1."""
    doublings = np.frexp(lengths)[1] - 1  # of 1 token; floor of the logarithm
    steps = np.maximum(1, (1 << doublings.astype(np.int64)) // WIDTHS_PER_DOUBLING)
    widths: Ints = -(-lengths // steps) * steps
    return widths


def batch_size(ordered: npt.NDArray[np.integer], *, token_budget: int, max_rows: int) -> int:
    """How many of the first rows form the next batch: at least one.

    A batch ends where the budget or the rows do, and before that at the first change of length after it is half full:
    on CoLA sentences in windows of 2,048 rows and a budget of 2,048 tokens that brings padding from 6.4 to 3.4 %. What
    is over a multiple of ``ROWS_STEP`` rows waits for the next one. ``ordered``: tokens per row, ascending, not empty.
    """
    most = min(len(ordered), max_rows, max(1, token_budget // int(ordered[0])))
    lengths = ordered[:most]
    padded = _padded_widths(lengths) * np.arange(1, most + 1)  # tokens of a batch that ends with this row
    fitting = max(1, int(np.searchsorted(padded, token_budget, side="right")))
    if fitting > 1 and padded[fitting - 1] > token_budget * FULL_ENOUGH:
        first = int(np.searchsorted(padded[:fitting], token_budget * FULL_ENOUGH, side="left"))
        changes = np.flatnonzero(lengths[first + 1 : fitting] != lengths[first : fitting - 1])
        if len(changes):
            fitting = first + 1 + int(changes[0])
    return fitting if fitting < ROWS_STEP else fitting - fitting % ROWS_STEP


def rows_at_once(rows: int) -> int:
    """How many of the rows that were lost with a process are tried together next: one, or groups of very many."""
    return 1 if rows <= SINGLY else math.isqrt(rows)


class Window(Generic[T]):
    """Whole chunks of a lane, whose rows are sorted by length and batched together.

    Attributes:
        tickets: The caller's names of the chunks, in order of arrival.
        bounds: Where each chunk's rows begin in the window, and the end: ``len(tickets) + 1`` positions.
    """

    def __init__(self, lane: Lane, chunks: list[tuple[T, npt.NDArray[np.integer]]]) -> None:
        self.lane = lane
        self.tickets = tuple(ticket for ticket, _ in chunks)
        self.bounds: Ints = np.cumsum([0, *(len(lengths) for _, lengths in chunks)], dtype=np.int64)
        lengths = np.concatenate([lengths for _, lengths in chunks])
        # Rows that are not picked yet, shortest first.
        self._positions: Ints = np.argsort(lengths, kind="stable")
        self._lengths: Ints = lengths[self._positions].astype(np.int64)

    @property
    def rows(self) -> int:
        """Rows of all its chunks."""
        return int(self.bounds[-1])

    @property
    def is_empty(self) -> bool:
        """Whether all rows are picked."""
        return not len(self._positions)

    def take_batch(self, token_budget: int, max_rows: int) -> tuple[Part[T], int]:
        """Take the rows of the next batch, and say to which width they are padded."""
        rows = batch_size(self._lengths, token_budget=token_budget, max_rows=max_rows)
        width = padded_width(int(self._lengths[rows - 1]))
        return self._take(0, rows), width

    def take_fitting(self, width: int, rows: int) -> Part[T] | None:
        """Take up to ``rows`` of the rows of at most ``width`` tokens, the longest; None if there are none."""
        end = int(np.searchsorted(self._lengths, width, side="right"))
        return self._take(max(0, end - rows), end) if end else None

    def _take(self, start: int, end: int) -> Part[T]:
        taken = self._positions[start:end]
        if start == 0:  # without a copy
            self._positions, self._lengths = self._positions[end:], self._lengths[end:]
        else:
            self._positions = np.concatenate([self._positions[:start], self._positions[end:]])
            self._lengths = np.concatenate([self._lengths[:start], self._lengths[end:]])
        return Part(self, taken)


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Rows of one window that are in a pick, as positions in the window."""

    window: Window[T]
    positions: Ints


@dataclass(frozen=True, slots=True)
class Pick(Generic[T]):
    """The next batch: rows of one window, or express rows and the bulk rows that fill them up; no part is empty."""

    parts: tuple[Part[T], ...]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(len(part.positions) for part in self.parts)

    def cut(self, rows: int) -> list[Pick[T]]:
        """Split into picks of one part and at most so many rows, in their order."""
        return [
            Pick((Part(part.window, part.positions[start : start + rows]),))
            for part in self.parts
            for start in range(0, len(part.positions), rows)
        ]


class RowQueue(Generic[T]):
    """Rows of one model that wait for the device, and the rule that says which go next.

    A chunk is *waiting* (in order of arrival, per lane), then its rows are in the lane's open window, then *picked*. A
    new window opens only when all rows of the last one are picked, so rows of a window go before those that came later.
    Express goes first, yet bulk gets every fourth batch at least while express has enough for itself.

    A batch has at most ``max_rows`` rows.
    """

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._waiting: dict[Lane, deque[tuple[T, npt.NDArray[np.integer]]]] = {lane: deque() for lane in Lane}
        self._open: dict[Lane, Window[T] | None] = dict.fromkeys(Lane)
        self._express_turns = 0

    def add(self, ticket: T, *, lane: Lane, lengths: npt.NDArray[np.integer]) -> None:
        """Let a chunk wait: the caller's name of it, which windows give back, and the tokens of its rows."""
        self._waiting[lane].append((ticket, lengths))

    def next_pick(self, *, token_budget: int, window_rows: int) -> Pick[T] | None:
        """Take the rows that go next; None when no row waits.

        Args:
            token_budget: Padded tokens that the batch may have.
            window_rows: Rows at which a window that is opened takes no further chunk.
        """
        express = self._opened(Lane.EXPRESS, min(window_rows, EXPRESS_WINDOW_ROWS))
        bulk = self._opened(Lane.BULK, window_rows)
        window, rider = express, bulk
        if express is None or (bulk is not None and self._express_turns >= EXPRESS_TURNS):
            window, rider = bulk, None
        if window is None:
            return None
        part, width = window.take_batch(token_budget, self._max_rows)
        parts = [part]
        # A batch of one sentence costs the device nearly as much as one of twenty, so bulk rows ride along.
        fill = min(int(token_budget * TOP_UP) // width, self._max_rows) - len(part.positions)
        if rider is not None and fill > 0 and (extra := rider.take_fitting(width, fill)):
            parts.append(extra)
        self._express_turns = self._express_turns + 1 if rider is not None and len(parts) == 1 else 0
        return Pick(tuple(parts))

    def _opened(self, lane: Lane, most_rows: int) -> Window[T] | None:
        """Return the lane's open window; a new one if all rows of the last one are picked, None if no chunk waits."""
        window = self._open[lane]
        if window is None or window.is_empty:
            waiting = self._waiting[lane]
            taken: list[tuple[T, npt.NDArray[np.integer]]] = []
            rows = 0
            while waiting and (not taken or rows + len(waiting[0][1]) <= most_rows):
                taken.append(waiting.popleft())
                rows += len(taken[-1][1])
            window = self._open[lane] = Window(lane, taken) if taken else None
        return window
