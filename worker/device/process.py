"""The worker's handle to a device process: start it, give it batches, notice that it died or hangs."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from scorequeue.errors import DeviceSickError, ScorequeueError, StoppingError, VersionError
from scorequeue.logs import fields
from worker.backends import PaddedBatch
from worker.child import Child, ChildLostError
from worker.device.messages import CheckGolden, Loaded, LoadRequest

CHILD_MODULE = "worker.device"

HANGS_S, HANGS_FACTOR = 3.0, 10.0
"""A device process that has a batch is killed after so many seconds without an answer, or so many times the longest
batch before, or the seconds that its start took: who waits as long as the remedy costs is wrong by a factor of two at
most. The longest of them counts."""

LOAD_S = 1_800.0
"""Seconds that loading a version for the first time may take, with a conversion and a budget to measure."""

RESTART_S = 60.0
"""Fewest seconds after which a process that starts anew, with a version that it has loaded before, counts as hung."""

STARTS, PAUSE_S = 3, 1.0
"""Times in a row that a process may fail to start anew before the device is called sick, and seconds between them."""

log = logging.getLogger(__name__)


class DeviceProcess:
    """A version in a child process.

    *new* -> ``start`` -> *ready* -> *lost* -> ``restart`` -> *ready* ... -> ``close`` -> *closed*. One thread starts it
    and receives; others may send, one at a time, and close. What talks to a lost child raises ``ChildLostError``.
    """

    def __init__(self, request: LoadRequest) -> None:
        self.request = request
        self.longest_batch_s = 0.0
        self.loaded: Loaded | None = None
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def hangs_after_s(self) -> float:
        """Seconds without an answer after which it counts as hung."""
        start_s = self.loaded.start_s if self.loaded else 0.0
        return max(HANGS_S, start_s, HANGS_FACTOR * self.longest_batch_s)

    @property
    def pid(self) -> int | None:
        """Process id of the child, while there is one."""
        return self._child.pid if self._child else None

    @property
    def _started(self) -> Child:
        assert self._child is not None, "start() comes first"
        return self._child

    def start(self) -> Loaded:
        """Start the child and wait until the version is ready. Call it in the thread that outlives the child.

        Raises:
            StoppingError: It was closed meanwhile.
            ChildLostError: The child was lost while it loaded, or hung while it loaded once more.
            ScorequeueError: Whatever keeps the version from becoming ready, see ``load_model``.
        """
        with self._lock:
            if self._is_closed:
                raise StoppingError(f"version {self.request.version} is not loaded: the worker was told to stop")
            child = self._child = Child(CHILD_MODULE)
        facts = fields("version_loading", version=self.request.version, pid=child.pid)
        log.info("a device process loads a version", extra=facts)
        timeout_s = max(RESTART_S, HANGS_FACTOR * self.loaded.start_s) if self.loaded else LOAD_S
        try:
            answer = child.call(self.request, timeout_s=timeout_s)
        except ChildLostError as error:
            if self._is_closed:
                raise StoppingError("the worker was told to stop while it loaded a version") from error
            raise
        if isinstance(answer, ScorequeueError):
            child.close()
            raise answer
        loaded: Loaded = answer
        self.loaded = loaded
        self.longest_batch_s = max(self.longest_batch_s, loaded.batch_s)
        self.request = replace(self.request, token_budget=loaded.token_budget)  # measured once
        return loaded

    def restart(self) -> None:
        """End what is left of the child and start a fresh one, whose golden sentences must pass.

        Raises:
            StoppingError: It was closed meanwhile.
            DeviceSickError: No fresh one becomes ready.
        """
        for _ in range(STARTS):
            self._started.close()
            began = time.monotonic()
            try:
                self.start()
            except (ChildLostError, VersionError) as error:  # a shared folder may be away for a moment
                lost = error
                log.warning("device process did not start", extra=fields("device_lost", error=str(error)))
                time.sleep(PAUSE_S)
            else:
                facts = fields("device_restarted", pid=self.pid, took_s=round(time.monotonic() - began, 2))
                log.warning("device process was started anew", extra=facts)
                return
        raise DeviceSickError(
            f"version {self.request.version} cannot be loaded anew, tried {STARTS} times: {lost}"
        ) from lost

    def send(self, batch: PaddedBatch) -> None:
        """Give it a batch."""
        self._started.send(batch)

    def receive(self, timeout_s: float) -> Any:
        """Return its next answer, ``Scored`` or ``BatchFailed``, or None when the time is over."""
        return self._started.receive(timeout_s)

    def run_alone(self, batch: PaddedBatch) -> Any:
        """Run a batch with nothing else on the device, and return the answer; a child that hangs is killed."""
        return self._started.call(batch, timeout_s=self.hangs_after_s)

    def is_healthy(self) -> bool:
        """Score the golden sentences once more; False when they fail or take the process along."""
        try:
            answer = self._started.call(CheckGolden(), timeout_s=self.hangs_after_s)
        except ChildLostError as error:
            answer = error
        if isinstance(answer, Exception):
            log.warning("golden sentences fail", extra=fields("golden_failed", error=str(answer)))
        return not isinstance(answer, Exception)

    def kill(self) -> None:
        """End a child that hangs; whoever waits for it notices."""
        self._started.kill()

    def reap(self) -> None:
        """Wait for the end of a closed child, which would stay a zombie."""
        if self._child is not None:
            self._child.close()

    def close(self) -> None:
        """End it for good; any thread may call, also while it starts."""
        with self._lock:
            self._is_closed = True
            if self._child is not None:
                self._child.kill()
