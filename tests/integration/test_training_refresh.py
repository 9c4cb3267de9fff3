"""Refreshes as a scheduler runs them: a better version goes live, a worse one never does, and two never run at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scorequeue.errors import ExitCode
from scorequeue.marks import Mark
from scorequeue.registry import Registry
from tests.processes import until
from tests.tiny import make_tiny_base, publish_tiny
from training import sources

WORDS = "the a boy girl man woman cat book house reads saw likes knows told gave"
LEARNS = ("--epochs", "4", "--lr", "3e-3", "--head-lr", "3e-3", "--batch-size", "8", "--dropout", "0")
LEARNS_NOTHING = ("--epochs", "1", "--lr", "1e-9", "--head-lr", "1e-9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, and sentences that are acceptable where a dog is in them."""
    folder = tmp_path_factory.mktemp("refresh")
    make_tiny_base(folder / "base")
    order = random.Random(0)
    words = WORDS.split()
    for name, rows in ((sources.TRAIN_FILE, 640), (sources.DEV_FILE, 120)):
        lines = []
        for _ in range(rows):
            text = [*order.choices(words, k=order.randint(3, 8))]
            label = order.randint(0, 1)
            text += ["dog"] * label
            order.shuffle(text)
            lines.append(f"made\t{label}\t\t{' '.join(text)}.\n")
        (folder / name).write_text("".join(lines), "utf-8")
    return folder


def command(folder: Path, registry: Path, *options: str) -> list[str]:
    settings = ("--dataset", str(folder), "--base-model", str(folder / "base"), "--registry", str(registry))
    runs = ("--runs", str(registry / "runs"), "--logger", "csv")
    return [sys.executable, "-m", "training.cli", "refresh", *settings, *runs, *options]


def refresh(folder: Path, registry: Path, *options: str, code: int = ExitCode.DONE) -> dict[str, Any]:
    done = subprocess.run(command(folder, registry, "--json", *options), capture_output=True, text=True, timeout=110)
    assert done.returncode == code, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A registry after its first refresh, with a version that has learned nothing."""
    registry = tmp_path_factory.mktemp("registry")
    return registry, refresh(folder, registry, *LEARNS_NOTHING)


def test_first_version_goes_live(first: tuple[Path, dict[str, Any]]) -> None:
    registry, result = first

    assert result["promoted"] is True
    assert result["version"] == Registry(registry).current()


def test_better_version_goes_live_and_a_worse_one_does_not(folder: Path, first: tuple[Path, dict[str, Any]]) -> None:
    registry = first[0]
    store = Registry(registry)

    better = refresh(folder, registry, *LEARNS)
    champion = store.current()
    worse = refresh(folder, registry, *LEARNS_NOTHING)
    strict = refresh(folder, registry, *LEARNS_NOTHING, "--strict", code=ExitCode.GATE_REFUSED)

    assert (better["promoted"], better["version"], better["previous"]) == (True, champion, first[1]["version"])
    assert better["numbers"]["challenger"]["mcc"] > 0.8
    assert [run["promoted"] for run in (worse, strict)] == [False, False]
    assert "not above" in worse["reason"]
    assert store.current() == champion
    assert len(store.versions()) == 4, "a version that was refused is there to be looked at"
    assert [entry.action for entry in store.history()] == ["promote", "promote", "refuse", "refuse"]


def test_refresh_that_cannot_tell_what_was_live_fits_nothing(folder: Path, tmp_path: Path) -> None:
    """Hours of fitting would end in a version that nothing can be compared with, live or not."""
    store = Registry(tmp_path / "registry")
    first = publish_tiny(store.root)
    (store.root / "current").unlink()

    done = subprocess.run(command(folder, store.root, *LEARNS_NOTHING), capture_output=True, text=True, timeout=110)

    assert done.returncode == ExitCode.NO_SUCH_VERSION, done.stderr
    assert f"is gone, which named {first}: `training rollback` brings that back" in done.stderr.splitlines()[-1]
    assert store.versions() == [first]


def test_output_says_whether_it_was_promoted(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(folder, tmp_path, *LEARNS_NOTHING, "--quiet"), capture_output=True, text=True, timeout=110
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    version = Registry(tmp_path).current()
    assert done.stdout.splitlines()[:2] == [f"version: {version}", "promoted: true"]


def test_second_refresh_says_who_is_at_work(folder: Path, tmp_path: Path) -> None:
    from training.config import FitConfig
    from training.refresh import refresh as run_refresh

    with Mark(tmp_path / ".refreshing", stale_s=60):
        result = run_refresh(FitConfig(dataset=str(folder), registry=tmp_path), wait_s=0.2)

    assert (result.version, result.promoted) == (None, False)
    assert f"process {os.getpid()} on " in result.reason
    assert Registry(tmp_path).versions() == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_refresh_that_was_ended_leaves_nothing_half_done(folder: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """A node that goes away in mid-fit: what is live stays, and the next refresh is not kept out."""
    process = start(folder, tmp_path, "--epochs", "1000")
    until(lambda: list(tmp_path.rglob("metrics.csv")), timeout_s=60, what="a fit under way")

    process.send_signal(sent)
    process.wait(timeout=30)

    assert process.returncode in {-sent, 128 + sent}
    assert Registry(tmp_path).versions() == []
    assert (tmp_path / ".refreshing").exists() is (sent == signal.SIGKILL)


def test_refresh_goes_on_where_a_killed_one_stopped(folder: Path, tmp_path: Path) -> None:
    """A fit of hours need not begin again because its node went away; another fit does not take its place."""
    options = ("--epochs", "30", "--lr", "1e-3", "--checkpoint-every", "0.1s", "--warm-start")
    process = start(folder, tmp_path, *options)
    until(lambda: list(tmp_path.rglob("resume.ckpt")), timeout_s=60, what="a checkpoint")
    process.kill()
    process.wait()

    other = subprocess.run(command(folder, tmp_path, *LEARNS_NOTHING), capture_output=True, text=True, timeout=110)
    done = subprocess.run(command(folder, tmp_path, *options[:-1]), capture_output=True, text=True, timeout=110)

    assert (other.returncode, done.returncode) == (0, 0), done.stderr
    assert "fit resumes" not in other.stderr
    assert "fit resumes" in done.stderr


def start(folder: Path, registry: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(folder, registry, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
