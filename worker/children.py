"""Processes that the worker starts beside itself and waits for: they end when it is told to stop."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence

from scorequeue.errors import StoppingError

_lock = threading.Lock()
_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()


def run_beside(command: Sequence[str], *, stdin: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as ``subprocess.run`` does; returns what it said and its exit status.

    Args:
        command: The program and its arguments.
        stdin: A file descriptor that it reads from; None leaves it ours.

    Raises:
        OSError: It cannot be started.
        StoppingError: The worker was told to stop; the program has been killed.
    """
    with _lock:
        if _stopping.is_set():
            raise StoppingError(f"{command[0]} is not started: the worker was told to stop")
        child = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        _running.add(child)
    try:
        with child:
            try:
                output, errors = child.communicate()
            except BaseException:
                child.kill()
                raise
    finally:
        with _lock:
            _running.discard(child)
    if _stopping.is_set():
        raise StoppingError(f"{command[0]} was ended: the worker was told to stop")
    return subprocess.CompletedProcess(list(command), child.returncode, output, errors)


def stop_children() -> None:
    """Kill those that run, and let no other begin; any thread may call."""
    _stopping.set()
    with _lock:
        for child in _running:
            child.kill()
