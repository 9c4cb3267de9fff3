"""The Celery side of a worker: one reason beside each setting, and the signal handlers.

Celery does what it is good at here: it delivers bells, runs the pumps in its pool's threads, answers remote control and
shuts down. Everything that must not be lost is the ledger's.
"""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.apps.worker import install_cry_handler
from celery.exceptions import SecurityWarning
from celery.worker import state as celery_state
from celery.worker.consumer.connection import Connection as ConnectionStep
from kombu.transport.redis import Channel

from scorequeue.bells import SCORE_TASK
from scorequeue.jobs import Lane
from scorequeue.keys import PROTOCOL
from worker.broker import make_app
from worker.settings import WorkerSettings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""SIGHUP is among them because Celery's own answer is to start itself anew, beside the terminal that has gone."""

SPARE_THREADS = 1
"""A bell that finds its pump running needs a thread for a moment, to say so."""


def make_worker_app(settings: WorkerSettings, score: Callable[[Lane, int], None]) -> Celery:
    """Return the application with the task ``score(lane)``.

    Args:
        settings: The worker's.
        score: Called with the lane and the bell's protocol number.
    """
    app = make_app(settings)
    app.conf.update(
        # A bell is not the record: acknowledged early, it costs no bookkeeping, and none is redelivered.
        task_acks_late=False,
        # A queue's outage is no reason to end: ask for ever, the supervisor decides otherwise.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A Redis that refuses a command (a failover, a full disk) is an outage too, and needs a pause between tries.
        broker_channel_error_retry=True,
        worker_consumer="worker.consumer:PatientConsumer",
        # Pumps hold their leases through an outage; losing the connection must not cancel them.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Prints and logs stay ours.
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        # Nobody listens to events unless a monitor asks for them.
        worker_send_task_events=False,
        # The first signal drains through our own handler.
        worker_soft_shutdown_timeout=0,
    )

    # At a lost connection kombu would write bells that it fetched into a file in /tmp, and cry emergency over them.
    Channel.do_restore = False

    # `celery inspect stats`, and Flower with it, would show how the broker is reached, the password of a TLS key too.
    ConnectionStep.info = _say_broker

    @app.task(name=SCORE_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def score_lane(lane: str, protocol: int = PROTOCOL) -> None:
        score(Lane(lane), protocol)

    return app


class CeleryWorker:
    """Celery's worker in this process: it listens for bells until it is told to stop.

    Args:
        app: Made by ``make_worker_app``.
        settings: The worker's.
        worker_id: Random for each start, because host name and pid repeat in containers.
        on_stop: Called with the number of each of ``STOP_SIGNALS`` inside the signal handler: it may set events and
            nothing else (no Redis, no lock).
    """

    def __init__(
        self, app: Celery, settings: WorkerSettings, *, worker_id: str, on_stop: Callable[[int], None]
    ) -> None:
        self.threads = len(settings.lanes) + SPARE_THREADS
        self._app = app
        self._settings = settings
        self._worker_id = worker_id
        self._on_stop = on_stop
        self._worker: Any = None

    def run(self) -> int:
        """Serve bells. Returns Celery's exit code."""
        # It warns of running as root because pickled messages could run code; ours are JSON, and nothing else is
        # accepted.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        _install_handlers(self._on_stop)
        self._worker = self._app.Worker(
            hostname=f"scorequeue-{self._worker_id}@{socket.gethostname()}",
            pool="threads",
            concurrency=self.threads,
            queues=[lane.value for lane in self._settings.lanes],
            loglevel="WARNING",
            quiet=True,  # no banner: the log's first line says what runs here
            # Who is alive is the ledger's to say.
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        # Its own handlers would be in force while it starts: a cold shutdown that does not work with the threads pool,
        # and a SIGHUP that starts it anew. The one that logs all stacks (SIGUSR1) is welcome.
        self._worker.install_platform_tweaks = lambda worker: install_cry_handler()
        self._worker.start()
        return int(self._worker.exitcode or 0)

    def restart_consumer(self) -> None:
        """Make Celery connect anew, from any thread; what runs in its threads goes on."""

        def lose_connection() -> None:
            raise ConnectionError("the consumer is deaf; it connects anew")

        if self._worker is not None and self._worker.consumer is not None:
            self._worker.consumer.call_soon(lose_connection)


def _say_broker(step: ConnectionStep, consumer: Any) -> dict[str, Any]:
    """Return what remote control may know of the broker: its address, which kombu masks."""
    return {"broker": {"address": consumer.connection.as_uri() if consumer.connection else None}}


def _install_handlers(on_stop: Callable[[int], None]) -> None:
    """Stop Celery's loop and ours with one signal, also while Celery still starts."""

    def handle(signum: int, frame: Any) -> None:
        celery_state.should_stop = os.EX_OK
        on_stop(signum)

    for signum in STOP_SIGNALS:
        signal.signal(signum, handle)
