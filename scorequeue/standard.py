"""Standard input, output and error where they are closed, full, or have no reader."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn, TextIO

from scorequeue.errors import OutputError


class CheckedOutput(io.TextIOWrapper):
    """Standard output whose errors, such as a full disk, are told from those of all other files."""

    def write(self, text: str) -> int:
        """Write a text; raises OutputError, or BrokenPipeError where its reader went away."""
        try:
            return super().write(text)
        except OSError as exc:
            self._give_up(exc)

    def flush(self) -> None:
        """Write what is left; raises what ``write`` raises."""
        try:
            super().flush()
        except OSError as exc:
            self._give_up(exc)

    def _give_up(self, exc: OSError) -> NoReturn:
        if isinstance(exc, BrokenPipeError):
            raise exc
        silence(self)
        raise OutputError(f"standard output cannot be written: {exc.strerror or exc}") from exc


def prepare() -> None:
    """Put the null device in the place of what was closed (``>&-``), and check what is written to standard output."""
    # From 0 on: a file that is opened gets the least number that is free, and none of ours may get one of these.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    stdout = sys.stdout
    if type(stdout) is io.TextIOWrapper:  # and not what somebody else put there
        encoding, errors, line_buffering = stdout.encoding, stdout.errors, stdout.line_buffering
        sys.stdout = CheckedOutput(stdout.detach(), encoding, errors, line_buffering=line_buffering)


def silence(stream: TextIO) -> None:
    """Let a stream that cannot be written lead to nowhere, or the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
