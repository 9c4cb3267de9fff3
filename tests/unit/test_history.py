"""The way back: a stack that follows from the lines, whatever a crash left among them."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorequeue.history import append_history, read_history, way_back
from scorequeue.manifest import HistoryEntry

AT = datetime(2026, 11, 23, tzinfo=UTC)


def entries(*steps: str) -> list[HistoryEntry]:
    """``A>B`` is a promote from A to B, ``A<B`` a rollback from B to A, ``A!B`` B refused; ``-`` is nothing."""
    found = []
    for step in steps:
        left, sign, right = step[0], step[1], step[2]
        action = {">": "promote", "<": "rollback", "!": "refuse"}[sign]
        before, after = (right, left) if sign == "<" else (left, right)
        found.append(
            HistoryEntry(at=AT, action=action, from_version=None if before == "-" else before, to_version=after, why="")
        )
    return found


@pytest.mark.parametrize(
    ("steps", "current", "back"),
    [
        ([], None, ""),
        ([], "A", ""),
        (["->A"], "A", ""),
        (["->A", "A>B", "B>C"], "C", "BA"),
        (["->A", "A>B", "B>C", "B<C"], "B", "A"),
        (["->A", "A>B", "B>C", "B<C", "A<B"], "A", ""),
        (["->A", "A>B", "A<B", "A>C"], "C", "A"),
        (["->A", "A>B", "B!C"], "B", "A"),
        (["->A", "A>B", "B>A"], "A", "BA"),
        (["->A", "A>B", "B>A", "B<A"], "B", "A"),
        # A skip over a pruned version takes off what is between.
        (["->A", "A>B", "B>C", "A<C"], "A", ""),
        # Killed between the line and the pointer: what the pointer says is right.
        (["->A", "A>B"], "A", ""),
        (["->A", "A>B", "B>C", "B<C"], "C", "BA"),
        (["->A", "A>B", "A<B", "B>C"], "C", "BA"),
        # Stopped before the line for so long that others moved the pointer; it was refused, and its line came last.
        (["->A", "A>C", "A>B"], "C", "A"),
        (["->A", "A>C", "A>B", "C>D"], "D", "CA"),
        # Stopped after the line: it comes before that of whoever took over.
        (["->A", "A>B", "A>C"], "C", "A"),
        # A line that was lost hides no other.
        (["->A", "A>B", "C>D"], "D", "CBA"),
        # A pointer that was written by hand, or damaged and mended.
        (["->A", "A>B"], "X", "BA"),
        (["->A", "A>B", "B<-"], "B", "A"),
        (["->A", "A>B"], None, "BA"),
    ],
)
def test_way_back(steps: list[str], current: str | None, back: str) -> None:
    assert "".join(way_back(entries(*steps), current)) == back


@given(st.lists(st.sampled_from("ABCDEF"), min_size=1, max_size=12))
def test_rollbacks_undo_promotes_one_by_one(promoted: list[str]) -> None:
    """Never to and fro: each one leads further back, down to the first."""
    lines: list[HistoryEntry] = []
    current: str | None = None
    for version in promoted:
        lines.append(HistoryEntry(at=AT, from_version=current, to_version=version, why=""))
        current = version
    walked = [current]
    while back := way_back(lines, current):
        lines.append(HistoryEntry(at=AT, action="rollback", from_version=current, to_version=back[0], why=""))
        current = back[0]
        walked.append(current)

    once = [version for index, version in enumerate(promoted) if index == 0 or version != promoted[index - 1]]
    assert walked == once[::-1]


def test_line_of_before_there_were_rollbacks_is_a_promote(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    line = {"at": AT.isoformat(), "from": None, "to": "A", "why": "first version", "numbers": {}, "forced": False}
    file.write_text(json.dumps(line) + "\n")

    (entry,) = read_history(file)

    assert entry.action == "promote"


def test_line_of_one_that_was_stopped_overwrites_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding the end of the file and writing there, somebody else may have written."""
    file = tmp_path / "history.jsonl"
    first, second, third = entries("->A", "A>B", "A>C")
    append_history(file, first)
    write = os.write

    def stall(descriptor: int, line: bytes) -> int:
        monkeypatch.undo()
        append_history(file, third)
        return write(descriptor, line)

    monkeypatch.setattr("scorequeue.history.os.write", stall)
    append_history(file, second)

    assert read_history(file) == [first, third, second]


def test_line_that_was_written_in_part_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of it; nothing is cut off again, since the end may be another's by now."""
    file = tmp_path / "history.jsonl"
    first, second = entries("->A", "A>B")
    append_history(file, first)
    write = os.write
    parts: list[int] = []

    def fill(descriptor: int, line: bytes) -> int:
        if parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        parts.append(write(descriptor, line[:30]))
        return parts[0]

    with monkeypatch.context() as patched:
        patched.setattr("scorequeue.history.os.write", fill)
        with pytest.raises(OSError, match="No space left"):
            append_history(file, second)
    assert read_history(file) == [first]

    append_history(file, second)
    assert read_history(file) == [first, second]


def test_torn_and_unknown_lines_hide_no_other(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    first, second = entries("->A", "A>B")
    append_history(file, first)
    with file.open("a") as stream:
        stream.write(first.model_dump_json().replace('"promote"', '"teleport"') + '\n{"at": "2026-')

    append_history(file, second)

    assert read_history(file) == [first, second]
