"""The bell: the Celery message ``score(lane)``, "there is work in this lane".

Beside the protocol's number it says nothing else, so that a lost, doubled or late one costs nothing; order, rights and
results are the ledger's. The scripts that bring work write it themselves, in the same step: the message is the one that
Celery would send (its message protocol 2, in kombu's envelope for Redis; a test compares them), with an id put in place
of ``ID``. So a bell costs a producer neither a connection nor a round trip of its own (docs/decisions.md).
"""

from __future__ import annotations

import base64
import json

from scorequeue.jobs import Lane
from scorequeue.keys import PROTOCOL

SCORE_TASK = "scorequeue.score"
"""Name of the one task."""

ENOUGH_BELLS = 8
"""Bells in a lane's queue above which another one says nothing new; without workers they would pile up for ever."""

ID = "@BELL@"
"""What stands in the message where its id goes."""


def bell_message(lane: Lane) -> str:
    """Return the message of a lane as it lies in Redis, with ``ID`` for its id."""
    body = [[lane.value], {"protocol": PROTOCOL}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    message = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": SCORE_TASK,
            "id": ID,
            "root_id": ID,
            "parent_id": None,
            "group": None,
            "argsrepr": "",
            "kwargsrepr": "",
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": ID,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": lane.value},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": ID,
        },
    }
    return json.dumps(message, separators=(",", ":"))
