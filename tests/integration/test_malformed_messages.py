"""Messages that no Celery sent, in a worker's queue: they are dropped, and the worker works on."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import Client
from scorequeue.jobs import JobState, Lane
from scorequeue.keys import Keys
from tests.processes import WorkerProcess, until
from tests.tiny import publish_tiny


def envelope(body: bytes, *, content_type: str = "application/json", **headers: str) -> bytes:
    properties: dict[str, Any] = {"delivery_tag": "x", "body_encoding": "base64"}
    properties["delivery_info"] = {"exchange": "scorequeue", "routing_key": "express"}
    message = {"body": base64.b64encode(body).decode(), "content-type": content_type, "content-encoding": "utf-8"}
    return json.dumps(message | {"headers": headers, "properties": properties}).encode()


MESSAGES = {
    "no JSON": b"garbage \xff",
    "no object": b"[1, 2]",
    "no message": b"{}",
    "body that is no base64": envelope(b"").replace(b'"body": ""', b'"body": "*"'),
    "body that is no JSON": envelope(b"garbage"),
    "pickle": envelope(b"garbage", content_type="application/x-python-serialize"),
    "no task": envelope(b"[[], {}, {}]"),
    "unknown task": envelope(b"[[], {}, {}]", task="somebody.elses", id="1"),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    publish_tiny(folder)
    return folder


def test_malformed_messages_are_dropped(redis_url: str, namespace: str, registry: Path, tmp_path: Path):
    """Anyone who may write to Redis can put one there, and it must not end every worker that meets it."""
    log = tmp_path / "worker.log"
    queue = Keys(namespace).bells(Lane.EXPRESS)
    settings = {"redis_url": redis_url, "namespace": namespace, "registry": registry, "backend": "fake"}
    with WorkerProcess(log, **settings) as worker, redis.Redis.from_url(redis_url) as queues:
        for name, message in MESSAGES.items():
            queues.lpush(queue, message)
            until(lambda: queues.llen(queue) == 0 or not worker.is_running, what="a message that was taken")
            assert worker.is_running, f"{name}: {log.read_text()}"

        with Client(redis_url, namespace) as client:
            status = client.submit(["The cat sat."]).wait(30)
        assert worker.terminate() == 0

    assert (status.state, status.scored) == (JobState.COMPLETED, 1)
    assert "action=message_malformed" in log.read_text()
