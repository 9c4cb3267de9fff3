"""What a worker changes about Celery."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from celery.worker import WorkController
from celery.worker import state as celery_state

from worker.app import STOP_SIGNALS, CeleryWorker, make_worker_app
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

    def start(worker: WorkController) -> None:
        worker.on_start()  # where Celery installs its handlers
        handlers[:] = [signal.getsignal(signum) for signum in STOP_SIGNALS]

    monkeypatch.setattr(WorkController, "start", start)
    settings = WorkerSettings()

    app = make_worker_app(settings, lambda lane, protocol: None)
    CeleryWorker(app, settings, worker_id="w", on_stop=heard.append).run()

    # Looked at before they are called: Celery's would start this very test run anew.
    assert {handler.__module__ for handler in handlers} == {"worker.app"}
    for signum, handler in zip(STOP_SIGNALS, handlers, strict=True):
        handler(signum, None)
    assert heard == list(STOP_SIGNALS)
    assert celery_state.should_stop == 0
