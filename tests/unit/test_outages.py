"""An outage as a worker's loops share it: one pause, one line a minute."""

from __future__ import annotations

import logging

import pytest

from scorequeue.errors import RedisUnavailableError
from worker.outages import FIRST_PAUSE_S, LOG_EVERY_S, LONGEST_PAUSE_S, Outage

AWAY = RedisUnavailableError("away")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.INFO)
    return Outage(clock)


def test_pause_grows_to_a_limit(outage: Outage, clock: Clock):
    outage.begin(AWAY)
    pauses = []
    for _ in range(60):
        pauses.append(outage.pause_s)
        clock.now_s += outage.pause_s
        outage.begin(AWAY)

    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S)


def test_long_outage_is_logged_once_a_minute(outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture):
    for _ in range(400):
        outage.begin(AWAY)
        clock.now_s += 1

    assert len(caplog.records) == 7
    outage.end()
    assert not outage.is_on
    assert caplog.messages[-1] == "Redis is back"


def test_redis_that_flaps_is_logged_once_a_minute(outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture):
    for _ in range(10 * int(LOG_EVERY_S)):
        outage.begin(AWAY)
        outage.end()
        clock.now_s += 0.2

    assert len(caplog.records) == 4  # in two minutes: away and back, twice
    assert not outage.is_on


def test_end_without_an_outage_says_nothing(outage: Outage, caplog: pytest.LogCaptureFixture):
    outage.end()

    assert caplog.records == []
