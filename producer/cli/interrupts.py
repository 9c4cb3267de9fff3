"""Ctrl-C: at once while a command has begun nothing, and an exception that unwinds what it began afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import NoReturn

from scorequeue.errors import ExitCode

_came = threading.Event()


def hear() -> None:
    """Have Ctrl-C raise KeyboardInterrupt from now on, unless it is ignored, as in a shell's background job."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _raise)


def ignore() -> None:
    """Ignore it from now on: all that is left is to say how it ended, and no handler of ours lasts as long as that."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def has_come() -> bool:
    """Whether it came: whoever catches all exceptions makes another one of it, as pydantic does in class bodies."""
    return _came.is_set()


def leave() -> NoReturn:
    """End the process with 130. Python itself would end with the signal if code in a string was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(ExitCode.INTERRUPTED)


def _raise(*_: object) -> NoReturn:
    _came.set()
    raise KeyboardInterrupt
