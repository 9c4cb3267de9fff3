"""Celery's connection: the settings of an application that hears bells, and rings them for itself.

The bell itself is described in ``scorequeue/bells.py``; producers need no Celery.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from scorequeue.address import read_address
from scorequeue.bells import SCORE_TASK
from scorequeue.jobs import Lane
from scorequeue.keys import PROTOCOL, Keys
from scorequeue.logs import fields
from scorequeue.masking import mask_url
from scorequeue.settings import Settings

_CONNECT_TIMEOUT_S = 3
_SOCKET_TIMEOUT_S = 30

log = logging.getLogger(__name__)


def make_app(settings: Settings) -> Celery:
    """Return a Celery application for this namespace.

    Raises:
        RedisUnavailableError: The address cannot be read.
    """
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
        accept_content=["json"],
        task_ignore_result=True,
        broker_transport_options={
            **address.broker_options,
            "global_keyprefix": Keys(settings.namespace).celery_prefix,
            # One list a queue: without priorities there is nothing to sort.
            "priority_steps": [0],
            # One BRPOP asks express first, then bulk.
            "queue_order_strategy": "priority",
            # A bell that is lost is rung again by the lookout; two round trips fewer for each (docs/decisions.md).
            "ack_emulation": False,
            # kombu's default is to wait for ever: a publish into a black hole would hang.
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
        },
    )
    return app


class Bells:
    """Rings bells. Safe to use from several threads.

    ``heard -> unheard`` with the first bell that cannot be sent, which is logged; back with the next one that can.
    """

    def __init__(self, settings: Settings, *, app: Celery | None = None) -> None:
        self._app = app if app is not None else make_app(settings)
        self._url = mask_url(settings.redis_url)
        self._is_heard = True
        self._lock = threading.Lock()

    def ring(self, lane: Lane) -> None:
        """Say that there is work in a lane. Never raises: workers look by themselves, a little later."""
        options: dict[str, Any] = {"queue": lane.value, "retry": False, "argsrepr": "", "kwargsrepr": ""}
        try:
            self._app.send_task(SCORE_TASK, args=(lane.value,), kwargs={"protocol": PROTOCOL}, **options)
        except (OperationalError, OSError) as exc:
            with self._lock:
                was_heard, self._is_heard = self._is_heard, False
            if was_heard:
                facts = fields("bell_unheard", lane=lane.value, redis=self._url, error=type(exc).__name__)
                log.warning("a bell could not be sent; workers will look by themselves", extra=facts)
            return
        with self._lock:
            self._is_heard = True
