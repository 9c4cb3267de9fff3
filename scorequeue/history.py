"""What was decided about ``current``: lines that are only ever added, and the way back that follows from them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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

    It goes to where the file ends when it is written, not to where it ended a moment before: a process that was stopped
    in between, and has lost the mark, overwrites nobody's line.

    Raises:
        OSError: It cannot be written whole; what there is of it is a torn line, and the next entry begins a new one.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        line = entry.model_dump_json().encode() + b"\n"
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def way_back(entries: Iterable[HistoryEntry], current: str | None) -> list[str]:
    """The versions that going back leads through, the next one first.

    Promotes and rollbacks are read as a stack: a promote puts a version on top, a rollback takes off what is above its
    target. So going back twice leads two back, never to and fro.

    Args:
        entries: The history, oldest first.
        current: What is current now. An entry is written before ``current`` moves, so a process that was killed or
            stopped in between leaves an entry of what never happened; the file that says what is current is right.
            None, where that file is damaged or gone: then the first step is to what was current last.
    """
    stack: list[str] = []
    for entry in _leave_out_void([entry for entry in entries if entry.action != "refuse"], current):
        _settle(stack, entry.from_version)
        if entry.action == "rollback":
            if entry.from_version is not None:
                stack.pop()
            _settle(stack, entry.to_version)
        elif entry.to_version != entry.from_version:
            stack.append(entry.to_version)
    _settle(stack, current)
    return stack[::-1] if current is None else stack[-2::-1]


def _leave_out_void(moves: Sequence[HistoryEntry], current: str | None) -> list[HistoryEntry]:
    """Those that happened: each led to what the next one that happened found.

    One that did not is void if an earlier one had led there already; else a line between them is lost, and it counts.
    """
    first: dict[str, int] = {}
    for number, entry in enumerate(moves):
        first.setdefault(entry.to_version, number)
    happened, found = [], current
    for number in reversed(range(len(moves))):
        entry = moves[number]
        if found not in (None, entry.to_version) and first.get(str(found), number) < number:
            continue
        happened.append(entry)
        found = entry.from_version
    return happened[::-1]


def _settle(stack: list[str], current: str | None) -> None:
    """Make a version the top: by taking off what is above it, else by putting it there."""
    if current is None:
        return
    if current in stack:
        while stack[-1] != current:
            stack.pop()
    else:
        stack.append(current)
