"""Real worker processes for tests: started, watched through the ledger, ended by their process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from scorequeue.ledger import Ledger
from scorequeue.settings import Settings

READY_TIMEOUT_S = 60.0


def until(condition: Callable[[], bool], *, timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Wait for a condition, with a deadline.

    Raises:
        AssertionError: It did not come true in time.
    """
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)


def environment(**settings: object) -> dict[str, str]:
    """The environment of a program under test, with ``SCOREQUEUE_`` settings by their short names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCOREQUEUE_")}
    return kept | {f"SCOREQUEUE_{name.upper()}": str(value) for name, value in settings.items()}


class WorkerProcess:
    """``worker start`` in a process of its own; a context that ends it whatever happened.

    Args:
        log: File that takes its stderr, for the message of a failed test.
        settings: ``SCOREQUEUE_`` settings by their short names: redis_url, namespace, registry, backend...
    """

    def __init__(self, log: Path, **settings: Any) -> None:
        self.log = log
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until the ledger lists it as live."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker", "start"], env=environment(**self.settings), stdout=log, stderr=log
            )
        until(self._is_listed, timeout_s=READY_TIMEOUT_S, what=f"a ready worker ({self.log})")
        return self

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        self._end(signal.SIGKILL)

    def terminate(self, timeout_s: float = 40.0) -> int:
        """SIGTERM, as a supervisor would. Returns the exit status."""
        return self._end(signal.SIGTERM, timeout_s)

    def send(self, signum: signal.Signals, timeout_s: float = 40.0) -> int:
        """Send a signal and wait for the end. Returns the exit status."""
        return self._end(signum, timeout_s)

    def wait(self, timeout_s: float = 40.0) -> int:
        """Wait for an end that something else brings about. Returns the exit status."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGKILL)

    def _is_listed(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the worker ended at once:\n{self.log.read_text()}"
        shared = {name: self.settings[name] for name in ("redis_url", "namespace")}
        ledger = Ledger.connect(Settings(**shared))
        try:
            return any(worker.get("pid") == self._process.pid for worker in ledger.workers())
        finally:
            ledger.close()

    def _end(self, how: signal.Signals, timeout_s: float = 40.0) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(timeout_s)
