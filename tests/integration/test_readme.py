"""README's session is what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes import WorkerProcess, environment
from tests.tiny import publish_tiny

README = Path(__file__).parents[2] / "README.md"
NAMESPACE = "readme"

VARIES = [
    (r"\b[0-9a-f]{32}\b", "JOB"),
    (r"\b\d{8}T\d{6}-[0-9a-f]{6}\b", "VERSION"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b(un)?acceptable\b", "LABEL"),
    (r"\b[01]\.\d+\b", "SCORE"),
    (r"[\d,.]+(?= ?rows/s|/s\b)", "RATE"),
    (r"─+", "─"),
    (r" +", " "),
]
"""What is another one each time: the model of the test, its verdicts, the hour; and what lines up with them."""


class Step(NamedTuple):
    """A command of the session, and what README says that it prints."""

    command: str
    output: list[str]


def session() -> list[Step]:
    """The steps of README's first session."""
    block = re.search(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    steps: list[Step] = []
    for line in block[1].splitlines():
        if line.startswith("$ "):
            steps.append(Step(line.removeprefix("$ "), []))
        else:
            steps[-1].output.append(line)
    return steps


def shape(lines: list[str]) -> list[str]:
    """Lines without what varies."""
    shaped = []
    for line in lines:
        for pattern, word in VARIES:
            line = re.sub(pattern, word, line)
        shaped.append(line.strip())
    return shaped


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("worker")
    publish_tiny(folder / "registry")
    settings = {"redis_url": redis_url, "namespace": NAMESPACE, "registry": folder / "registry", "backend": "fake"}
    with WorkerProcess(folder / "worker.log", **settings) as worker:
        yield worker


def test_session_in_the_readme_is_what_the_commands_print(
    worker: WorkerProcess, redis_url: str, tmp_path: Path
) -> None:
    """It is the first thing that anybody sees of the project."""
    steps = session()
    (tmp_path / "week.csv").write_text("\n".join(steps[0].output) + "\n")
    job_id = ""
    assert steps[0].command == "cat week.csv"

    for step in steps[1:]:
        named = re.search(r"[0-9a-f]{32}", step.command)
        command = step.command.replace(named[0], job_id) if named else step.command
        program, *args = command.split()
        assert program in ("producer", "cat")
        done = subprocess.run(
            [sys.executable, "-m", "producer", *args] if program == "producer" else ["cat", *args],
            cwd=tmp_path,
            env=environment(redis_url=redis_url, namespace=NAMESPACE),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        printed = done.stdout.splitlines()
        assert done.returncode == 0, done.stdout
        assert shape(printed) == shape(step.output), step.command
        job_id = job_id or next((line for line in printed if re.fullmatch(r"[0-9a-f]{32}", line)), "")

    commands = [step.command.split()[1] for step in steps if step.command.startswith("producer")]
    assert {"submit", "watch", "results"} <= set(commands)
    assert any("--join" in step.command for step in steps)
