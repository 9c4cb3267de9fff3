"""What a person sees on a terminal while rows go up and scores come: a real pseudo-terminal, real processes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from scorequeue.settings import Settings
from tests.integration.scoring import scoring
from tests.shell import Shell

_ORDERS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COLOURS = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


@pytest.fixture
def sh(tmp_path: Path, settings: Settings) -> Shell:
    shell = Shell(tmp_path, settings)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        shell.env.pop(name, None)
    shell.env["TERM"] = "xterm-256color"
    return shell


def on_terminal(sh: Shell, *args: str, columns: int = 80, code: int = 0) -> tuple[str, str]:
    """Run producer with stderr on a terminal; return what stdout got, and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with (sh.folder / "stdout").open("wb") as stdout:
        process = subprocess.Popen(
            sh.command(*args), cwd=sh.folder, env=sh.env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=theirs
        )
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux says so when the last process has let go of the terminal
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait(timeout=30) == code, shown.decode()
    return (sh.folder / "stdout").read_text(), shown.decode()


def plain(shown: str) -> list[str]:
    """The frames of the bars, one a line, without colours and cursor moves."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", _ORDERS.sub("", shown)) if line.strip()]


def test_bars_show_rows_rate_time_left_and_failures(sh, settings):
    """80 columns must be enough: that is what a terminal has when nobody made it wider."""
    sh.write("in.txt", "A sentence.\n" * 3000 + "\nThe last one.\n")
    with scoring(settings):
        told, shown = on_terminal(sh, "submit", "in.txt", "--wait", "--max-failed", "1", "--format", "jsonl")

    frames = plain(shown)
    upload = [frame for frame in frames if frame.startswith("upload")][-1]
    score = [frame for frame in frames if frame.startswith("score")][-1]
    assert re.search(r"━+ 100% 3,002 rows, [\d,]+/s +\d:\d\d:\d\d", upload), upload
    assert re.search(r"━+ 100% 3,002 of 3,002 rows, [\d,]+/s, 1 failed +\d:\d\d:\d\d", score), score
    assert len(told.splitlines()) == 3002
    assert _COLOURS.search(shown)


def test_no_color_is_respected(sh, settings):
    sh.env["NO_COLOR"] = "1"
    with scoring(settings):
        _, shown = on_terminal(sh, "submit", "--text", "One.", "--wait", "--format", "jsonl")

    assert "1 of 1 rows" in shown
    assert not _COLOURS.search(shown)


def test_a_terminal_that_cannot_redraw_gets_lines(sh, settings):
    sh.env["TERM"] = "dumb"
    with scoring(settings):
        _, shown = on_terminal(sh, "submit", "--text", "One.", "--wait", "--format", "jsonl")

    assert "\x1b" not in shown
    assert "uploaded 1 rows" in shown
    assert "completed: 1 of 1 rows" in shown


def test_nothing_is_drawn_with_quiet(sh, settings):
    with scoring(settings):
        told, shown = on_terminal(sh, "submit", "--text", "One.", "--wait", "--format", "jsonl", "--quiet")

    assert shown == ""
    assert told.startswith('{"row": 1, ')


def test_a_bar_says_that_nobody_scores(sh):
    _, shown = on_terminal(sh, "submit", "--text", "One.", "--wait", "--timeout", "1s", code=4)

    assert any("0 of 1 rows no live worker listens on lane express" in re.sub(" +", " ", line) for line in plain(shown))


def test_reading_for_a_dry_run_is_shown(sh):
    sh.write("in.txt", "A sentence.\n" * 3000)

    told, shown = on_terminal(sh, "submit", "in.txt", "--dry-run")

    assert told.startswith("rows        3,000 = 3,000 good + 0 faulty")
    assert re.search(r"^read .*100% 3,000 rows, [\d,]+/s", plain(shown)[-1])
