"""What a worker changes about Celery."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.apps.worker import Worker
from celery.worker import WorkController
from celery.worker import state as celery_state
from celery.worker.consumer.connection import Connection
from kombu.transport import redis, virtual

from worker.app import STOP_SIGNALS, ScoreWorker, install_stop_handlers, make_worker_app, run_celery
from worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (*STOP_SIGNALS, signal.SIGUSR1)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
    celery_state.should_stop = None


def test_signals_are_ours_while_celery_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's answer to SIGHUP is to start anew: the supervisor would wait for an end that never comes."""
    heard: list[int] = []
    handlers: list[Any] = []
    stock: list[Any] = []

    def start(worker: WorkController) -> None:
        worker.on_start()  # where Celery installs its handlers
        handlers[:] = [signal.getsignal(signum) for signum in STOP_SIGNALS]
        Worker.install_platform_tweaks(worker, worker)
        stock[:] = [signal.getsignal(signum) for signum in STOP_SIGNALS]

    monkeypatch.setattr(WorkController, "start", start)
    settings = WorkerSettings()

    install_stop_handlers(heard.append)
    app = make_worker_app(settings, lambda lane: None)
    run_celery(app, settings, worker_id="w", on_stop=lambda: None)

    # Looked at before they are called: Celery's would start this very test run anew.
    assert {handler.__module__ for handler in handlers} == {"worker.app"}
    assert {handler.__module__ for handler in stock} == {"celery.apps.worker"}, "it would do without our override"
    for signum, handler in zip(STOP_SIGNALS, handlers, strict=True):
        handler(signum, None)
    assert heard == list(STOP_SIGNALS)
    assert celery_state.should_stop == 0


def test_stats_show_no_password_that_celery_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when celery/celery#9563 is mended for broker_use_ssl: then our override of ``stats`` can go."""
    monkeypatch.setattr(Worker, "stats", lambda worker: {"broker": Connection.info(None, worker.consumer)})
    app = make_worker_app(WorkerSettings(redis_url="rediss://user:s3cret-1@host/0?ssl_password=s3cret-2"), print)
    worker = ScoreWorker.__new__(ScoreWorker)
    worker.app, worker.consumer = app, SimpleNamespace(connection=app.connection_for_read())

    stock, ours = str(Worker.stats(worker)), str(worker.stats())

    assert "s3cret-2" in stock
    assert "s3cret" not in ours
    assert "rediss://user:**@host" in ours


def test_kombu_would_write_wake_ups_into_a_file() -> None:
    """Fails when kombu stops to restore by itself: then our line can go."""
    make_worker_app(WorkerSettings(), print)

    assert (virtual.Channel.do_restore, redis.Channel.do_restore) == (True, False)
