"""Which rows go through the model together, and which go next. Pure policy: no torch, no Redis, no thread, no clock.

Rows are known here by their token length alone. Whole chunks are taken into a window, a window's rows are sorted by
length, and batches are cut from the sorted rows, shortest first: a chunk usually ends with its longest row, so in this
order chunks finish all through the window instead of all at its end.
"""

from __future__ import annotations

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
"""Most rows of an express window. Of a thousand waiting sentences, sorted by 128, 8 % is padding; by 512, 2 %.

Whoever comes later waits for those before in any case, so a larger window delays only its own rows among themselves.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
        rows: Row indices, shortest first; rows of equal length in their original order.
        width: Tokens to which all of them are padded: those of the longest row, or a few more.
    """

    rows: Ints
    width: int

    @property
    def padded_tokens(self) -> int:
        """Tokens that the model reads, padding included."""
        return self.width * len(self.rows)


def plan_batches(lengths: Sequence[int] | npt.NDArray[np.integer], *, token_budget: int, max_rows: int) -> list[Batch]:
    """Cut rows into batches that waste little padding.

    Args:
        lengths: Tokens per row, special tokens included.
        token_budget: Most padded tokens in a batch: width times rows. A row that is longer than the budget forms a
            batch of its own: it must be scored, and the device says itself when it cannot.
        max_rows: Most rows in a batch.

    Returns:
        Batches in running order, shortest rows first. Each row index is in exactly one of them.

    Raises:
        ValueError: A length, the budget or the most rows is below 1.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if token_budget < 1 or max_rows < 1 or (len(sizes) and sizes.min() < 1):
        raise ValueError(f"lengths, token_budget and max_rows start at 1, got {token_budget=}, {max_rows=}")
    order = np.argsort(sizes, kind="stable")
    ordered = sizes[order]
    batches = []
    start = 0
    while start < len(order):
        rows = batch_size(ordered[start:], token_budget=token_budget, max_rows=max_rows)
        batches.append(Batch(rows=order[start : start + rows], width=padded_width(int(ordered[start + rows - 1]))))
        start += rows
    return batches


def padded_width(longest: int) -> int:
    """Return the tokens to which rows are padded: those of the longest one, rounded up where they are many.

    Libraries keep what they prepare for each shape of a batch, half a megabyte and more, so there must be few of them.
    """
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
    is over a multiple of ``ROWS_STEP`` rows waits for the next one.

    Args:
        ordered: Tokens per row, ascending, not empty.
        token_budget: Most padded tokens.
        max_rows: Most rows.
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


@dataclass(frozen=True, slots=True, eq=False)
class Window(Generic[T]):
    """Whole chunks whose rows are sorted and batched together.

    Attributes:
        lane: The lane of all its chunks.
        tickets: The caller's names of the chunks, in order of arrival.
        bounds: Where each chunk's rows begin in the window, and the end: ``len(tickets) + 1`` positions.
    """

    lane: Lane
    tickets: tuple[T, ...]
    bounds: Ints

    @property
    def rows(self) -> int:
        """Rows of all its chunks."""
        return int(self.bounds[-1])


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Rows of one window that are in a pick, as positions in the window."""

    window: Window[T]
    positions: Ints


@dataclass(frozen=True, slots=True)
class Pick(Generic[T]):
    """The next batch: rows of one window, or express rows and the bulk rows that fill them up.

    Attributes:
        parts: At least one, none empty.
    """

    parts: tuple[Part[T], ...]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(len(part.positions) for part in self.parts)

    def cut(self, rows: int) -> list[Pick[T]]:
        """Split into picks of at most so many rows, in their order."""
        picks: list[list[Part[T]]] = [[]]
        room = rows
        for part in self.parts:
            start = 0
            while start < len(part.positions):
                if room == 0:
                    picks.append([])
                    room = rows
                taken = part.positions[start : start + room]
                picks[-1].append(Part(part.window, taken))
                start, room = start + len(taken), room - len(taken)
        return [Pick(tuple(parts)) for parts in picks]


class RowQueue(Generic[T]):
    """Rows of one model that wait for the device, and the rule that says which go next.

    A chunk is *waiting* (in order of arrival, per lane), then its rows are *open* (sorted in the lane's window), then
    *picked*. A lane has at most one open window, and a new one opens only when all rows of the last one are picked, so
    rows of a window go before those that came later.

    Express goes first, yet bulk gets every fourth batch at least while express has enough for itself.

    Args:
        token_budget: Padded tokens that a batch may have; may be set anew between picks.
        max_rows: Most rows in a batch.
        window_rows: Rows at which a bulk window takes no further chunk; may be set anew between picks.
    """

    def __init__(self, *, token_budget: int, max_rows: int, window_rows: int) -> None:
        self.token_budget = token_budget
        self.max_rows = max_rows
        self.window_rows = window_rows
        self._waiting: dict[Lane, deque[tuple[T, npt.NDArray[np.integer]]]] = {lane: deque() for lane in Lane}
        self._open: dict[Lane, _OpenWindow[T] | None] = dict.fromkeys(Lane)
        self._express_turns = 0

    def add(self, ticket: T, *, lane: Lane, lengths: npt.NDArray[np.integer]) -> None:
        """Let a chunk wait.

        Args:
            ticket: The caller's name of the chunk, given back in windows.
            lane: Its lane.
            lengths: Tokens per row; at least one row.
        """
        self._waiting[lane].append((ticket, lengths))

    def next_pick(self) -> Pick[T] | None:
        """Take the rows that go next; None when no row waits."""
        express, bulk = self._opened(Lane.EXPRESS), self._opened(Lane.BULK)
        if express is None and bulk is None:
            return None
        if bulk is None or (express is not None and self._express_turns < EXPRESS_TURNS):
            assert express is not None
            pick = self._pick_express(express, bulk)
            self._express_turns = self._express_turns + 1 if bulk is not None and len(pick.parts) == 1 else 0
        else:
            pick = bulk.pick(self.token_budget, self.max_rows)
            self._express_turns = 0
        return pick

    def _pick_express(self, express: _OpenWindow[T], bulk: _OpenWindow[T] | None) -> Pick[T]:
        pick = express.pick(self.token_budget, self.max_rows)
        if bulk is None:
            return pick
        # A batch of one sentence costs the device nearly as much as one of twenty, so bulk rows ride along.
        width = express.last_width
        fill = min(int(self.token_budget * TOP_UP) // width, self.max_rows) - pick.rows
        extra = bulk.take_fitting(width, fill) if fill > 0 else None
        return Pick((*pick.parts, extra)) if extra else pick

    def _opened(self, lane: Lane) -> _OpenWindow[T] | None:
        opened = self._open[lane]
        if opened is None or opened.is_empty:
            opened = self._open[lane] = self._open_next(lane)
        return opened

    def _open_next(self, lane: Lane) -> _OpenWindow[T] | None:
        waiting = self._waiting[lane]
        most = self.window_rows if lane is Lane.BULK else min(self.window_rows, EXPRESS_WINDOW_ROWS)
        taken: list[tuple[T, npt.NDArray[np.integer]]] = []
        rows = 0
        while waiting and (not taken or rows + len(waiting[0][1]) <= most):
            taken.append(waiting.popleft())
            rows += len(taken[-1][1])
        return _OpenWindow(lane, taken) if taken else None


class _OpenWindow(Generic[T]):
    """A window and those of its rows that are not picked yet, shortest first."""

    def __init__(self, lane: Lane, chunks: list[tuple[T, npt.NDArray[np.integer]]]) -> None:
        bounds = np.zeros(len(chunks) + 1, dtype=np.int64)
        np.cumsum([len(lengths) for _, lengths in chunks], out=bounds[1:])
        self.window = Window(lane, tuple(ticket for ticket, _ in chunks), bounds)
        lengths = np.concatenate([lengths for _, lengths in chunks]) if len(chunks) > 1 else chunks[0][1]
        self._positions: Ints = np.argsort(lengths, kind="stable")
        self._lengths = lengths[self._positions].astype(np.int64)
        self.last_width = 0

    @property
    def is_empty(self) -> bool:
        return not len(self._positions)

    def pick(self, token_budget: int, max_rows: int) -> Pick[T]:
        rows = batch_size(self._lengths, token_budget=token_budget, max_rows=max_rows)
        self.last_width = padded_width(int(self._lengths[rows - 1]))
        part = self._take(0, rows)
        return Pick((part,))

    def take_fitting(self, width: int, rows: int) -> Part[T] | None:
        """Take up to ``rows`` of the rows of at most ``width`` tokens, the longest; None if there are none."""
        end = int(np.searchsorted(self._lengths, width, side="right"))
        return self._take(max(0, end - rows), end) if end else None

    def _take(self, start: int, end: int) -> Part[T]:
        taken = self._positions[start:end]
        if start == 0:
            self._positions, self._lengths = self._positions[end:], self._lengths[end:]
        else:
            self._positions = np.concatenate([self._positions[:start], self._positions[end:]])
            self._lengths = np.concatenate([self._lengths[:start], self._lengths[end:]])
        return Part(self.window, taken)
