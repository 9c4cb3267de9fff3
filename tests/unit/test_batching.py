from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorequeue.jobs import Lane
from worker.batching import (
    EXPRESS_TURNS,
    ROWS_STEP,
    WIDTHS_PER_DOUBLING,
    Pick,
    RowQueue,
    padded_width,
    plan_batches,
)

T = TypeVar("T")
LENGTHS = st.lists(st.integers(1, 200), max_size=300)
CHUNKS = st.lists(
    st.tuples(st.sampled_from(Lane), st.lists(st.integers(1, 60), min_size=1, max_size=30)),
    max_size=25,
)


@given(LENGTHS, st.integers(1, 2_000), st.integers(1, 64))
def test_each_row_is_in_one_batch_and_the_budget_is_kept(lengths: list[int], token_budget: int, max_rows: int) -> None:
    batches = plan_batches(lengths, token_budget=token_budget, max_rows=max_rows)

    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert batch.width == padded_width(max(lengths[row] for row in batch.rows))
        assert len(batch.rows) <= max_rows
        assert batch.width * len(batch.rows) <= token_budget or len(batch.rows) == 1


@given(LENGTHS, st.integers(1, 2_000))
def test_rows_run_shortest_first_and_equals_keep_their_order(lengths: list[int], token_budget: int) -> None:
    batches = plan_batches(lengths, token_budget=token_budget, max_rows=64)

    order = [int(row) for batch in batches for row in batch.rows]
    assert order == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))


def test_padding_of_a_full_window_stays_below_five_percent() -> None:
    """Padding is work for nothing; lengths here spread like those of real sentences."""
    lengths = np.clip(np.random.default_rng(0).gamma(6.5, 1.7, 2_048).astype(int) + 2, 3, 60)

    batches = plan_batches(lengths, token_budget=2_048, max_rows=4_096)

    assert sum(batch.width * len(batch.rows) for batch in batches) <= lengths.sum() / 0.95


def test_there_are_few_shapes_of_batches() -> None:
    """Libraries keep what they prepare for each shape: with any number of rows a worker grew by half in an hour."""
    random = np.random.default_rng(7)
    shapes = set()
    for _ in range(200):
        lengths = np.clip(random.lognormal(random.uniform(2, 5), 0.6, size=2_048), 1, 512).astype(np.int64)
        for batch in plan_batches(lengths, token_budget=512, max_rows=4_096):
            shapes.add((len(batch.rows), batch.width))

    assert {rows for rows, _ in shapes if rows > ROWS_STEP} <= set(range(0, 513, ROWS_STEP))
    assert len({width for _, width in shapes}) <= 32 + 4 * WIDTHS_PER_DOUBLING
    assert len(shapes) < 500


@pytest.mark.parametrize(("longest", "width"), [(1, 1), (31, 31), (32, 32), (33, 34), (65, 68), (257, 272), (512, 512)])
def test_rows_are_padded_a_little_further_where_they_are_long(longest: int, width: int) -> None:
    assert padded_width(longest) == width


def test_a_row_over_the_budget_runs_alone() -> None:
    batches = plan_batches([5, 900, 5], token_budget=100, max_rows=8)

    assert [batch.rows.tolist() for batch in batches] == [[0, 2], [1]]


@pytest.mark.parametrize(("lengths", "token_budget", "max_rows"), [([0], 8, 8), ([1], 0, 8), ([1], 8, 0)])
def test_sizes_below_one_are_refused(lengths: list[int], token_budget: int, max_rows: int) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        plan_batches(lengths, token_budget=token_budget, max_rows=max_rows)


@given(CHUNKS, st.integers(1, 500), st.integers(1, 200))
def test_queue_gives_each_row_once_and_keeps_to_the_budget(
    chunks: list[tuple[Lane, list[int]]], token_budget: int, window_rows: int
) -> None:
    queue: RowQueue[int] = RowQueue(max_rows=64)
    for number, (lane, lengths) in enumerate(chunks):
        queue.add(number, lane=lane, lengths=np.array(lengths))

    seen: Counter[tuple[int, int]] = Counter()
    for pick in drain(queue, token_budget=token_budget, window_rows=window_rows):
        picked = rows_of(pick)
        lengths = [chunks[chunk][1][row] for chunk, row in picked]
        assert max(lengths) * len(lengths) <= token_budget or len(lengths) == 1
        seen.update(picked)

    assert seen == Counter((number, row) for number, chunk in enumerate(chunks) for row in range(len(chunk[1])))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 100))
def test_windows_of_a_lane_run_in_order_of_arrival(sizes: list[int], window_rows: int) -> None:
    """Later chunks must not overtake: a job's first rows would wait for ever behind shorter ones."""
    queue: RowQueue[int] = RowQueue(max_rows=64)
    for number, size in enumerate(sizes):
        queue.add(number, lane=Lane.BULK, lengths=np.full(size, 8))

    windows = list(
        dict.fromkeys(pick.parts[0].window for pick in drain(queue, token_budget=64, window_rows=window_rows))
    )

    assert [ticket for window in windows for ticket in window.tickets] == list(range(len(sizes)))
    assert all(window.rows <= window_rows or len(window.tickets) == 1 for window in windows)


def test_express_joins_the_very_next_batch_and_takes_bulk_rows_along() -> None:
    queue: RowQueue[str] = RowQueue(max_rows=64)
    queue.add("bulk", lane=Lane.BULK, lengths=np.tile([6, 8, 30], 100))
    first = next_of(queue, token_budget=400)

    queue.add("lone", lane=Lane.EXPRESS, lengths=np.array([9]))
    second = next_of(queue, token_budget=400)

    assert lanes(first) == [Lane.BULK]
    assert lanes(second) == [Lane.EXPRESS, Lane.BULK]
    assert second.parts[0].window.tickets == ("lone",)
    assert {row % 3 for _, row in rows_of(second)[1:]} == {1}  # rows of 8 tokens: the longest that fit beside 9
    assert second.rows * 9 <= 400 * 0.25


def test_bulk_moves_on_under_a_flood_of_express() -> None:
    queue: RowQueue[str] = RowQueue(max_rows=64)
    queue.add("bulk", lane=Lane.BULK, lengths=np.full(1_000, 8))
    queue.add("flood", lane=Lane.EXPRESS, lengths=np.full(1_000, 8))

    turns = [lanes(next_of(queue, token_budget=80)) for _ in range(4 * (EXPRESS_TURNS + 1))]

    assert turns == ([[Lane.EXPRESS]] * EXPRESS_TURNS + [[Lane.BULK]]) * 4


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 100))
def test_pieces_part_a_pick_without_loss(express_rows: int, bulk_rows: int, size: int) -> None:
    queue: RowQueue[str] = RowQueue(max_rows=1_000)
    queue.add("express", lane=Lane.EXPRESS, lengths=np.full(express_rows + 1, 8))
    if bulk_rows:
        queue.add("bulk", lane=Lane.BULK, lengths=np.full(bulk_rows, 8))
    pick = next_of(queue, token_budget=10_000)

    pieces = pick.cut(size)

    assert {len(piece.parts) for piece in pieces} == {1}
    assert all(0 < piece.rows <= size for piece in pieces)
    assert len(pieces) <= pick.rows / size + 2
    assert [row for piece in pieces for row in rows_of(piece)] == rows_of(pick)


def next_of(queue: RowQueue[str], *, token_budget: int) -> Pick[str]:
    pick = queue.next_pick(token_budget=token_budget, window_rows=10_000)
    assert pick is not None
    return pick


def drain(queue: RowQueue[T], *, token_budget: int, window_rows: int) -> list[Pick[T]]:
    return list(iter(partial(queue.next_pick, token_budget=token_budget, window_rows=window_rows), None))


def lanes(pick: Pick[T]) -> list[Lane]:
    return [part.window.lane for part in pick.parts]


def rows_of(pick: Pick[T]) -> list[tuple[T, int]]:
    """Ticket and offset in its chunk of each row, in batch order."""
    rows = []
    for part in pick.parts:
        chunks = np.searchsorted(part.window.bounds, part.positions, side="right") - 1
        offsets = part.positions - part.window.bounds[chunks]
        rows += [(part.window.tickets[chunk], int(row)) for chunk, row in zip(chunks, offsets, strict=True)]
    return rows
