"""SIGTERM ends a command as Ctrl-C does: it gives back what it holds; the exit code says which of them it was."""

from __future__ import annotations

import signal
import threading

from scorequeue.errors import ExitCode

_was_terminated = threading.Event()


def hear() -> None:
    """Turn SIGTERM into a KeyboardInterrupt from now on, unless whoever started us has it ignored.

    Lightning would put a handler of its own over it while it trains; ``training.trainer`` puts this one back.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def exit_code() -> int:
    """What an interrupted command exits with: 130, or 143 where it was told to end."""
    return 128 + signal.SIGTERM if _was_terminated.is_set() else ExitCode.INTERRUPTED


def _interrupt(*_: object) -> None:
    _was_terminated.set()
    raise KeyboardInterrupt
