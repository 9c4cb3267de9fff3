"""SIGTERM ends a command as Ctrl-C does: it gives back what it holds; the exit code says which of them it was.

a process that has begun nothing    ends at once (`leave_at_once`)
a command                           is interrupted (`heard`), and ends with `leave` whatever came out of it
what is left after its end          is broken off as at the beginning
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_came: list[int] = []
"""The signals that came, in their order; a list, since a lock must not be taken in a handler."""


def leave_at_once() -> None:
    """Have both end the process from now on, unless they are ignored, as in a shell's background job."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, _exit)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Have both raise KeyboardInterrupt inside, unless they are ignored.

    Lightning would put a handler of its own over it while it trains; ``training.trainer`` puts this one back.
    """
    _came.clear()
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, _interrupt)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def have_come() -> bool:
    """Whether one came: libraries that catch all exceptions, in imports above all, make another one of it."""
    return bool(_came)


def leave() -> NoReturn:
    """End the process with 130, or 143 where it was told to end.

    Not by ``sys.exit``: modules that an interrupt left half-loaded may fail in what they do at the end.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(128 + (_came[0] if _came else signal.SIGINT))


def _interrupt(signum: int, _: object) -> NoReturn:
    _came.append(signum)
    raise KeyboardInterrupt


def _exit(signum: int, _: object) -> NoReturn:
    os._exit(128 + signum)
