"""A fit by two processes is the fit by one, faster: the same rows a step, the same figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from scorequeue.errors import ExitCode, UsageError
from scorequeue.registry import Registry
from tests.processes import until
from tests.tiny import make_tiny_base
from training import sample
from training.data import LengthGroupedBatches, Share
from training.distributed import count_devices
from training.sources import DEV_FILE, TRAIN_FILE


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """101 training rows in batches of 10, so that the last one has a row for one process only; 27 validation rows."""
    folder = tmp_path_factory.mktemp("devices")
    make_tiny_base(folder / "base")
    for name, rows, number in zip(
        (TRAIN_FILE, DEV_FILE), sample.make(seed=0, train_pairs=60, dev_pairs=20), (101, 27), strict=True
    ):
        lines = [f"made\t{label}\t\t{text}\n" for text, label in rows[:number]]
        (folder / name).write_text("".join(lines), "utf-8")
    return folder


def command(material: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "training.cli", "fit", "--dataset", str(material), "--base-model"),
        *(str(material / "base"), "--batch-size", "10", "--lr", "1e-3", "--dropout", "0", "--precision", "32-true"),
        *arguments,
    ]


def run(material: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(material, *arguments), cwd=cwd, capture_output=True, text=True, timeout=110)


def test_two_processes_end_where_one_does(material: Path, tmp_path: Path) -> None:
    """Without dropout only the order of sums differs: a share that is weighted wrongly, or a row that is counted twice
    or not at all, would show.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, devices in ((one, "1"), (two, "2")):
        folder.mkdir()
        done = run(material, "--epochs", "2", "--devices", devices, cwd=folder)
        assert done.returncode == ExitCode.DONE, done.stderr
        assert len(done.stdout.splitlines()) == 1
        assert "Traceback" not in done.stderr

    (first,), (second,) = (Registry(folder / ".scorequeue/registry").versions() for folder in (one, two))
    registries = Registry(one / ".scorequeue/registry"), Registry(two / ".scorequeue/registry")
    weights = [
        load_file(registry.path(version) / "model.safetensors")
        for registry, version in zip(registries, (first, second), strict=True)
    ]
    # Softmax does not see the bias of keys: its gradient is rounding noise, which Adam makes as large as any other.
    names = [name for name in weights[0] if not name.endswith("key.bias")]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in names) < 1e-5
    assert registries[1].manifest(second).metrics["mcc"] == pytest.approx(
        registries[0].manifest(first).metrics["mcc"], abs=1e-6
    )
    assert read_figures(two) == [pytest.approx(figures, abs=1e-5) for figures in read_figures(one)]


def read_figures(folder: Path) -> list[list[float]]:
    (file,) = folder.glob("runs/*/csv/metrics.csv")
    header, *rows = [line.split(",") for line in file.read_text().splitlines()]
    places = [header.index(name) for name in ("step", "train_loss", "val_loss", "val_accuracy")]
    return [[float(row[place] or -1) for place in places] for row in rows]


def test_a_helper_that_dies_ends_all_with_one_error(material: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(material, "--epochs", "500", "--devices", "2", "--checkpoint-every", "0.1s"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_training(tmp_path, process)
        (helper,) = find_helpers(process.pid)
        helper.kill()
        output, errors = process.communicate(timeout=60)

    assert (process.returncode, output) == (ExitCode.UNEXPECTED, "")
    (line,) = [line for line in errors.splitlines() if " action=" not in line]
    assert line.startswith("Error: training process 1 was ended by SIGKILL; nothing was published")
    assert not (tmp_path / ".scorequeue").exists()


def test_helpers_end_with_the_main_process_and_the_run_goes_on(material: Path, tmp_path: Path) -> None:
    """A helper without its main process would hold a GPU until somebody looks."""
    with subprocess.Popen(
        command(material, "--epochs", "20", "--devices", "2", "--checkpoint-every", "0.1s"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for_training(tmp_path, process)
        (helper,) = find_helpers(process.pid)
        process.kill()

    until(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE, what="the helper's end")
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "fit", "--resume"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "fit resumes" in done.stderr


def wait_for_training(folder: Path, process: subprocess.Popen[str]) -> None:
    until(
        lambda: any(folder.glob("runs/*/checkpoints/resume.ckpt")) or process.poll() is not None,
        timeout_s=60,
        what="a checkpoint",
    )


def find_helpers(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "training.helper" in " ".join(child.cmdline())]


def test_more_processes_than_cores_are_refused() -> None:
    """They would only wait for each other, each with a copy of the model."""
    if torch.cuda.is_available():
        pytest.skip("with GPUs it is their number that counts")
    cores = len(os.sched_getaffinity(0))

    assert count_devices(cores) == cores
    with pytest.raises(UsageError, match=f"--devices {cores + 1}, but this machine has no GPU and {cores} CPU cores"):
        count_devices(cores + 1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_hold_each_row_once_and_weigh_as_the_whole(world_size: int) -> None:
    lengths = [3 + row % 17 for row in range(101)]
    shares = [
        list(LengthGroupedBatches(lengths, batch_size=10, seed=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    whole = list(LengthGroupedBatches(lengths, batch_size=10, seed=0))

    assert {len(batches) for batches in shares} == {len(whole)}
    for place, batch in enumerate(whole):
        parts = [as_share(batches[place]) for batches in shares]
        assert all(part.rows for part in parts)
        assert sorted(row for part in parts if part.weight for row in part.rows) == sorted(batch)
        for part in parts:
            if part.weight:  # each row of the batch counts as 1 / rows in the mean over processes
                assert part.weight / len(part.rows) / world_size == pytest.approx(1 / len(batch))


def as_share(batch: list[int] | Share) -> Share:
    return batch if isinstance(batch, Share) else Share(batch, 1.0)
