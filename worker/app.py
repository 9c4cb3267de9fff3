"""The Celery application: one reason beside each setting, how the worker's process uses it, and ``app`` itself.

Celery does what it is good at: it delivers wake-ups, runs the feeders in its pool's threads, shows and controls the
workers, and shuts them down. Everything that must not be lost is the ledger's.

``celery -A worker.app inspect|status|control|events`` and Flower use ``app``, which is made from the environment when
it is first asked for. ``worker start`` makes its own from its options.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click
from celery import Celery
from celery.apps.worker import Worker, install_cry_handler
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state as celery_state
from celery.worker.consumer import Consumer
from kombu.transport.redis import Channel

from scorequeue.jobs import Lane
from scorequeue.logs import fields
from scorequeue.queue import SCORE_TASK, make_app
from worker.settings import WorkerSettings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""SIGHUP is among them because Celery's own answer is to start itself anew, beside the terminal that has gone."""

SPARE_THREADS = 1
"""A wake-up that finds its feeder running needs a thread for a moment, to say so."""

EVENT_HEARTBEAT_S = 10.0
"""Seconds between the heartbeats that monitors see; with Celery's own 2 s they were a fifth of all idle commands."""

RECONNECT_PAUSE_S = 1.0
"""Where Celery cannot connect at all it waits by itself; where it can and is refused, it would try, and log, five times
a second."""

MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What kombu and Celery raise while they read a message that no Celery sent."""

log = logging.getLogger(__name__)


def make_worker_app(settings: WorkerSettings, score: Callable[[Lane], None]) -> Celery:
    """Return the application with the task ``score(lane)``.

    Args:
        settings: The worker's.
        score: Called with the lane of a wake-up.
    """
    app = make_app(settings)
    # At a lost connection kombu would write the wake-ups that it holds into a file in /tmp, and report an emergency.
    Channel.do_restore = False
    app.conf.update(
        # An outage of Redis is no reason to end: Celery asks for ever, the supervisor decides otherwise.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A Redis that refuses a command (a failover, a full disk) is an outage too, and needs a pause between tries;
        # so does a malformed message, which would end the worker (celery/celery#7975).
        broker_channel_error_retry=True,
        worker_consumer="worker.app:PatientConsumer",
        # Feeders keep their leases through an outage; losing the connection must not cancel them.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Prints and logs stay ours.
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        # Flower and `celery events` list tasks with their runtimes; without a monitor an event is one PUBLISH.
        worker_send_task_events=True,
    )

    @app.task(name=SCORE_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def score_lane(lane: str) -> None:
        score(Lane(lane))

    return app


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which outlives what ends Celery's own: refused commands and malformed messages.

    With ``broker_channel_error_retry`` a refused command (READONLY, NOREPLICAS, MISCONF, ...) makes Celery connect anew
    instead of ending the worker; but it does so at once, and a server that answers is found again at once.

    A message that is no JSON, or no Celery message, raises inside kombu when it has been taken from its list. It is
    dropped, and the consumer connects anew: work does not depend on messages.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.channel_errors += MALFORMED

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the lost connection, and wait a moment."""
        # It warns each time of a default that is not ours, past filters that were there before Celery's own.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, MALFORMED):
            facts = fields("message_malformed", error=type(exc).__name__)
            log.error("a message in the queue was malformed; it is dropped", extra=facts)
        time.sleep(RECONNECT_PAUSE_S)


class ScoreWorker(Worker):  # type: ignore[misc]
    """Celery's worker program, with our answer to signals, and a drain however its end begins."""

    def on_before_init(self, *, on_stop: Callable[[], None], **kwargs: Any) -> None:
        """Keep what ``run_celery`` passes."""
        self._on_stop = on_stop
        super().on_before_init(**kwargs)

    def install_platform_tweaks(self, worker: Worker) -> None:
        """Leave our signal handlers where they are.

        Celery's own begin a cold shutdown that does not work with the threads pool, and start the process anew at
        SIGHUP. The one that logs all stacks (SIGUSR1) is welcome.
        """
        install_cry_handler()

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Drain: Celery waits here for the feeders, which end when they are told to (``control shutdown``)."""
        self._on_stop()
        super().stop(in_sighandler, exitcode)

    def stats(self) -> dict[str, Any]:
        """Return what ``inspect stats`` shows, with the masked address alone of how the broker is reached.

        Celery shows the password of a TLS key, and that of an address with a socket (celery/celery#9563).
        """
        shown: dict[str, Any] = super().stats()
        return shown | {"broker": {"address": self.app.connection_for_read().as_uri()}}


def run_celery(app: Celery, settings: WorkerSettings, *, worker_id: str, on_stop: Callable[[], None]) -> int:
    """Serve wake-ups until told to stop. Returns Celery's exit code.

    Args:
        app: Made by ``make_worker_app``.
        settings: The worker's.
        worker_id: Random for each start, because host name and pid repeat in containers.
        on_stop: Called when Celery begins to stop, whatever the reason.
    """
    # It warns of running as root because pickled messages could run code; ours are JSON, nothing else is accepted.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = ScoreWorker(
        app=app,
        # Readable in Flower; the worker's id makes it unique where host names repeat.
        hostname=f"scorequeue-{worker_id[:6]}@{socket.gethostname()}",
        pool="threads",
        concurrency=len(settings.lanes) + SPARE_THREADS,
        queues=[lane.value for lane in settings.lanes],
        loglevel="WARNING",
        quiet=True,  # no banner: the log's first line says what runs here
        # Workers need not know of each other: the ledger says who is alive.
        without_gossip=True,
        # There are no revoked tasks to learn from others; asking takes a second of the start.
        without_mingle=True,
        # Flower and `celery events` take a worker without heartbeats for dead.
        without_heartbeat=False,
        heartbeat_interval=EVENT_HEARTBEAT_S,
        on_stop=on_stop,
    )
    worker.start()
    return int(worker.exitcode or 0)


def install_stop_handlers(on_signal: Callable[[int], None]) -> None:
    """Stop Celery's loop and ours with one signal, also while Celery still starts.

    Args:
        on_signal: Called with the number of each of ``STOP_SIGNALS`` inside the handler, which another signal may
            interrupt: it must take no lock, not even an event's.
    """

    def handle(signum: int, frame: Any) -> None:
        celery_state.should_stop = os.EX_OK  # what Celery's own handler of SIGTERM does
        on_signal(signum)

    for signum in STOP_SIGNALS:
        signal.signal(signum, handle)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise click.UsageError("start a worker with: worker start (it loads and checks the model before it takes work)")


def __getattr__(name: str) -> Any:
    """Make ``app`` from the environment when ``celery -A worker.app`` or Flower asks for it."""
    if name != "app":
        raise AttributeError(f"module 'worker.app' has no attribute {name!r}")
    app = make_worker_app(WorkerSettings.load(), _refuse)
    app.Worker = _refuse
    globals()["app"] = app
    return app
