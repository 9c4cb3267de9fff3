"""One worker from start to end: what is built in which order, and what is let go of in which.

    starting    Redis is reached, the checkpoint is verified, loaded and tried; nothing is claimed before
    serving     Celery runs the feeders, the poller does when wake-ups are lost
    draining    first SIGTERM, or `celery control shutdown`: no more claims, the batch on the device is finished and
                committed, the rest goes back
    ended       0 after a drain in time; 1 when the device is sick or stuck, or a part failed: the supervisor should
                start anew; 3 when a newer Scorequeue serves the namespace

A second signal while draining, SIGQUIT, or a drain that outlasts its time-out, releases what it can and ends at once.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from scorequeue import __version__
from scorequeue.errors import ExitCode, ProtocolTooNewError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.queue import WakeUps
from scorequeue.records import Lease
from scorequeue.registry import Registry
from worker.app import STOP_SIGNALS, CeleryWorker, make_worker_app
from worker.children import stop_children
from worker.leases import LeaseKeeper
from worker.loading import load_model
from worker.models import ModelShelf
from worker.poller import Poller
from worker.scorer import Scorer
from worker.settings import WorkerSettings
from worker.suspects import NoNotes
from worker.sweep import BudgetFinder
from worker.tasks import Feeder
from worker.watchdog import Watchdog

PATIENCE_S = 1.0
"""The worker's threads wait for Redis themselves, and must notice meanwhile that they are told to stop."""

GIVE_BACK_S = 2.0
"""Seconds of a drain that are kept for giving leases back, a quarter of it at most."""

CELERY_GRACE_S = 5.0
"""Seconds that Celery has to end after the drain; it may be waiting for a Redis that is away."""

log = logging.getLogger(__name__)


class Service:
    """A worker process: ``starting -> serving -> draining -> ended``."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.worker_id = uuid.uuid4().hex[:12]
        self._settings = settings
        self._started_at = datetime.now(UTC)
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._drained = threading.Event()
        self._failure: BaseException | None = None
        self._celery_status = 0

        self._ledger = Ledger.connect(settings, patience_s=PATIENCE_S)
        registry = Registry(settings.registry)
        load = partial(
            load_model,
            registry,
            backend=settings.backend,
            device=settings.device,
            dtype=settings.dtype,
            cache_dir=settings.cache_dir,
            find_budget=BudgetFinder(settings.token_budget, cache_dir=settings.cache_dir),
        )
        self._models = ModelShelf(load, registry.current, check=registry.verify, has_work=self._ledger.has_work)
        first = self._models.load_first()
        assert first.budget is not None
        self._scorer = Scorer(on_sick=self._fail, token_budget=first.budget.tokens, notes=NoNotes())
        self._keeper = LeaseKeeper(
            self._ledger, self.worker_id, lanes=settings.lanes, about=self._about, on_fatal=self._fail
        )
        app = make_worker_app(settings, self._score)
        wake_ups = WakeUps(settings, app=app)
        self._feeders = {
            lane: Feeder(
                lane,
                worker_id=self.worker_id,
                ledger=self._ledger,
                keeper=self._keeper,
                models=self._models,
                scorer=self._scorer,
                wake_ups=wake_ups,
                stopping=self._stopping,
            )
            for lane in settings.lanes
        }
        self._poller = Poller(
            self._ledger,
            self._feeders,
            feed=self._score,
            keeper=self._keeper,
            versions=self._models.ready_versions,
            stopping=self._stopping,
            on_fatal=self._fail,
        )
        self._celery = CeleryWorker(
            app, settings, worker_id=self.worker_id, stopping=self._stopping, on_signal=self._stop
        )
        self._watchdog = Watchdog(
            self._scorer,
            keeper=self._keeper,
            stopping=self._stopping,
        )

    def run(self) -> int:
        """Serve until told to stop. Returns the process's exit status."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, lambda signum, _: self._stop(signum))
        self._models.follow()
        self._scorer.start()
        self._keeper.start()
        self._poller.start()
        self._watchdog.start()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()
        log.info("worker is ready", extra=fields("worker_ready", worker=self.worker_id, **self._about()))

        try:
            self._celery_status = self._celery.run()
        except Exception as exc:
            log.exception("Celery failed", extra=fields("celery_failed"))
            self._failure = self._failure or exc
        self._stopping.set()
        self._drained.wait(self._settings.drain_timeout_s + CELERY_GRACE_S)
        status = self._exit_status()
        if self._models.is_following:
            atexit.register(os._exit, status)  # an interpreter that ends crashes threads that are inside torch
        return status

    def _score(self, lane: Lane) -> None:
        """Run a lane's feeder. One that fails holds leases that no one would score: the worker must end."""
        try:
            self._feeders[lane].run()
        except ProtocolTooNewError as exc:
            self._fail(exc)
        except BaseException as exc:  # a panic inside tokenizers is no Exception
            log.exception("a feeder failed", extra=fields("feeder_failed", lane=lane.value))
            self._fail(exc)

    def _stop(self, signum: int) -> None:
        """Called inside signal handlers: sets events and nothing else."""
        if signum == signal.SIGQUIT or self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _fail(self, error: BaseException) -> None:
        """A part of the worker cannot go on: give everything back, and let the supervisor act."""
        is_first = self._failure is None and not self._stopping.is_set()
        if is_first and isinstance(error, ProtocolTooNewError):
            log.error("the worker is too old for this namespace", extra=fields("too_old", error=str(error)))
        self._failure = self._failure or error
        if is_first:  # a second signal would mean: in a hurry
            os.kill(os.getpid(), signal.SIGTERM)  # the one way that Celery's loop and ours both hear

    def _drain(self) -> None:
        """Let go of everything, in the order that loses the least work."""
        self._stopping.wait()
        timeout_s = self._settings.drain_timeout_s
        give_up_at = time.monotonic() + timeout_s
        work_ends_at = give_up_at - min(GIVE_BACK_S, timeout_s / 4)
        log.info("worker drains", extra=fields("drain", timeout_s=timeout_s))
        threading.Thread(target=self._end_in_a_hurry, args=(give_up_at,), name="hurry", daemon=True).start()

        self._models.stop()  # 0. no other version is taken up, and nobody waits for one that is being loaded
        stop_children()
        self._poller.join(_left_s(work_ends_at))  # 1. feeders stop claiming: they look at `stopping` before each claim
        unfinished = self._scorer.drain(_left_s(work_ends_at))  # 2. the batch on the device ends, no other begins
        if _left_s(work_ends_at) == 0:
            self._failure = self._failure or TimeoutError("the batch on the device outlasted the drain")
        self._keeper.flush(_left_s(work_ends_at))  # 3. its chunks are committed, once Redis answers
        # 4. The rest goes back, to the front of its lane; when Redis comes back late, too.
        self._keeper.release(cast("list[Lease]", unfinished), timeout_s=_left_s(give_up_at))
        self._keeper.stop(timeout_s=_left_s(give_up_at))  # 5. nothing is held any more: leave the list of live workers
        log.info("worker drained", extra=fields("drained", released=len(unfinished)))
        self._drained.set()
        time.sleep(min(CELERY_GRACE_S, _left_s(give_up_at)))
        os._exit(self._exit_status())  # Celery still waits for a Redis that is away; nothing of ours is left

    def _end_in_a_hurry(self, give_up_at: float) -> None:
        is_told = self._hurry.wait(_left_s(give_up_at))
        if self._drained.is_set():
            return
        why = "second signal" if is_told else "drain timed out"
        log.warning("worker ends now; leases go back", extra=fields("hurry", why=why))
        if is_told:  # else the drain has been giving back for a while, and waits for a Redis that does not answer
            timeout_s = min(GIVE_BACK_S, _left_s(give_up_at))
            stopping = threading.Thread(target=partial(self._keeper.stop, timeout_s=timeout_s), daemon=True)
            stopping.start()
            stopping.join(timeout_s)
        os._exit(ExitCode.UNEXPECTED)

    def _exit_status(self) -> int:
        if isinstance(self._failure, ProtocolTooNewError):
            return int(self._failure.exit_code)
        has_failed = self._failure is not None or self._celery_status != 0
        return int(ExitCode.UNEXPECTED if has_failed else ExitCode.DONE)

    def _about(self) -> dict[str, Any]:
        model = self._models.get(self._models.current_version)
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "started_at": self._started_at.isoformat(),
            "lanes": [lane.value for lane in self._settings.lanes],
            "backend": model.backend.name,
            "device": model.backend.device,
            "dtype": model.backend.dtype,
            "model_version": model.version,
            "ready_versions": self._models.ready_versions(),
            "failed_versions": self._models.failed_versions(),
            "registry_error": self._models.registry_error,
            "token_budget": self._scorer.token_budget,
            **self._scorer.stats.to_dict(),
        }


def _left_s(give_up_at: float) -> float:
    return max(0.0, give_up_at - time.monotonic())


def run_worker(settings: WorkerSettings) -> int:
    """Build a worker and serve.

    Returns:
        The process's exit status.

    Raises:
        RedisUnavailableError: Redis cannot be reached or refuses us.
        VersionError: There is no checkpoint, or it does not verify.
        DeviceSickError: The golden sentences fail on this device.
    """
    return Service(settings).run()
