"""Temporary copies of what can be read only once, and one answer where there is no room for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from scorequeue.errors import InputError

_PREFIX = "scorequeue-"
_BLOCK_BYTES = 1024 * 1024


@contextmanager
def spooling(name: str) -> Iterator[None]:
    """Say what to do where a temporary file cannot be made or written.

    Args:
        name: What the message calls the input that is copied.

    Raises:
        InputError: Something inside met an OSError: nothing else may be done there.
    """
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"{name}: cannot be copied to a temporary file: {exc.strerror or exc}; make room, or name a folder with"
            " room in TMPDIR"
        ) from exc


def unnamed_spool(name: str) -> BinaryIO:
    """Open a temporary file without a name, of which nothing is left, whatever ends the process.

    Raises:
        InputError: It cannot be made.
    """
    with spooling(name):
        file: BinaryIO = tempfile.TemporaryFile(prefix=_PREFIX)  # noqa: SIM115
    return file


def memory_spool(name: str, *, most_bytes: int) -> IO[bytes]:
    """Open the same for what mostly fits into so many bytes of memory; only then it is on disk."""
    with spooling(name):
        return tempfile.SpooledTemporaryFile(max_size=most_bytes, prefix=_PREFIX)


@contextmanager
def named_copy(source: BinaryIO, *, name: str, suffix: str) -> Iterator[str]:
    """Copy a stream to a file that can be opened several times, and take it away at the end.

    Args:
        source: What is copied, to its end.
        name: What messages call it.
        suffix: Of the file; it says the format.

    Raises:
        InputError: There is no room, or the source cannot be read.
    """
    with spooling(name):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        path = folder / f"spool{suffix}"
        with spooling(name), path.open("wb") as file:
            while data := _read(source, name):
                file.write(data)
        yield os.fspath(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(source: BinaryIO, name: str) -> bytes:
    try:
        return source.read(_BLOCK_BYTES)
    except OSError as exc:
        raise InputError(f"{name}: cannot be read: {exc.strerror or exc}") from exc
