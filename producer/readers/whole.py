"""Inputs that can only be read with all of their bytes at hand: a pipe or a gzip file becomes a file without a name."""

from __future__ import annotations

import os
from gzip import GzipFile
from typing import BinaryIO

from producer.readers.streams import BLOCK_BYTES, GZIP_MAGIC, STDIN, UNREADABLE_GZIP, JoinedStream, Readable, open_bytes
from producer.spool import spooling, unnamed_spool
from scorequeue.errors import InputError


def open_whole(path: str, *, name: str, magic: bytes) -> BinaryIO:
    """Open an input whose reader has to jump around in it.

    A plain file is opened as it is. Gzip is unzipped, and what can be read only once is copied, to a temporary file of
    which nothing is left, whatever ends the process.

    Args:
        path: A file, or ``-`` for standard input.
        name: What messages call it.
        magic: How the bytes begin; nothing else is copied.

    Raises:
        InputError: It cannot be opened or read, is empty, or begins with something else.
    """
    raw = open_bytes(path, name)
    try:
        head = _read(raw, len(magic), name)
        if not head:
            raise InputError(f"{name}: no rows; the input is empty")
        if head == magic and os.path.isfile(path):
            raw.seek(0)
            return raw
        stream = JoinedStream(head, raw)
        if head.startswith(GZIP_MAGIC):
            unzipped = GzipFile(fileobj=stream, mode="rb")  # type: ignore[call-overload]
            head = _read(unzipped, len(magic), name)
            stream = JoinedStream(head, unzipped)
        if head != magic:
            raise InputError(
                f"{name}: expected {magic.decode()} at the start, got {_shown(head)}; check --input-format"
            )
        copy = _copied(stream, name)
    except BaseException:
        _close(raw, path)
        raise
    _close(raw, path)
    return copy


def _shown(head: bytes) -> str:
    """Return bytes for a message: as text if they are some."""
    text = head.decode("ascii", "replace").strip()
    return repr(text) if text.isascii() and text.isprintable() else "something else"


def _copied(stream: Readable, name: str) -> BinaryIO:
    copy = unnamed_spool(name)
    try:
        while data := _read(stream, BLOCK_BYTES, name):
            with spooling(name):
                copy.write(data)
        with spooling(name):
            copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _close(raw: BinaryIO, path: str) -> None:
    if path != STDIN:
        raw.close()


def _read(stream: Readable, size: int, name: str) -> bytes:
    """Read so many bytes, or what is left."""
    data = b""
    try:
        while len(data) < size and (more := stream.read(size - len(data))):
            data += more
    except UNREADABLE_GZIP as exc:
        raise InputError(f"{name}: the gzip data is damaged or cut off ({exc}); compress it again") from exc
    except OSError as exc:
        raise InputError(f"{name}: cannot be read: {exc.strerror or exc}") from exc
    return data
