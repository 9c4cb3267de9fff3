"""One worker from start to end: what is built in which order, and what is let go of in which.

    starting    Redis is reached, the checkpoint is verified, loaded and tried; nothing is claimed before
    serving     Celery runs the feeders; the poller does, too, when wake-ups are lost
    draining    first SIGTERM, or `celery control shutdown`: no more claims, the batch on the device is finished and
                committed, the rest goes back
    ended       0 after a drain in time; 1 when the device is sick or stuck, or a part failed: the supervisor should
                start anew; 3 when a newer Scorequeue serves the namespace

A second signal while draining, SIGQUIT, or a drain that outlasts its time-out, releases what it can and ends at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from typing import Any

from scorequeue import __version__
from scorequeue.address import read_address
from scorequeue.errors import (
    ExitCode,
    InternalError,
    ProtocolTooNewError,
    RedisRefusedError,
    RedisUnavailableError,
    ScorequeueError,
)
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.queue import WakeUps
from scorequeue.registry import Registry
from worker.app import install_stop_handlers, make_worker_app, run_celery
from worker.device.messages import LoadRequest
from worker.device.process import DeviceProcess
from worker.leases import LeaseKeeper, left_s
from worker.outages import Outage
from worker.scorer import Scorer
from worker.settings import WorkerSettings
from worker.tasks import Feeder
from worker.tokenizing import TokenizerFiles, TokenizerPool
from worker.versions import Versions
from worker.windows import Room

PATIENCE_S = 1.0
"""The worker's threads wait for Redis themselves, and must notice meanwhile that they are told to stop."""

SHORTEST_POLL_S = 0.25
LONGEST_POLL_S = 2.0
"""Work that no wake-up announces waits so long at most. A pause is a quarter of the time since there was work."""

GIVE_BACK_S = 2.0
"""Seconds of a drain that are kept for giving leases back, a quarter of it at most."""

SWITCH_S = 0.001
"""Seconds after which a thread lets another one have the interpreter. A lone sentence changes threads about ten times
on its way, and beside threads that read bulk chunks it would wait for Python's 5 ms each time."""

STUCK_AFTER_S = 60.0
"""Seconds after which a tokenizer that has not returned counts as hung."""

NO_SIGNAL = 0
"""Celery stops without a signal: `control shutdown`, or its own end."""

CELERY_GRACE_S = 5.0
"""Seconds that Celery has to end after the drain; it may be waiting for a Redis that is away."""

log = logging.getLogger(__name__)


def reach_ledger(settings: WorkerSettings) -> Ledger:
    """Connect once Redis is there and takes writes; raises RedisUnavailableError with the last cause."""
    read_address(settings.redis_url)  # one that cannot be read never will be
    outage, give_up_at = Outage(), time.monotonic() + settings.start_timeout_s
    while True:
        try:
            ledger = Ledger.connect(settings, patience_s=0)
            ledger.sweep()  # begins with a write
        except (ProtocolTooNewError, RedisRefusedError):
            raise
        except RedisUnavailableError as exc:
            if left_s(give_up_at) < outage.pause_s:
                raise
            outage.begin(exc)
            time.sleep(outage.pause_s)
        else:
            outage.end()
            return ledger.patient(PATIENCE_S)


def warn_of_surroundings(ledger: Ledger, *, current: str) -> None:
    """Log what is wrong around a worker that gives ``current`` to new jobs; it serves all the same."""
    with contextlib.suppress(RedisUnavailableError):  # away again: its return is waited for elsewhere
        view = ledger.overview()
        policy = view.server.maxmemory_policy
        if policy not in (None, "noeviction"):
            facts = fields("redis_evicts", maxmemory_policy=policy, expected="noeviction")
            log.warning("Redis drops rows when it is full; set maxmemory-policy noeviction", extra=facts)
        others = sorted({worker.model_version for worker in view.workers} - {current})
        if others:
            facts = fields("other_current", ours=current, theirs=",".join(others))
            text = "live workers give other versions to new jobs; unless one was just promoted, give all one registry"
            log.warning(text, extra=facts)


class Service:
    """A worker process: ``starting -> serving -> draining -> ended``.

    Raises:
        RedisUnavailableError: Redis did not come in time, or refuses us.
        VersionError: There is no checkpoint, or it does not verify.
        DeviceSickError: The golden sentences fail on this device.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.worker_id = uuid.uuid4().hex[:12]
        self._settings = settings
        self._started_at = datetime.now(UTC)
        self._signals: SimpleQueue[int] = SimpleQueue()  # its `put` is safe in a signal handler
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self._failure: BaseException | None = None

        self._ledger = reach_ledger(settings)
        self._registry = Registry(settings.registry)
        self._keeper = LeaseKeeper(
            self._ledger,
            self.worker_id,
            lanes=settings.lanes,
            about=self._about,
            on_fatal=self._fail,
        )
        self._room = Room()
        self._versions = Versions(
            self._make_scorer,
            self._registry.current,
            check=self._registry.verify,
            has_work=self._ledger.has_work,
            release=self._keeper.release,
        )
        loaded = self._versions.load_first()
        warn_of_surroundings(self._ledger, current=self._versions.current.version)
        self._tokenizers = TokenizerPool(in_processes=loaded.is_fast, on_fatal=self._fail)
        self._app = make_worker_app(settings, self._score)
        wake_ups = WakeUps(settings, app=self._app)
        self._feeders = {
            lane: Feeder(
                lane,
                worker_id=self.worker_id,
                ledger=self._ledger,
                keeper=self._keeper,
                versions=self._versions,
                room=self._room,
                tokenizers=self._tokenizers,
                wake_ups=wake_ups,
                stopping=self._stopping,
            )
            for lane in settings.lanes
        }
        self._poller = threading.Thread(target=self._guard, args=(self._poll,), name="poller", daemon=True)

    def _make_scorer(self, version: str, unmeasured_budget: int | None) -> Scorer:
        settings = self._settings
        manifest = self._registry.manifest(version)
        is_fake = settings.backend == "fake"
        files = TokenizerFiles() if is_fake else TokenizerFiles(self._registry.path(version), manifest.max_length)
        request = LoadRequest(
            registry=settings.registry,
            version=version,
            backend=settings.backend,
            device=settings.device,
            dtype=settings.dtype,
            cache_dir=settings.cache_dir,
            token_budget=settings.token_budget,
            unmeasured_budget=unmeasured_budget,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        return Scorer(
            version,
            labels=manifest.labels,
            files=files,
            device=DeviceProcess(request),
            room=self._room,
            on_sick=self._fail,
        )

    def run(self) -> int:
        """Serve until told to stop. Returns the process's exit status."""
        install_stop_handlers(self._signals.put)
        sys.setswitchinterval(SWITCH_S)
        self._versions.follow()
        self._keeper.start()
        self._poller.start()
        for part in (self._hear, self._drain):
            threading.Thread(target=part, daemon=True).start()
        on_stop = partial(self._signals.put, NO_SIGNAL)
        log.info("worker is ready", extra=fields("worker_ready", worker=self.worker_id, **self._about()))
        try:
            status = run_celery(self._app, self._settings, worker_id=self.worker_id, on_stop=on_stop)
            if status != 0:
                raise InternalError(f"Celery ended with {status}")
        except Exception as exc:
            self._fail(exc)
        on_stop()
        self._drained.wait(self._settings.drain_timeout_s + CELERY_GRACE_S)
        return self._exit_status()

    def _score(self, lane: Lane) -> None:
        """Run a lane's feeder. One that fails holds leases that no one would score: the worker must end."""
        self._guard(self._feeders[lane].run)

    def _guard(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as exc:  # a panic inside tokenizers is no Exception
            self._fail(exc)

    def _poll(self) -> None:
        """Run the feeders of lanes that have work without a wake-up: these get lost with Redis, or a killed worker.

        It asks the ledger whether a claim would do something, in one command for all lanes, which writes nothing.
        Whatever waits starts the lane's feeder, and so does what any claim takes care of: an expired lease, a passed
        deadline, a version that a job waits for.
        """
        feeding: dict[Lane, threading.Thread] = {}
        pause_s = SHORTEST_POLL_S
        while not self._stopping.wait(pause_s):
            self._end_if_stuck()
            idle = [lane for lane, feeder in self._feeders.items() if not feeder.is_running]
            waiting: set[Lane] = set()
            if idle and self._keeper.is_reachable:
                with contextlib.suppress(RedisUnavailableError):  # the heartbeat reports it
                    waiting = self._ledger.poll(idle, versions=self._versions.ready_versions())
            for lane in waiting:
                feeding[lane] = threading.Thread(target=self._score, args=(lane,), daemon=True)
                feeding[lane].start()
            quiet_s = time.monotonic() - self._keeper.moved_at
            pause_s = min(LONGEST_POLL_S, max(SHORTEST_POLL_S, quiet_s / 4))
        for thread in feeding.values():
            thread.join()

    def _hear(self) -> None:
        """Begin the drain at the first signal, end it at another one or SIGQUIT: handlers themselves may do neither."""
        while True:
            signum = self._signals.get()
            is_hurry = signum == signal.SIGQUIT or (signum != NO_SIGNAL and self._stopping.is_set())
            self._stopping.set()
            if is_hurry:
                self._end_now("second signal", give_back_s=GIVE_BACK_S)

    def _fail(self, error: BaseException) -> None:
        """A part of the worker cannot go on: give everything back, and let the supervisor act."""
        if self._failure is not None:
            return
        self._failure = error
        if isinstance(error, ProtocolTooNewError):
            log.error("the worker is too old for this namespace", extra=fields("too_old", error=str(error)))
        else:
            trace = None if isinstance(error, ScorequeueError) else error
            facts = fields("worker_failed", error=str(error))
            log.error("a part of the worker failed; the worker ends", exc_info=trace, extra=facts)
        if not self._stopping.is_set():  # a second signal would mean: in a hurry
            os.kill(os.getpid(), signal.SIGTERM)  # the one way that Celery's loop and ours both hear

    def _drain(self) -> None:
        """Let go of everything, in the order that loses the least work."""
        self._stopping.wait()
        timeout_s = self._settings.drain_timeout_s
        give_up_at = time.monotonic() + 0.95 * timeout_s  # the rest is for the end itself, on a busy machine
        work_ends_at = give_up_at - min(GIVE_BACK_S, timeout_s / 4)
        log.info("worker drains", extra=fields("drain", timeout_s=timeout_s))
        overdue = threading.Timer(timeout_s, self._end_now, ["drain timed out"], {"give_back_s": 0.5})
        overdue.daemon = True
        overdue.start()

        scorers = self._versions.stop()  # 0. no other version is taken up; one that is loading is given up
        self._poller.join(left_s(work_ends_at))  # 1. feeders stop claiming: they look at `stopping` before each claim
        self._tokenizers.close()
        for scorer in scorers:
            scorer.close()
        # 2. The batches on the device end, no others begin.
        unfinished: list[Any] = [lease for scorer in scorers for lease in scorer.drain(left_s(work_ends_at))]
        if left_s(work_ends_at) == 0:
            self._failure = self._failure or TimeoutError("the batch on the device outlasted the drain")
        self._keeper.flush(left_s(work_ends_at))  # 3. its chunks are committed, once Redis answers
        # 4. The rest goes back, to the front of its lane; when Redis comes back late, too.
        self._keeper.release(unfinished, timeout_s=left_s(give_up_at))
        self._keeper.stop(timeout_s=left_s(give_up_at))  # 5. nothing is held any more: leave the list of live workers
        log.info("worker drained", extra=fields("drained", released=len(unfinished)))
        self._drained.set()
        time.sleep(min(CELERY_GRACE_S, left_s(give_up_at)))
        os._exit(self._exit_status())  # Celery still waits for a Redis that is away; nothing of ours is left

    def _end_now(self, why: str, *, give_back_s: float = 0.0) -> None:
        """End before the drain does."""
        if self._drained.is_set():
            return
        log.warning("worker ends now; leases go back", extra=fields("hurry", why=why))
        giving = threading.Thread(target=self._keeper.stop, kwargs={"timeout_s": give_back_s}, daemon=True)
        giving.start()
        giving.join(give_back_s)
        os._exit(ExitCode.UNEXPECTED)

    def _end_if_stuck(self) -> None:
        """End the worker if a tokenizer hangs in it: its leases run out, and its texts are tried in a child process."""
        waited_s = self._tokenizers.longest_s()
        if waited_s > STUCK_AFTER_S:
            facts = fields("stuck", where="tokenizer", waited_s=round(waited_s, 1))
            log.error("a tokenizer has not returned; the worker ends for its supervisor to start it anew", extra=facts)
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            os._exit(ExitCode.UNEXPECTED)

    def _exit_status(self) -> int:
        if isinstance(self._failure, ProtocolTooNewError):
            return int(self._failure.exit_code)
        return int(ExitCode.UNEXPECTED if self._failure else ExitCode.DONE)

    def _about(self) -> dict[str, Any]:
        scorer = self._versions.current
        loaded = scorer.loaded.result()
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "started_at": self._started_at.isoformat(),
            "lanes": [lane.value for lane in self._settings.lanes],
            "backend": loaded.backend,
            "device": loaded.device,
            "dtype": loaded.dtype,
            "model_version": scorer.version,
            "ready_versions": self._versions.ready_versions(),
            "loading_version": self._versions.loading_version,
            "failed_versions": self._versions.failed_versions(),
            "registry_error": self._versions.registry_error,
            "token_budget": scorer.token_budget,
            **self._versions.stats().to_dict(),
        }
