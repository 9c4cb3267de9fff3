"""The Celery queue: what producer and worker agree on, and how a wake-up is sent.

A wake-up is the task ``score(lane)``: "there is work in this lane". It says nothing else, so a lost, doubled or late
one costs nothing; order, rights and results are the ledger's. Celery is imported with the first wake-up or worker,
because ``producer --help`` should not wait for it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from scorequeue.address import read_address
from scorequeue.jobs import Lane
from scorequeue.keys import Keys
from scorequeue.logs import fields
from scorequeue.masking import mask_url
from scorequeue.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

SCORE_TASK = "scorequeue.score"
"""Name of the one task."""

_CONNECT_TIMEOUT_S = 3

_SEND_TIMEOUT_S = 1
"""A wake-up is not worth a longer wait of its producer."""

_SOCKET_TIMEOUT_S = 30
"""A consumer's BRPOP is answered every second, whether there is a message or not."""

log = logging.getLogger(__name__)


def make_app(settings: Settings, *, socket_timeout_s: int = _SOCKET_TIMEOUT_S) -> Celery:
    """Return a Celery application for this namespace.

    Args:
        settings: Where Redis is, and the namespace.
        socket_timeout_s: Seconds after which an answer that does not come is an error.

    Raises:
        RedisUnavailableError: The address cannot be read.
    """
    from celery import Celery
    from kombu import Exchange, Queue

    address = read_address(settings.redis_url)
    app = Celery("scorequeue", broker=address.broker_url, set_as_current=False)
    exchange = Exchange("scorequeue", type="direct")
    app.conf.update(
        # kombu verifies no certificate unless told to.
        broker_use_ssl=address.tls or False,
        # One queue a lane, each with a routing key of its own: without one, both would bind to the same key.
        task_queues=[Queue(lane.value, exchange, routing_key=lane.value) for lane in Lane],
        task_default_queue=Lane.BULK.value,
        task_default_exchange="scorequeue",
        task_default_routing_key=Lane.BULK.value,
        task_serializer="json",
        # Nothing that could run code when it is read.
        accept_content=["json"],
        # The results are the ledger's.
        task_ignore_result=True,
        broker_transport_options={
            **address.broker_options,
            # Celery's keys lie beside ours, and separate namespaces share a Redis without meeting.
            "global_keyprefix": Keys(settings.namespace).celery_prefix,
            # One list a queue: without priorities there is nothing to sort.
            "priority_steps": [0],
            # One BRPOP asks express first, then bulk.
            "queue_order_strategy": "priority",
            # A lost wake-up costs nothing, so noting each as unacknowledged would be two round trips for nothing.
            "ack_emulation": False,
            # kombu's default is to wait for ever: a publish into a black hole would hang.
            "socket_timeout": socket_timeout_s,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
        },
    )
    return app


class WakeUps:
    """Sends wake-ups over one connection that stays open. Safe to use from several threads.

    ``sending -> failing`` with the first wake-up that cannot be sent, which is logged; back with the next one that can.

    Args:
        settings: Where Redis is, and the namespace.
        app: An application made by ``make_app``; None makes one with the first wake-up.
    """

    def __init__(self, settings: Settings, *, app: Celery | None = None) -> None:
        self._settings = settings
        self._app = app
        self._is_failing = False
        self._lock = threading.Lock()

    def send(self, lane: Lane) -> None:
        """Wake a worker of a lane. Never raises: idle workers look by themselves, a little later."""
        from kombu.exceptions import OperationalError

        # Without texts of its arguments: making them took a third of a publish.
        options: dict[str, Any] = {"queue": lane.value, "retry": False, "ignore_result": True}
        options |= {"argsrepr": "", "kwargsrepr": ""}
        try:
            with self._lock:
                self._app = self._app or make_app(self._settings, socket_timeout_s=_SEND_TIMEOUT_S)
            self._app.send_task(SCORE_TASK, args=(lane.value,), **options)
        except (OperationalError, OSError) as exc:
            if not self._is_failing:
                address = mask_url(self._settings.redis_url)
                facts = fields("wake_up_unsent", lane=lane.value, redis=address, error=type(exc).__name__)
                log.warning("a wake-up could not be sent; workers look by themselves", extra=facts)
            self._is_failing = True
        else:
            self._is_failing = False

    def close(self) -> None:
        """Close the connection."""
        if self._app is not None:
            self._app.close()
