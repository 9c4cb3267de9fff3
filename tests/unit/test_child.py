"""A child process of the worker lives as long as the worker, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import until
from worker.child import STOP_SIGNALS, Child, ChildLostError

PARENT = """
import signal, sys
from worker.child import STOP_SIGNALS, Child
for signum in STOP_SIGNALS:
    signal.signal(signum, signal.SIG_IGN)
child = Child("tests.strange_child")
for line in sys.stdin:
    child.send(line.strip())
    print(child.pid, child.receive(30), flush=True)
child.close()
"""


class Parent:
    """A process with a child."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
            start_new_session=True,
        )

    def ask(self, word: str) -> tuple[psutil.Process, str]:
        """Send the child a word; returns the child and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        pid, _, answer = self.process.stdout.readline().strip().partition(" ")
        return psutil.Process(int(pid)), answer


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    parent = Parent(tmp_path)
    yield parent
    parent.process.kill()
    parent.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("tests.strange_child")
    yield child
    child.close()


@pytest.mark.parametrize(
    "word",
    [
        "reads",
        pytest.param("stick", marks=pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends it")),
    ],
)
def test_a_child_ends_when_its_parent_is_killed(parent: Parent, word: str) -> None:
    """A GPU would stay taken, and the next worker find no memory on it."""
    child, _ = parent.ask(word)

    parent.process.kill()

    child.wait(10)


def test_signals_to_the_whole_group_do_not_end_it(parent: Parent) -> None:
    """Ctrl-C reaches every process of a terminal; the worker drains, and needs its device process for that."""
    child, _ = parent.ask("hello")

    for signum in STOP_SIGNALS:
        os.killpg(parent.process.pid, signum)

    assert parent.ask("still there") == (child, "still there")


def test_a_file_with_the_name_of_a_package_is_not_imported(parent: Parent, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('the file of the project')\n")

    _, found = parent.ask("numpy")

    assert found.endswith("__init__.py")


def test_what_libraries_print_is_no_output_of_the_worker(parent: Parent) -> None:
    """Results and ids are on stdout."""
    assert parent.ask("print")[1] == "printed"

    stdout, stderr = parent.process.communicate()

    assert (stdout, stderr) == ("", "from a library\n")
    assert parent.process.returncode == 0


def test_a_child_that_ends_says_its_last_words_and_then_how_it_ended(child: Child) -> None:
    child.send("exit")

    assert child.receive(30) == "last words"
    with pytest.raises(ChildLostError, match="it ended with 3"):
        child.receive(30)


def test_a_killed_child_is_noticed_by_whoever_waits_or_sends(child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(ChildLostError, match="signal 9"):
        child.receive(30)
    with pytest.raises(ChildLostError, match="signal 9"):
        child.send("anyone?")


def test_a_child_without_an_answer_is_killed(child: Child) -> None:
    with pytest.raises(ChildLostError, match=r"no answer for 0\.3 s"):
        child.call("sleep", timeout_s=0.3)

    until(lambda: not psutil.pid_exists(child.pid) or psutil.Process(child.pid).status() == "zombie", what="its end")


def test_a_closed_child_is_gone(child: Child) -> None:
    assert child.call("stick", timeout_s=30) == "sticks"

    child.close()

    assert not psutil.pid_exists(child.pid)


def test_a_stopped_child_is_given_up_though_a_message_does_not_fit_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a batch holds a lock that everybody needs, so it must not wait for ever."""
    monkeypatch.setattr("worker.child.SOCKET_S", 1)
    child = Child("tests.strange_child")
    os.kill(child.pid, signal.SIGSTOP)

    with pytest.raises(ChildLostError, match="signal 9"):
        child.send(bytes(4 << 20))

    child.close()
    assert not psutil.pid_exists(child.pid)
