"""Fits that are killed: what a resumed one publishes is what an unbroken one would have."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.processes import until
from tests.tiny import make_tiny_base
from training import sample
from training.sources import DEV_FILE, TRAIN_FILE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

KILLS = 3
OFTEN = ("--checkpoint-every", "0.1s")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    make_tiny_base(folder / "base")
    for name, rows in zip((TRAIN_FILE, DEV_FILE), sample.make(seed=0, train_pairs=300, dev_pairs=30), strict=True):
        (folder / name).write_text("".join(f"made\t{label}\t\t{text}\n" for text, label in rows), "utf-8")
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "training.cli", "fit", *arguments]


def settings(material: Path) -> list[str]:
    return [
        *("--dataset", str(material), "--base-model", str(material / "base"), "--epochs", "5", "--lr", "1e-3"),
        *("--batch-size", "8", "--precision", "32-true", *OFTEN),
    ]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=200)


@contextmanager
def start(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as on a terminal
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def count_checkpoints(cwd: Path) -> int:
    """Something that changes with each checkpoint: the newest one's time, in ns."""
    return max((file.stat().st_mtime_ns for file in cwd.glob("runs/*/checkpoints/resume.ckpt")), default=0)


def wait_for_checkpoints(number: int, *, cwd: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(number):
        before = count_checkpoints(cwd)
        until(
            lambda before=before: count_checkpoints(cwd) != before or process.poll() is not None,
            timeout_s=100,
            what="a checkpoint",
        )


def read_version(cwd: Path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    registry = Registry(cwd / ".scorequeue" / "registry")
    (version,) = registry.versions()
    return registry.verify(version).metrics, load_file(registry.path(version) / "model.safetensors")


def test_a_fit_killed_at_any_moment_ends_as_an_unbroken_one(material: Path, tmp_path: Path) -> None:
    """Promise: same metrics and weights within 1e-6, and nothing in the registry before the end."""
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    unbroken.mkdir()
    killed.mkdir()
    done = run(*settings(material), cwd=unbroken)
    assert done.returncode == ExitCode.DONE, done.stderr
    moments = random.Random(0)
    kills = 0

    arguments = settings(material)
    for _ in range(KILLS):
        with start(*arguments, cwd=killed) as process:
            wait_for_checkpoints(moments.randint(1, 2), cwd=killed, process=process)
            time.sleep(moments.uniform(0, 0.15))  # a random moment is what is tested
            kills += process.poll() is None
            process.kill()
            process.wait()
        assert not (killed / ".scorequeue").exists()
        arguments = ["--resume", *OFTEN]
    done = run("--resume", cwd=killed)

    assert done.returncode == ExitCode.DONE, done.stderr
    assert kills == KILLS
    metrics, weights = read_version(unbroken)
    found_metrics, found_weights = read_version(killed)
    assert found_metrics == pytest.approx(metrics, abs=1e-6)
    assert found_weights.keys() == weights.keys()
    assert max(float((weights[name] - found_weights[name]).abs().max()) for name in weights) <= 1e-6
    assert len(list((killed / "runs").iterdir())) == 1


def test_an_interrupted_fit_says_how_to_go_on(material: Path, tmp_path: Path) -> None:
    stop(signal.SIGINT, material, cwd=tmp_path)

    (folder,) = (tmp_path / "runs").iterdir()
    refused = run("--resume", f"runs/{folder.name}", "--epochs", "9", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (ExitCode.USAGE, "")
    assert "--epochs is 9, but" in refused.stderr
    done = run("--resume", f"runs/{folder.name}", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    again = run("--resume", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (ExitCode.USAGE, "")
    assert "there is nothing to resume in runs" in again.stderr


@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_terminated_fit_is_an_interrupted_one(devices: str, material: Path, tmp_path: Path) -> None:
    """A pod that is evicted gets SIGTERM; exit code 0 would tell its CronJob that a version is out."""
    stop(signal.SIGTERM, material, "--devices", devices, cwd=tmp_path)

    assert not (tmp_path / ".scorequeue").exists()


def test_a_runs_folder_that_is_removed_is_named_as_what_ended_the_fit(material: Path, tmp_path: Path) -> None:
    """Somebody cleans up; each logger would end the fit with a trace of its own."""
    with start(*settings(material), "--quiet", cwd=tmp_path) as process:
        wait_for_checkpoints(1, cwd=tmp_path, process=process)
        (folder,) = (tmp_path / "runs").iterdir()
        folder.rename(tmp_path / "removed")  # at one blow; rmtree would race with what is written
        output, errors = process.communicate(timeout=100)

    assert (process.returncode, output) == (ExitCode.UNEXPECTED, "")
    # TensorBoard's thread, which writes its file, says something of its own before or after.
    assert f"\nError: runs/{folder.name} is gone; somebody removed it" in f"\n{errors}"
    assert "please report it" not in errors
    assert not (tmp_path / ".scorequeue").exists()


def stop(signum: signal.Signals, material: Path, *arguments: str, cwd: Path) -> None:
    """Send a fit with all its processes a signal in mid-training, and see it end as it should."""
    with start(*settings(material), *arguments, cwd=cwd) as process:
        wait_for_checkpoints(1, cwd=cwd, process=process)
        os.killpg(process.pid, signum)
        output, errors = process.communicate(timeout=60)
    (folder,) = (cwd / "runs").iterdir()
    assert process.returncode == 128 + signum
    assert output == ""
    assert errors.splitlines()[-1] == (
        f"interrupted; nothing was published; go on with: training fit --resume runs/{folder.name}"
    )
