"""Wake-ups: sent by Celery when a worker sleeps, in its own form, and never in a producer's way."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from producer import Client
from scorequeue.jobs import Lane
from scorequeue.keys import Keys
from scorequeue.ledger import Ledger
from scorequeue.queue import SCORE_TASK, WakeUps, make_app
from scorequeue.records import MOST_WAKE_UPS
from scorequeue.settings import Settings
from tests.servers import free_port

HELP_S = 0.3


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def sleep_in(ledger: Ledger, lane: Lane) -> None:
    """Be a live worker of a lane that has nothing to do."""
    ledger.renew("sleeper", {}, [lane], [])


@pytest.mark.parametrize("lane", list(Lane))
def test_job_sends_the_task_of_its_lane(client: Client, ledger: Ledger, raw: redis.Redis, lane: Lane) -> None:
    sleep_in(ledger, lane)

    client.submit(["a"], lane=lane.value)

    (message,) = raw.lrange(ledger.keys.wake_ups(lane), 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["ignore_result"]) == (SCORE_TASK, True)


def test_upload_of_many_calls_sends_no_more_than_eight(client: Client, ledger: Ledger, raw: redis.Redis) -> None:
    sleep_in(ledger, Lane.BULK)

    for _ in range(2 * MOST_WAKE_UPS):
        client.submit(["a"] * 300, lane="bulk", chunk_rows=1)

    assert raw.llen(ledger.keys.wake_ups(Lane.BULK)) == MOST_WAKE_UPS


def test_wake_up_that_cannot_be_sent_is_logged_once(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    """Workers look by themselves, so it must cost a producer neither its job nor a wall of warnings."""
    wake_ups = WakeUps(Settings(redis_url=f"redis://:secret@127.0.0.1:{free_port()}/0", namespace=namespace))

    with closing(wake_ups), caplog.at_level(logging.WARNING, logger="scorequeue.queue"):
        for _ in range(3):
            wake_ups.send(Lane.BULK)

    (record,) = [record for record in caplog.records if record.name == "scorequeue.queue"]
    assert "wake_up_unsent" in str(record.__dict__)
    assert "secret" not in str(record.__dict__)


def test_wake_up_into_a_black_hole_is_given_up_soon(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    """kombu by itself would wait for ever, and the producer with it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with closing(WakeUps(Settings(redis_url=url, namespace=namespace))) as wake_ups:
            began = time.monotonic()
            wake_ups.send(Lane.BULK)
            took_s = time.monotonic() - began

    assert took_s < 6
    assert "could not be sent" in caplog.text


def test_connection_stays_open(settings: Settings, raw: redis.Redis) -> None:
    """To connect anew for each would take longer than the wake-up."""
    with closing(WakeUps(settings)) as wake_ups:
        wake_ups.send(Lane.BULK)
        before = raw.info("stats")["total_connections_received"]
        for _ in range(20):
            wake_ups.send(Lane.BULK)
        after = raw.info("stats")["total_connections_received"]

    assert after == before
    assert raw.llen(Keys(settings.namespace).wake_ups(Lane.BULK)) == 21


def test_command_line_loads_neither_celery_nor_torch() -> None:
    code = "import sys, producer.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"celery", "kombu", "torch", "transformers", "numpy"} & set(loaded)
    assert "click" in loaded


def test_help_is_quick() -> None:
    """Who asks for help waits for it. The best of five, because the machine may be busy."""

    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "producer", "--help"], capture_output=True, check=True)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < HELP_S


def test_client_without_a_sleeping_worker_loads_no_celery(redis_url: str, namespace: str) -> None:
    """Celery comes with the first wake-up, and costs a tenth of a second."""
    code = (
        "import sys; from producer import Client\n"
        f"with Client({redis_url!r}, {namespace!r}) as client: client.submit(['a'])\n"
        "print('celery' in sys.modules)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "False"


def test_malformed_message_still_raises_in_kombu(settings: Settings, raw: redis.Redis) -> None:
    """Fails when kombu drops malformed messages itself (celery/celery#7975): then worker/consumer.py can be smaller."""
    app = make_app(settings)
    raw.lpush(Keys(settings.namespace).wake_ups(Lane.BULK), b"not json")

    with (
        closing(app),
        app.connection_for_read() as connection,
        connection.Consumer(list(app.amqp.queues.values())),
        pytest.raises(ValueError, match="Expecting value"),
    ):
        connection.drain_events(timeout=1)

    assert raw.llen(Keys(settings.namespace).wake_ups(Lane.BULK)) == 0
