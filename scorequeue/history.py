"""What was decided about ``current``: lines that are only ever added, and the way back that follows from them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from scorequeue.manifest import HistoryEntry


def read_history(file: Path) -> list[HistoryEntry]:
    """All entries, oldest first; a line torn by a crash, or that only a later program understands, is left out."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(HistoryEntry.model_validate_json(line))
        except ValidationError:
            continue
    return entries


def append_history(file: Path, entry: HistoryEntry) -> None:
    """Add an entry, which is on the disk when this returns. Whoever calls holds the registry's mark.

    Raises:
        OSError: It cannot be written; the file is then as it was.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        line = entry.model_dump_json().encode() + b"\n"
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(descriptor, line[written:], size + written)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def way_back(entries: Iterable[HistoryEntry], current: str | None) -> list[str]:
    """The versions that going back leads through, the next one first.

    Promotes and rollbacks are read as a stack: a promote puts a version on top, a rollback takes off what is above its
    target. So going back twice leads two back, never to and fro.

    Args:
        entries: The history, oldest first.
        current: What is current now. An entry is written before ``current`` moves, so a process that was killed in
            between leaves an entry of what never happened; the file that says what is current is right. None, where
            that file is damaged or gone: then the first step is to what was current last.
    """
    stack: list[str] = []
    for entry in entries:
        if entry.action == "refuse":
            continue
        _settle(stack, entry.from_version)
        if entry.action == "rollback":
            if entry.from_version is not None:
                stack.pop()
            _settle(stack, entry.to_version)
        elif entry.to_version != entry.from_version:
            stack.append(entry.to_version)
    _settle(stack, current)
    return stack[::-1] if current is None else stack[-2::-1]


def _settle(stack: list[str], current: str | None) -> None:
    """Make a version the top: by taking off what is above it, else by putting it there."""
    if current is None:
        return
    if current in stack:
        while stack[-1] != current:
            stack.pop()
    else:
        stack.append(current)
