"""Trainers that are killed, and disks that are full: ``current`` always points at what verifies."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode
from scorequeue.registry import ManifestDraft, Registry
from tests.processes import until
from tests.tiny import make_tiny_base, publish_tiny, rows_that_suit
from training.quiet import quiet_libraries

pytestmark = pytest.mark.faults

ROUNDS = 25

TRAIN = """
import sys
from pathlib import Path
import scorequeue.registry
from scorequeue.errors import GateRefusedError, VersionNotFoundError
from scorequeue.pruning import prune
from scorequeue.registry import ManifestDraft, Registry

scorequeue.registry.MARK_STALE_S = 0.4  # who is killed should not hold the others up for long
registry = Registry(Path(sys.argv[1]))
draft = ManifestDraft(base_model="tiny", labels=("LABEL_0", "LABEL_1"), max_length=64)
print("ready", flush=True)
while True:
    version = registry.publish(Path(sys.argv[2]), draft=draft)
    try:
        registry.promote(version, expected=registry.current(), why="better")
        registry.rollback(why="worse")
        registry.refuse(version, expected=registry.current(), why="worse", numbers={"mcc": 0.1})
        registry.promote(version, expected=registry.current(), why="better after all")
    except (GateRefusedError, VersionNotFoundError):
        pass  # the other one was faster, or has pruned it
    prune(registry, keep=3, find_in_use=dict)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "model")
    config = folder / "config.json"
    config.write_text(config.read_text()[:-2] + ', "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}')
    return folder


def train(registry: Registry, checkpoint: Path) -> subprocess.Popen[str]:
    """A process that publishes, promotes, goes back and prunes without end."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(registry.root), str(checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def check(registry: Registry) -> None:
    """What must hold at any time, whoever was killed where."""
    current = registry.current()
    if current is not None:
        registry.verify(current)
    for version in registry.versions():
        registry.verify(version)
    file = registry.root / "history.jsonl"
    if file.exists():
        assert len(registry.history()) >= len(file.read_bytes().splitlines()) - ROUNDS, "lines that cannot be read"


def test_trainers_that_are_killed_anywhere_leave_a_registry_that_verifies(tmp_path: Path, checkpoint: Path) -> None:
    """Two at once, one of them killed after a random while, many times: in a copy, a rename, a line, a deletion."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    registry = Registry(tmp_path / "registry")
    registry.publish(checkpoint, draft=ManifestDraft(base_model="tiny", labels=("LABEL_0", "LABEL_1"), max_length=64))
    trainers = [train(registry, checkpoint), train(registry, checkpoint)]
    try:
        for number in range(ROUNDS):
            time.sleep(chance.uniform(0.0, 0.25))
            victim = number % 2
            assert trainers[victim].poll() is None, trainers[victim].communicate()[1]
            trainers[victim].kill()
            trainers[victim].communicate()
            check_alone(registry, trainers[1 - victim], seed)
            trainers[victim] = train(registry, checkpoint)
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.communicate()

    check(registry)
    lines = len(registry.history())
    survivor = train(registry, checkpoint)
    until(lambda: len(registry.history()) > lines + 4, what="a registry that goes on")
    survivor.kill()
    survivor.communicate()
    assert sum(entry.action == "rollback" for entry in registry.history()) > 5, "the trainers hardly did anything"


def check_alone(registry: Registry, other: subprocess.Popen[str], seed: int) -> None:
    """Check while the other trainer stands still: it prunes what is being looked at otherwise."""
    other.send_signal(signal.SIGSTOP)
    try:
        check(registry)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        other.send_signal(signal.SIGCONT)


def training(registry: Registry, *arguments: str, code: int) -> str:
    """Run a command; return its last line on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", *arguments, "--registry", str(registry.root)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def fill(disk: Path) -> Path:
    """Write until nothing fits any more; return the file that took the room."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return file


def test_full_disk_refuses_and_loses_nothing(small_disk: Callable[[int], Path], tmp_path: Path) -> None:
    """Publish and promote say so and leave all as it was; prune makes room on the very disk that is full."""
    registry = Registry(small_disk(2 << 20) / "registry")
    with quiet_libraries():
        rows = rows_that_suit(0)
        old, fair, good = (publish_tiny(registry.root, seed=seed, rows=rows) for seed in (2, 1, 0))
    registry.promote(fair, expected=old, why="better")
    registry.promote(good, expected=fair, why="better")
    checkpoint = make_tiny_base(tmp_path / "checkpoint")
    ballast = fill(registry.root.parent)
    before = (registry.versions(), registry.history(), sorted(os.listdir(registry.root / "versions")))

    said = training(registry, "import", str(checkpoint), code=ExitCode.UNEXPECTED)
    assert "cannot publish config.json to" in said
    assert "No space left on device" in said
    assert "No space left on device" in training(registry, "rollback", code=ExitCode.UNEXPECTED)
    assert (registry.versions(), registry.history(), sorted(os.listdir(registry.root / "versions"))) == before
    assert sorted(os.listdir(registry.root)) == ["current", "history.jsonl", "versions"]
    check(registry)

    training(registry, "prune", "--keep", "1", "--ignore-jobs", code=ExitCode.DONE)
    assert registry.versions() == [fair, good]
    training(registry, "rollback", code=ExitCode.DONE)
    assert registry.current() == fair
    assert ballast.exists()


def test_version_that_grows_beyond_the_disk_names_its_file(small_disk: Callable[[int], Path], tmp_path: Path) -> None:
    """The disk has room for the small files, and not for the weights."""
    disk = small_disk(32 << 10)
    checkpoint = make_tiny_base(tmp_path / "checkpoint")
    registry = Registry(disk / "registry")

    said = training(registry, "import", str(checkpoint), code=ExitCode.UNEXPECTED)

    assert "cannot publish model.safetensors to" in said
    assert registry.versions() == []
    assert shutil.disk_usage(disk).used <= 16 << 10, "what was written of it is gone again"
