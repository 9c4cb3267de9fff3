"""One holder at a time, whoever dies: with real processes, as several trainers on one folder would be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode, MarkHeldError
from scorequeue.marks import Mark, read_holder
from tests.processes import until

STALE_S = 0.6

HOLD = """
import sys
from pathlib import Path
from scorequeue.marks import Mark
with Mark(Path(sys.argv[1]), stale_s=float(sys.argv[2])) as mark:
    print("held", flush=True)
    sys.stdin.readline()
    print(mark.is_held(), flush=True)
"""

COUNT = """
import sys
from pathlib import Path
from scorequeue.marks import Mark
mark, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(25):
    with Mark(mark, stale_s=20, wait_s=60):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the mark until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(STALE_S)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_processes_take_turns(tmp_path: Path) -> None:
    """A read and a write of the same file by four processes: one lost turn shows in the sum."""
    counter = tmp_path / "counter"
    counter.write_text("0")

    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path / "mark"), str(counter)]) for _ in range(4)
    ]
    codes = [process.wait(90) for process in processes]

    assert codes == [0] * 4
    assert counter.read_text() == "100"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_second_is_told_who_holds_it_and_since_when(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "mark") as process,
        pytest.raises(MarkHeldError, match=rf"process {process.pid} on \S+ since 2\d{{3}}-") as caught,
        Mark(tmp_path / "mark", stale_s=60),
    ):
        pass

    assert caught.value.exit_code == ExitCode.NOT_FINISHED


def test_living_holder_keeps_it_beyond_the_time_of_a_dead_one(tmp_path: Path) -> None:
    """It is touched meanwhile: a fit takes hours, a dead one's mark must go in seconds."""
    with holder(tmp_path / "mark"), pytest.raises(MarkHeldError):
        Mark(tmp_path / "mark", stale_s=STALE_S, wait_s=4 * STALE_S).__enter__()


def test_killed_holder_is_followed_soon(tmp_path: Path) -> None:
    with holder(tmp_path / "mark") as process:
        process.kill()
        process.wait()

        with Mark(tmp_path / "mark", stale_s=STALE_S, wait_s=30) as mark:
            assert mark.is_held()
            assert read_holder(mark.path).pid == os.getpid()

    assert list(tmp_path.iterdir()) == []


def test_mark_of_a_process_that_ended_on_this_host_is_taken_over_at_once(tmp_path: Path) -> None:
    """Who goes on with a killed fit need not wait a minute for it."""
    with holder(tmp_path / "mark") as process:
        process.kill()
        process.wait()

        with Mark(tmp_path / "mark", stale_s=600) as mark:
            assert mark.is_held()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["host", "pids"])
def test_number_of_a_process_elsewhere_says_nothing_here(name: str, tmp_path: Path) -> None:
    """Two containers on one kernel, or a host before and after a reboot: nobody has that number here, and it lives."""
    path = tmp_path / "mark"
    with holder(path) as process:
        process.kill()
        process.wait()
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: "elsewhere"}))

        with pytest.raises(MarkHeldError, match=f"process {process.pid} on "):
            Mark(path, stale_s=600).__enter__()


def test_stopped_holder_learns_that_it_lost_the_mark(tmp_path: Path) -> None:
    with holder(tmp_path / "mark") as process:
        process.send_signal(signal.SIGSTOP)
        with Mark(tmp_path / "mark", stale_s=STALE_S, wait_s=30) as mark:
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate("\n", timeout=30)

            assert said == "False\n"
            assert mark.is_held(), "the one that woke up must not remove its successor's mark"


def test_clock_of_the_host_does_not_matter(tmp_path: Path) -> None:
    """File servers and their clients differ: what counts is the difference of two times of the server."""
    path = tmp_path / "mark"
    path.write_text('{"host": "other", "pid": 7, "since": "1999-01-01T00:00:00+00:00", "token": "t"}')

    with pytest.raises(MarkHeldError, match="process 7 on other since 1999"):
        Mark(path, stale_s=30).__enter__()

    os.utime(path, (0, 0))
    with Mark(path, stale_s=30) as mark:
        assert mark.is_held()


def test_waiter_puts_back_a_fresh_mark_that_it_took_for_the_stale_one(tmp_path: Path) -> None:
    """Between looking and renaming, another waiter may have been faster."""
    path = tmp_path / "mark"
    path.write_text('{"host": "dead", "pid": 7, "since": "", "token": "old"}')
    stale = read_holder(path)
    path.unlink()

    with Mark(path, stale_s=30) as fresh:
        Mark(path, stale_s=30)._take_over(stale)

        assert fresh.is_held()


def test_holder_that_lost_its_mark_keeps_nobody_elses_alive(tmp_path: Path) -> None:
    """A mark that two touch would never grow stale, whoever of them dies."""
    path = tmp_path / "mark"
    with Mark(path, stale_s=0.2) as mark:
        path.unlink()
        path.write_text('{"host": "other", "pid": 7, "since": "", "token": "t"}')
        os.utime(path, (0, 0))
        looks: list[bool] = []
        is_held = mark.is_held
        mark.is_held = lambda: looks.append(is_held()) or looks[-1]
        until(lambda: len(looks) > 3, what="some beats")

        assert path.stat().st_mtime == 0
        assert not any(looks)
    assert path.exists()


def test_mark_is_stale_after_its_time_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    path.write_text('{"host": "other", "pid": 7, "since": "", "token": "t"}')
    now_s = path.stat().st_mtime

    os.utime(path, (now_s, now_s - 80))
    with pytest.raises(MarkHeldError):
        Mark(path, stale_s=100).__enter__()

    os.utime(path, (now_s, now_s - 101))
    with Mark(path, stale_s=100) as mark:
        assert mark.is_held()


def test_torn_mark_counts_as_held_until_it_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    path.write_text("{")

    with pytest.raises(MarkHeldError, match="a process that has just begun"):
        Mark(path, stale_s=30).__enter__()

    os.utime(path, (0, 0))
    with Mark(path, stale_s=30):
        pass


def test_nothing_is_left_where_the_mark_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape("No such file")), Mark(tmp_path / "none" / "mark", stale_s=30):
        pass

    until(lambda: list(tmp_path.iterdir()) == [], timeout_s=1, what="an empty folder")
