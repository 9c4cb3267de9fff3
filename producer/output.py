"""Where results go: standard output, or a file that is written aside and renamed once it is whole."""

from __future__ import annotations

import errno
import os
import re
import secrets
import select
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from scorequeue.errors import InputError, OutputError
from scorequeue.folders import sync_folder

_SURROGATES = re.compile("[\ud800-\udfff]")


def write_output(pieces: Iterable[str] | Iterable[bytes], output: str | None, *, is_live: bool = False) -> None:
    """Write bytes as they are, or text as UTF-8.

    Args:
        pieces: What to write; if making it fails, a file that was there before stays as it was. A file is on the disk,
            under its name, when this returns.
        output: A file, or None or ``-`` for standard output.
        is_live: Whether each piece goes to its reader at once.

    Raises:
        OutputError: The file cannot be written.
    """
    if output is None or output == "-":
        try:
            _write(pieces, sys.stdout.buffer, is_live=is_live)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(f"standard output cannot be written: {exc.strerror or exc}") from exc
        return
    path = Path(os.path.realpath(output))  # a link stays one: what it leads to is replaced
    if _is_stdout(path):
        write_output(pieces, None, is_live=is_live)
        return
    if path.exists() and not path.is_file():
        # A device or a named pipe: it must not be replaced by a file.
        try:
            with path.open("wb") as file:
                _write(pieces, file, is_live=is_live)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(f"{output}: cannot be written: {exc.strerror or exc}") from exc
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as file:
            _write(pieces, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, aside)
        aside.replace(path)
        sync_folder(path.parent)  # what is let go of elsewhere must be found here after a power cut
    except OSError as exc:
        raise OutputError(f"{output}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        aside.unlink(missing_ok=True)


def check_stdout() -> None:
    """Notice that nobody reads standard output any more, while there is nothing to write that would show it.

    Raises:
        BrokenPipeError: Its reader went away.
    """
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        raise BrokenPipeError(errno.EPIPE, "the reader of standard output went away")


def check_output(output: str | None, *, inputs: Iterable[str] = ()) -> None:
    """Check, before any work is done, that a file can be made there without a loss.

    Args:
        output: The file to write, or None or ``-`` for standard output.
        inputs: Files that are read; results must not take the place of their sentences.

    Raises:
        InputError: It cannot.
    """
    if output is None or output == "-":
        return
    path = Path(os.path.realpath(output))
    for name in inputs:
        if path.is_file() and os.path.exists(name) and os.path.samefile(path, name):
            raise InputError(f"{output}: expected another file than the input; name another --output")
    if path.is_dir():
        raise InputError(f"{output}: expected a file to write to, got a directory")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        reason = "no permission to write there" if path.parent.is_dir() else "there is no such folder"
        raise OutputError(f"{output}: cannot be written: {reason}")


def _is_stdout(path: Path) -> bool:
    """Whether the path is what standard output goes to already, as /dev/stdout is."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def replace_surrogates(text: str) -> str:
    """Return a text that UTF-8 can carry: what was no text in the input, and is marked as such, becomes U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def _write(pieces: Iterable[str] | Iterable[bytes], file: BinaryIO, *, is_live: bool = False) -> None:
    for piece in pieces:
        if isinstance(piece, bytes):
            data = piece
        else:
            try:
                data = piece.encode()
            except UnicodeEncodeError:
                data = replace_surrogates(piece).encode()
        file.write(data)
        if is_live:
            file.flush()
