"""What a worker owes the ledger when Redis goes away just as it goes itself: a real Redis, killed and started."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.errors import RedisUnavailableError
from scorequeue.jobs import JobSpec, Lane
from scorequeue.ledger import Ledger, new_token
from scorequeue.records import ChunkUpload, LaneRoom, LeasedChunk
from scorequeue.settings import Settings
from tests.integration.scoring import VERSION, score_chunk
from tests.processes import until
from tests.servers import RedisServer
from worker.leases import LeaseKeeper
from worker.results import Finished

WORKER = "w1"
WAIT_S = 20.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def ledger(server: RedisServer) -> Iterator[Ledger]:
    ledger = Ledger.connect(Settings(redis_url=server.url, namespace="n", lease_s=2), patience_s=0.2)
    yield ledger
    ledger.close()


@pytest.fixture
def make_keeper(ledger: Ledger) -> Iterator[Callable[[Any], LeaseKeeper]]:
    keepers: list[LeaseKeeper] = []

    def make(ledger: Any) -> LeaseKeeper:
        failures: list[BaseException] = []
        keeper = LeaseKeeper(ledger, WORKER, lanes=(Lane.BULK,), about=dict, on_fatal=failures.append)
        keeper.start()
        keepers.append(keeper)
        return keeper

    yield make
    for keeper in keepers:
        keeper.stop(timeout_s=0.1)


@pytest.fixture
def keeper(ledger: Ledger, make_keeper: Callable[[Any], LeaseKeeper]) -> LeaseKeeper:
    return make_keeper(ledger)


def claim(ledger: Ledger, *, token: str | None = None) -> LeasedChunk:
    """Submit a job of one chunk, and claim it."""
    payload = encode_chunk(Chunk(first_row=1, texts=["a"]))
    spec = JobSpec(id=uuid.uuid4().hex, lane=Lane.BULK, chunk_rows=1, ttl_s=600)
    ledger.submit(spec, [ChunkUpload(payload, 1, digest(payload))])
    room = [LaneRoom(Lane.BULK, 100, 1)]
    (chunk,) = ledger.claim(WORKER, room, versions=[VERSION], default_version=VERSION, token=token).chunks
    return chunk


def finished(chunk: LeasedChunk) -> Finished:
    return Finished(chunk.lease, partial(score_chunk, chunk), partial(score_chunk, chunk))


def lose_redis(server: RedisServer, keeper: LeaseKeeper) -> None:
    server.kill()
    until(lambda: not keeper.is_reachable, what="a keeper that noticed")


def holders(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as raw:
        return int(raw.hlen("{n}:holders"))


def deaths(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as raw:
        return int(raw.hget("{n}:meta", "expired") or 0)


class InThread:
    """Something that runs beside the test."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.answer: list[object] = []
        self._thread = threading.Thread(target=lambda: self.answer.append(call()), daemon=True)
        self._thread.start()

    def wait(self) -> object:
        self._thread.join(WAIT_S)
        assert self.answer, "it did not end in time"
        return self.answer[0]


def test_flush_outlasts_an_outage(server: RedisServer, ledger: Ledger, keeper: LeaseKeeper) -> None:
    """Redis blips just as a worker drains: what is scored is committed when it is back, not thrown away."""
    chunk = claim(ledger)
    keeper.hold([chunk.lease])
    lose_redis(server, keeper)
    keeper.finish(finished(chunk))

    flushing = InThread(lambda: keeper.flush(WAIT_S))
    server.start()

    assert flushing.wait() is True
    assert ledger.status(chunk.lease.job_id).scored == 1


def test_flush_ends_with_its_time(server: RedisServer, ledger: Ledger, keeper: LeaseKeeper) -> None:
    chunk = claim(ledger)
    keeper.hold([chunk.lease])
    lose_redis(server, keeper)
    keeper.finish(finished(chunk))

    began = time.monotonic()

    assert keeper.flush(0.3) is False
    assert 0.3 <= time.monotonic() - began < 3


def test_flush_does_not_wait_for_a_committer_that_failed(ledger: Ledger, keeper: LeaseKeeper) -> None:
    """Nobody would commit any more: the drain's time is for giving back."""

    def fail() -> Any:
        raise RuntimeError("a bug")

    chunk = claim(ledger)
    keeper.finish(Finished(chunk.lease, fail, fail))

    began = time.monotonic()

    assert keeper.flush(WAIT_S) is False
    assert time.monotonic() - began < WAIT_S / 2


def test_release_is_tried_until_redis_is_back(server: RedisServer, ledger: Ledger, keeper: LeaseKeeper) -> None:
    """A lease that is left to run out counts as a death of its chunk."""
    chunk = claim(ledger)
    keeper.hold([chunk.lease])
    lose_redis(server, keeper)

    releasing = InThread(lambda: keeper.release([chunk.lease], timeout_s=WAIT_S))
    server.start()
    releasing.wait()

    assert holders(server) == 0
    assert deaths(server) == 0


def test_stop_gives_back_what_was_not_committed(server: RedisServer, ledger: Ledger, keeper: LeaseKeeper) -> None:
    """Scored or not, and what a claim without an answer has leased: nothing is left to run out."""
    token = new_token()
    scored, waiting, _ = claim(ledger), claim(ledger), claim(ledger, token=token)
    keeper.hold([scored.lease, waiting.lease])
    lose_redis(server, keeper)
    keeper.finish(finished(scored))
    keeper.give_up_claim(token, RedisUnavailableError("away"))

    assert keeper.flush(0.3) is False
    stopping = InThread(lambda: keeper.stop(timeout_s=WAIT_S))
    until(lambda: keeper._stopping.is_set())
    server.start()
    stopping.wait()

    assert holders(server) == 0
    assert deaths(server) == 0
    assert ledger.workers() == []


def test_stop_and_release_end_with_their_time(server: RedisServer, ledger: Ledger, keeper: LeaseKeeper) -> None:
    """A supervisor waits for so long and no longer."""
    keeper.hold([claim(ledger).lease])
    other = claim(ledger).lease
    lose_redis(server, keeper)

    began = time.monotonic()
    keeper.release([other], timeout_s=0.5)
    keeper.stop(timeout_s=0.5)

    assert time.monotonic() - began < 3


def test_claims_that_find_nothing_move_nothing(ledger: Ledger, keeper: LeaseKeeper) -> None:
    """The other lane is looked at four times a second; an idle worker must not take that for work."""
    chunk = claim(ledger)
    keeper.hold([chunk.lease])
    claimed_at = keeper.moved_at

    keeper.hold([])
    assert keeper.moved_at == claimed_at > 0
    assert keeper.held == 1

    keeper.finish(finished(chunk))
    assert keeper.flush(WAIT_S)
    assert keeper.moved_at > claimed_at
    assert keeper.held == 0


class SlowRenewals:
    """A ledger whose renewals are on their way for a while: until somebody has departed, or for ``delay_s``."""

    def __init__(self, ledger: Ledger, *, delay_s: float) -> None:
        self._ledger = ledger
        self._delay_s = delay_s
        self._departed = threading.Event()
        self.is_slow = threading.Event()
        self.on_its_way = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def renew(self, *args: Any, **options: Any) -> Any:
        if self.is_slow.is_set():
            self.on_its_way.set()
            self._departed.wait(self._delay_s)
        return self._ledger.renew(*args, **options)

    def depart(self, *args: Any) -> None:
        self._ledger.depart(*args)
        self._departed.set()


def test_renewal_on_its_way_does_not_list_a_worker_that_left(
    ledger: Ledger, make_keeper: Callable[[Any], LeaseKeeper]
) -> None:
    """For the time of a lease producers would be told of a live worker, and claims shared with it."""
    slow = SlowRenewals(ledger, delay_s=0.3)
    keeper = make_keeper(slow)
    slow.is_slow.set()
    assert slow.on_its_way.wait(WAIT_S)

    keeper.stop(timeout_s=WAIT_S)
    until(lambda: not any(thread.name == "heartbeat" for thread in threading.enumerate()))

    assert ledger.workers() == []


def test_stop_does_not_wait_long_for_a_renewal(ledger: Ledger, make_keeper: Callable[[Any], LeaseKeeper]) -> None:
    """What is held goes back all the same."""
    slow = SlowRenewals(ledger, delay_s=5)
    keeper = make_keeper(slow)
    chunk = claim(ledger)
    keeper.hold([chunk.lease])
    slow.is_slow.set()
    assert slow.on_its_way.wait(WAIT_S)

    began = time.monotonic()
    keeper.stop(timeout_s=1)

    assert time.monotonic() - began < 3
    assert ledger.release([chunk.lease]) == 0
