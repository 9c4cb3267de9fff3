"""Files and pipes as blocks of lines: opening, gzip, a look at the head, decoding.

Bytes are decoded a block at a time, not a line at a time, which is most of why reading is fast. Bytes that are not text
in the file's encoding come out as lone surrogates, so that the row that holds them, and no other, can be called faulty.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from scorequeue.errors import InputError

BLOCK_BYTES = 256 * 1024
"""Bytes that are read and decoded together. Larger blocks were no faster and cost memory."""

MAX_LINE_CHARACTERS = 8 * 1024 * 1024
"""Characters of a line that are kept in memory; such a line is far over any text limit and fails for that."""

STDIN = "-"

GZIP_MAGIC = b"\x1f\x8b"
UNREADABLE_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading damaged gzip data raises."""

_HEAD_BYTES = 16
_KINDS = {
    b"\x89PNG\r\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a zip archive (or an Excel or Word file)",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"PAR1": "a parquet file; say --input-format parquet",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x7fELF": "a program",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_SAMPLE_BYTES = 8 * 1024
_MOST_NOISE = 0.3
"""Share of bytes at a file's head that are no text, above which the file is taken for something else."""


def _mark(exc: UnicodeError) -> tuple[str, int]:
    """Stand lone surrogates in for bytes that are no text (codecs error handler)."""
    if not isinstance(exc, UnicodeDecodeError):
        raise exc
    return "".join(chr(0xDC00 + byte) if byte > 127 else "\udc7f" for byte in exc.object[exc.start : exc.end]), exc.end


codecs.register_error("scorequeue-mark", _mark)


class ByteSource:
    """An open file or pipe that has shown that it may be text.

    Args:
        path: A file, or ``-`` for standard input. Gzip is recognised by its first bytes.
        name: What messages call it.

    Raises:
        InputError: It cannot be opened, is empty, or is something else than text.
    """

    def __init__(self, path: str, *, name: str, encoding: str) -> None:
        self.name = name
        self.encoding = _usable_encoding(encoding)
        self._raw = open_bytes(path, name)
        self._owns = path != STDIN
        self._stream = self._raw
        self._size = _size(self._raw)
        try:
            self._head = self._read_head()
            if self._head.startswith(GZIP_MAGIC):
                self._unzip()
            elif path.endswith(".gz") and self._head:
                raise InputError(f"{name}: expected gzip, as its suffix says, got something else; rename the file")
            self._check_head()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int | None:
        """Bytes of the file as it lies on disk; None for a pipe."""
        return self._size

    @property
    def position(self) -> int:
        """Bytes of the file that have been read so far, before unzipping."""
        try:
            return self._raw.tell()
        except (OSError, ValueError):
            return 0

    def peek(self) -> str:
        """Return the start of the input, as text: what was read with the head, and is read again as the first block."""
        return self._head.decode(self.encoding, "scorequeue-mark").removeprefix("\ufeff")

    def line_blocks(self, *, keep_cr: bool = False) -> Iterator[list[str]]:
        r"""Yield the lines in blocks, without ``\n`` and, unless ``keep_cr``, without a ``\r`` before it.

        Raises:
            InputError: The rest cannot be read, or is no intact gzip.
        """
        # A byte order mark is no part of the first line; utf-16 and utf-32 drop theirs by themselves.
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        decoder = codecs.getincrementaldecoder(encoding)("scorequeue-mark")
        parts: list[str] = []
        room = MAX_LINE_CHARACTERS
        has_cr = False
        for data in self._blocks():
            try:
                text = decoder.decode(data, not data)
            except UnicodeError as exc:
                raise InputError(f"{self.name}: expected {self.encoding}: {exc}; name another --encoding") from exc
            # A block can end between the two.
            has_cr = not keep_cr and (has_cr or "\r" in text)
            lines = text.split("\n")
            if room > 0:
                parts.append(lines[0][:room])
            room -= len(lines[0])
            if len(lines) == 1:
                continue
            lines[0] = "".join(parts)
            tail = lines.pop()
            parts, room = [tail[:MAX_LINE_CHARACTERS]], MAX_LINE_CHARACTERS - len(tail)
            yield _without_cr(lines) if has_cr else lines
            has_cr = "\r" in tail
        last = "".join(parts)
        if last:
            yield [last] if keep_cr else [last.removesuffix("\r")]

    def close(self) -> None:
        """Close the file; standard input stays open for whoever else holds it."""
        self._head = b""
        if self._stream is not self._raw:
            self._stream.close()
        if self._owns:
            self._raw.close()

    def _blocks(self) -> Iterator[bytes]:
        """Yield what is read, and an empty block at the end."""
        yield self._head
        self._head = b""
        while data := self._read():
            yield data
        yield b""

    def _read(self) -> bytes:
        try:
            # read1 takes what a pipe has instead of waiting for a full block.
            return self._stream.read1(BLOCK_BYTES)  # type: ignore[attr-defined,no-any-return]
        except UNREADABLE_GZIP as exc:
            raise InputError(f"{self.name}: the gzip data is damaged or cut off ({exc}); compress it again") from exc
        except OSError as exc:
            raise InputError(f"{self.name}: cannot be read: {exc.strerror or exc}") from exc

    def _read_head(self) -> bytes:
        head = b""
        while len(head) < _HEAD_BYTES and (data := self._read()):
            head += data
        return head

    def _unzip(self) -> None:
        compressed = JoinedStream(self._head, self._raw)
        self._stream = gzip.GzipFile(fileobj=compressed, mode="rb")  # type: ignore[call-overload]
        self._head = self._read_head()

    def _check_head(self) -> None:
        if not self._head:
            raise InputError(f"{self.name}: no rows; the input is empty")
        kind = _looks_like(self._head, self.encoding)
        if kind:
            raise InputError(f"{self.name}: expected text, got what looks like {kind}")


class Readable(Protocol):
    """The little of a stream that it takes to read it."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes; none at the end."""


class JoinedStream:
    """A stream whose first bytes were already read; the little of a file that GzipFile needs."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        if self._head:
            data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return data
        return self._rest.read(size)


def open_bytes(path: str, name: str) -> BinaryIO:
    """Open a file, or standard input for ``-``; raises InputError with the reason if it cannot be."""
    if path == STDIN:
        return sys.stdin.buffer
    if os.path.isdir(path):
        raise InputError(f"{name}: expected a file, got a directory; name the files in it")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None
    except (OSError, ValueError) as exc:
        strerror = exc.strerror if isinstance(exc, OSError) and exc.errno != errno.EINVAL else str(exc)
        raise InputError(f"{name}: cannot be opened: {strerror}") from exc


def _size(raw: BinaryIO) -> int | None:
    """Return the bytes of a file; None for a pipe."""
    try:
        return os.fstat(raw.fileno()).st_size if raw.seekable() else None
    except OSError:
        return None


def _usable_encoding(encoding: str) -> str:
    """Return Python's name of an encoding; refuse those that cannot decode a stream of text piece by piece."""
    try:
        name = codecs.lookup(encoding).name
        # Codecs such as base64 are no text encodings, idna and punycode know no error handlers of ours, and some have
        # no incremental decoder: the registry says none of it, so it is tried.
        "a".encode(name).decode(name, "scorequeue-mark")
        codecs.getincrementaldecoder(name)("scorequeue-mark").decode(b"")
    except (LookupError, ValueError, TypeError):
        raise InputError(f"expected an encoding like utf-8, latin-1 or utf-16, got {encoding!r}") from None
    return name


def _looks_like(head: bytes, encoding: str) -> str | None:
    """Name what the head of a file is if it is no text in the encoding; None if it may well be."""
    sample = head[:_SAMPLE_BYTES]
    if encoding.startswith(("utf-16", "utf-32")):
        return None
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16 text; say --encoding utf-16"
    marked = sample.decode(encoding, "scorequeue-mark")
    noise = sum(1 for character in marked if character < "\t" or "\udc7f" <= character <= "\udcff")
    kind = next((kind for magic, kind in _KINDS.items() if sample.startswith(magic)), None)
    if kind and (noise or sample.startswith(b"%PDF-")):
        return kind
    if sample.count(0) > _MOST_NOISE * len(sample) and 0 not in sample[::2]:
        return "UTF-16 text without a byte order mark; say --encoding utf-16-le"
    if noise > _MOST_NOISE * len(sample):
        return "binary data (or text in another encoding: see --encoding)"
    return None


def _without_cr(lines: list[str]) -> list[str]:
    return [line.removesuffix("\r") for line in lines]
