"""How long a backlog will take, from what workers say of themselves."""

from __future__ import annotations

import math

import pytest

from producer.exporter import Rates, backlog_seconds
from scorequeue.jobs import Lane
from scorequeue.overview import LaneView, WorkerView


def worker(name: str, rows: int, forward_s: float) -> WorkerView:
    return WorkerView(name, "host:1", "1.0", "v1", {}, rows, forward_s)


def lane(rows: int, *workers: str) -> LaneView:
    return LaneView(Lane.BULK, rows, rows, 1.0, workers)


def test_speed_is_that_of_the_last_seconds_of_work():
    """A worker that was slow an hour ago, on long sentences, is not slow now."""
    rates = Rates()
    assert rates.update([worker("a", 1_000, 100.0)]) == {"a": 10.0}

    assert rates.update([worker("a", 3_000, 102.0)]) == {"a": 1_000.0}


def test_speed_does_not_depend_on_how_often_it_is_asked_for():
    """Two Prometheus servers may scrape a moment apart."""
    rates = Rates()
    rates.update([worker("a", 1_000, 100.0)])

    for step in range(1, 8):
        rates.update([worker("a", 1_000 + 100 * step, 100.0 + 0.25 * step)])

    assert rates.update([worker("a", 1_800, 102.0)]) == {"a": 400.0}


def test_idle_time_does_not_make_a_worker_slow():
    rates = Rates()
    rates.update([worker("a", 1_000, 10.0)])

    assert [rates.update([worker("a", 1_000, 10.0)]) for _ in range(3)] == [{"a": 100.0}] * 3


def test_young_worker_counts_with_what_it_has_done_so_far():
    rates = Rates()

    assert rates.update([worker("a", 0, 0.0)]) == {}
    assert rates.update([worker("a", 50, 0.5)]) == {"a": 100.0}
    assert rates.update([worker("a", 300, 1.5)]) == {"a": 200.0}


def test_worker_that_has_left_is_forgotten():
    rates = Rates()
    rates.update([worker("a", 1_000, 10.0)])

    assert rates.update([worker("b", 500, 10.0)]) == {"b": 50.0}


@pytest.mark.parametrize(
    ("view", "seconds"),
    [
        (lane(0), 0.0),
        (lane(0, "a"), 0.0),
        (lane(900, "a"), 9.0),
        (lane(900, "a", "b"), 3.0),
        (lane(900, "a", "new"), 9.0),
        (lane(900, "new"), None),
        (lane(900), math.inf),
    ],
)
def test_backlog_takes_what_the_lane_s_live_workers_need(view: LaneView, seconds: float | None):
    """Without a worker it never ends; a speed that nobody knows yet is no number."""
    assert backlog_seconds(view, {"a": 100.0, "b": 200.0}) == seconds
