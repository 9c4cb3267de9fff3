"""Whoever waits for a job hears of its end at once, on a connection that is kept for the next one."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid

import pytest
import redis

from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.errors import RedisUnavailableError
from scorequeue.jobs import JobSpec, Lane
from scorequeue.ledger import Ledger
from scorequeue.news import MOST_IDLE
from scorequeue.records import ChunkUpload
from tests.processes import until

LONG_S = 30.0
MISSED_S = 3.0
"""Far more than a message takes, and short enough to miss a few."""


def open_job(ledger: Ledger) -> str:
    payload = encode_chunk(Chunk(first_row=1, texts=["a"]))
    spec = JobSpec(id=uuid.uuid4().hex, lane=Lane.BULK, chunk_rows=1, ttl_s=60)
    return ledger.submit(spec, [ChunkUpload(payload, 1, digest(payload))]).job_id


def waited_s(ledger: Ledger, job_id: str, *, cancel_after_s: float, timeout_s: float = LONG_S) -> float:
    """Seconds from a cancel until a waiting thread knows of it."""
    cancelled: list[float] = []

    def cancel() -> None:
        cancelled.append(time.monotonic())
        ledger.cancel(job_id)

    timer = threading.Timer(cancel_after_s, cancel)
    timer.start()
    ledger.wait_for_change(job_id, timeout_s)
    heard_at = time.monotonic()
    timer.join()
    return heard_at - cancelled[0]


def test_end_of_a_job_is_heard_at_once(ledger: Ledger) -> None:
    assert 0 <= waited_s(ledger, open_job(ledger), cancel_after_s=0.3) < LONG_S / 2


def test_job_that_has_ended_is_not_waited_for(ledger: Ledger) -> None:
    """Its message came before we listened."""
    job_id = open_job(ledger)
    ledger.cancel(job_id)

    began = time.monotonic()
    ledger.wait_for_change(job_id, LONG_S)

    assert time.monotonic() - began < LONG_S / 2


def test_next_one_waits_on_the_same_connection(ledger: Ledger, redis_url: str) -> None:
    """A client of lone sentences would pay three round trips for each."""
    waited_s(ledger, open_job(ledger), cancel_after_s=0.1)
    with redis.Redis.from_url(redis_url) as raw:
        before = raw.info("stats")["total_connections_received"]

        for _ in range(3):
            waited_s(ledger, open_job(ledger), cancel_after_s=0.1)

        assert raw.info("stats")["total_connections_received"] == before


def test_time_that_is_over_ends_the_waiting(ledger: Ledger) -> None:
    began = time.monotonic()

    ledger.wait_for_change(open_job(ledger), 0.2)

    assert time.monotonic() - began >= 0.2


def test_lost_connection_is_said_and_not_used_again(ledger: Ledger, redis_url: str) -> None:
    """Whoever waits must ask anew instead of listening to nobody."""
    job_id = open_job(ledger)
    with redis.Redis.from_url(redis_url) as raw:
        timer = threading.Timer(0.3, lambda: raw.client_kill_filter(_type="pubsub"))
        timer.start()
        with pytest.raises(RedisUnavailableError):
            ledger.wait_for_change(job_id, LONG_S)
        timer.join()

    assert waited_s(ledger, job_id, cancel_after_s=0.2) < LONG_S / 2


def test_processes_that_are_forked_hear_their_own_messages(ledger: Ledger) -> None:
    """A server that makes its client and then forks: two that read one connection take each other's messages."""
    waited_s(ledger, open_job(ledger), cancel_after_s=0.1)  # leaves a connection that a child would inherit
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def longest_wait_s() -> float:
        jobs = [open_job(ledger) for _ in range(10)]
        return max(waited_s(ledger, job, cancel_after_s=0.05, timeout_s=MISSED_S) for job in jobs)

    children = [fork.Process(target=lambda: answers.put(longest_wait_s())) for _ in range(2)]
    for child in children:
        child.start()
    longest = [longest_wait_s()]
    for child in children:
        child.join(LONG_S)
        assert child.exitcode == 0
        longest.append(answers.get())

    assert max(longest) < MISSED_S / 2
    assert waited_s(ledger, open_job(ledger), cancel_after_s=0.1) < LONG_S / 2, "a child has ended ours"


def test_few_connections_are_kept_of_many(ledger: Ledger, redis_url: str) -> None:
    """A burst of waiting threads must not hold connections of the server for ever."""
    job_id = open_job(ledger)
    with redis.Redis.from_url(redis_url) as raw:
        channel = ledger.keys.ended_channel(job_id)
        threads = [threading.Thread(target=ledger.wait_for_change, args=(job_id, LONG_S)) for _ in range(MOST_IDLE + 8)]
        for thread in threads:
            thread.start()
        until(lambda: raw.pubsub_numsub(channel)[0][1] == len(threads), what="as many waiting threads")
        ledger.cancel(job_id)
        for thread in threads:
            thread.join(LONG_S)

    assert len(ledger._news._idle) == MOST_IDLE
