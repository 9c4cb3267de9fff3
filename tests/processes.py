"""Real worker processes for tests: started, watched through the ledger, ended by their process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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
        module: What is run; another one than ``worker`` may break something first.
        variables: Further environment variables.
        ledger_url: Where to look for the worker in the ledger, if it goes there by another way.
        settings: ``SCOREQUEUE_`` settings by their short names: redis_url, namespace, registry, backend...
    """

    def __init__(
        self,
        log: Path,
        *,
        module: str = "worker",
        variables: Mapping[str, str] | None = None,
        ledger_url: str | None = None,
        **settings: Any,
    ) -> None:
        self.log = log
        self.module = module
        self.variables = dict(variables or {})
        self.ledger_url = ledger_url or settings["redis_url"]
        self.settings = {"cache_dir": log.parent / "cache"} | settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until the ledger lists it as live."""
        self.launch()
        return self.wait_until_ready()

    def launch(self) -> None:
        """Start it, and do not wait."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, "start"],
                env=environment(**self.settings) | self.variables,
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Wait until the ledger lists it as live."""
        until(self._is_listed, timeout_s=timeout_s, what=f"a ready worker ({self.log})")
        return self

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        self._end(signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def worker_id(self) -> str:
        """What the ledger calls it."""
        return str(self.about()["id"])

    def about(self) -> dict[str, Any]:
        """What it said of itself with its last heartbeat."""
        return next(worker for worker in self._listed() if worker.get("pid") == self.pid)

    def pause(self) -> None:
        """SIGSTOP: it lives, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

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
        return any(worker.get("pid") == self._process.pid for worker in self._listed())

    def _listed(self) -> list[dict[str, Any]]:
        ledger = Ledger.connect(Settings(redis_url=self.ledger_url, namespace=self.settings["namespace"]))
        try:
            return ledger.workers()
        finally:
            ledger.close()

    def _end(self, how: signal.Signals, timeout_s: float = 40.0) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(timeout_s)
