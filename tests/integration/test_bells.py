"""The bell that scripts write is the message that Celery itself would send, and enough of them are enough."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
import redis

from scorequeue.bells import ENOUGH_BELLS, SCORE_TASK
from scorequeue.codec import digest, encode_chunk
from scorequeue.columns import Chunk
from scorequeue.jobs import JobSpec, Lane
from scorequeue.keys import PROTOCOL
from scorequeue.ledger import Ledger
from scorequeue.records import ChunkUpload, LaneRoom
from scorequeue.settings import Settings
from tests.processes import until
from worker.broker import make_app

OWN = {("headers", "id"), ("headers", "root_id"), ("properties", "correlation_id"), ("properties", "delivery_tag")}
"""What each message has of its own."""

SENDER = {("headers", "origin"), ("headers", "lang"), ("properties", "reply_to")}
"""What says who sent it; nobody answers a bell."""


def submit(ledger: Ledger, lane: Lane) -> None:
    payload = encode_chunk(Chunk(first_row=1, texts=["a"]))
    spec = JobSpec(id=uuid.uuid4().hex, lane=lane, chunk_rows=1, ttl_s=60)
    ledger.submit(spec, [ChunkUpload(payload, 1, digest(payload))])


def facts(message: bytes) -> dict[tuple[str, str], Any]:
    """What a message says. Nothing and an empty value are the same to whoever reads it."""
    whole = json.loads(message)
    found = {("", name): value for name, value in whole.items() if name not in ("headers", "properties", "body")}
    found["", "body"] = json.loads(base64.b64decode(whole["body"]))
    for part in ("headers", "properties"):
        found |= {(part, name): value for name, value in whole[part].items() if (part, name) not in SENDER}
    return {name: value for name, value in found.items() if value not in (None, "", {}, 0)}


@pytest.mark.parametrize("lane", list(Lane))
def test_bell_is_what_celery_would_send(ledger: Ledger, settings: Settings, redis_url: str, lane: Lane) -> None:
    """Written by us, it must not drift from what Celery's own consumer expects."""
    app = make_app(settings)
    with redis.Redis.from_url(redis_url) as raw:
        submit(ledger, lane)
        app.send_task(
            *(SCORE_TASK, (lane.value,), {"protocol": PROTOCOL}),
            **{"queue": lane.value, "ignore_result": True, "argsrepr": "", "kwargsrepr": ""},
        )
        theirs, ours = map(facts, raw.lrange(ledger.keys.bells(lane), 0, -1))

    assert set(ours) == set(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} == OWN
    assert len({ours[name] for name in OWN}) == 1
    app.pool.force_close_all()
    app.close()


def test_each_bell_has_an_id_of_its_own(ledger: Ledger, redis_url: str) -> None:
    """Monitors tell tasks apart by it."""
    for _ in range(3):
        submit(ledger, Lane.BULK)

    with redis.Redis.from_url(redis_url) as raw:
        ids = {facts(message)["headers", "id"] for message in raw.lrange(ledger.keys.bells(Lane.BULK), 0, -1)}

    assert len(ids) == 3


def test_bells_that_nobody_hears_do_not_pile_up(ledger: Ledger) -> None:
    for _ in range(3 * ENOUGH_BELLS):
        submit(ledger, Lane.EXPRESS)

    assert ledger.bells(Lane.EXPRESS) == ENOUGH_BELLS
    assert ledger.bells(Lane.BULK) == 0


def claim(ledger: Ledger, worker_id: str) -> int:
    """Claim all that waits in the express lane; returns how many chunks."""
    room = LaneRoom(Lane.EXPRESS, 1_000, 16)
    return len(ledger.claim(worker_id, [room], versions=["v"], default_version="v").chunks)


def listen(ledger: Ledger, worker_id: str) -> None:
    ledger.renew(worker_id, {}, [Lane.EXPRESS], [])


def test_worker_that_claims_anyway_is_not_rung_for(ledger: Ledger) -> None:
    """Celery's loop takes as long for a bell as the model for half a sentence."""
    listen(ledger, "one")
    submit(ledger, Lane.EXPRESS)
    assert claim(ledger, "one") == 1
    before = ledger.bells(Lane.EXPRESS)

    submit(ledger, Lane.EXPRESS)

    assert ledger.bells(Lane.EXPRESS) == before


def test_worker_that_found_nothing_is_rung_for(ledger: Ledger) -> None:
    """Its pump has ended, and only a bell starts it at once."""
    listen(ledger, "one")
    submit(ledger, Lane.EXPRESS)
    assert [claim(ledger, "one"), claim(ledger, "one")] == [1, 0]
    before = ledger.bells(Lane.EXPRESS)

    submit(ledger, Lane.EXPRESS)

    assert ledger.bells(Lane.EXPRESS) == before + 1


def test_idle_worker_is_rung_for_beside_a_busy_one(ledger: Ledger) -> None:
    """Or one worker would do all the work."""
    listen(ledger, "busy")
    listen(ledger, "idle")
    submit(ledger, Lane.EXPRESS)
    assert claim(ledger, "busy") == 1
    before = ledger.bells(Lane.EXPRESS)

    submit(ledger, Lane.EXPRESS)

    assert ledger.bells(Lane.EXPRESS) == before + 1


def test_worker_that_went_is_not_taken_for_awake(ledger: Ledger) -> None:
    """The one that is left would not hear of the work."""
    listen(ledger, "left")
    listen(ledger, "gone")
    submit(ledger, Lane.EXPRESS)
    assert claim(ledger, "gone") == 1
    ledger.depart("gone", [Lane.EXPRESS])
    before = ledger.bells(Lane.EXPRESS)

    submit(ledger, Lane.EXPRESS)

    assert ledger.bells(Lane.EXPRESS) == before + 1


def test_worker_that_claimed_long_ago_is_rung_for(ledger: Ledger) -> None:
    """It waits for room, or is dead: what it claimed a second ago says nothing about now."""
    listen(ledger, "one")
    submit(ledger, Lane.EXPRESS)
    assert claim(ledger, "one") == 1
    before = ledger.bells(Lane.EXPRESS)

    def is_rung_for() -> bool:
        submit(ledger, Lane.EXPRESS)
        return ledger.bells(Lane.EXPRESS) > before

    until(is_rung_for, timeout_s=10, what="a bell")
