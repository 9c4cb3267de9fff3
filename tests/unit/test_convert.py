"""Converted models on disk: kept once, safe beside other processes, and never a reason not to start."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scorequeue.errors import ConversionError, VerificationError
from tests.tiny import make_tiny_base
from worker.backends import convert
from worker.backends import torch as torch_backend
from worker.backends.convert import openvino

LOAD = """
import sys
from pathlib import Path
from worker.backends.convert import converted
print(len(converted(Path(sys.argv[1]), Path(sys.argv[2]), max_length=64).get_ops()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Path]:
    """Convert in no time; the folders that were converted."""
    model = convert._traced(folder, 64)
    asked: list[Path] = []
    monkeypatch.setattr(convert, "_traced", lambda folder, _: asked.append(folder) or model)
    return asked


def kept_in(cache: Path) -> list[Path]:
    return sorted((cache / "openvino").iterdir())


def actions(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    found = [vars(record)["scorequeue_fields"] for record in caplog.records if "scorequeue_fields" in vars(record)]
    return {fields["action"]: fields for fields in found}


def test_a_model_is_converted_once(folder: Path, tmp_path: Path, traced: list[Path]) -> None:
    for _ in range(2):
        model = convert.converted(folder, tmp_path, max_length=64)
        assert openvino.Core().compile_model(model, "CPU").output(0).partial_shape[1].get_length() == 2

    assert traced == [folder]
    assert [path.name for path in kept_in(tmp_path)] == [convert.fingerprint(folder)]


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"x"), lambda file: file.unlink()])
def test_a_damaged_model_is_replaced(
    folder: Path, tmp_path: Path, traced: list[Path], damage: Callable[[Path], object]
) -> None:
    convert.converted(folder, tmp_path, max_length=64)
    (kept,) = kept_in(tmp_path)
    damage(kept / "model.bin")

    convert.converted(folder, tmp_path, max_length=64)
    convert.converted(folder, tmp_path, max_length=64)

    assert len(traced) == 2
    assert kept_in(tmp_path) == [kept]


def test_processes_that_convert_at_the_same_time_all_load(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOAD, str(folder), str(tmp_path)]
    converting = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    ends = [process.communicate(timeout=60) for process in converting]

    assert [process.returncode for process in converting] == [0, 0, 0], ends
    assert len({output for output, _ in ends}) == 1
    assert [path.name for path in kept_in(tmp_path)] == [convert.fingerprint(folder)]


def test_old_models_go_and_so_does_what_a_killed_worker_left(folder: Path, tmp_path: Path, traced: list[Path]) -> None:
    """A younger half-made model may belong to a worker that lives."""
    home = tmp_path / "openvino"
    abandoned, young = home / ".making-old", home / ".making-young"
    others = [home / f"{number:032x}" for number in range(convert.KEPT + 2)]
    for path in (abandoned, young, *others):
        path.mkdir(parents=True)
    for age, path in enumerate((*others, abandoned)):
        os.utime(path, (time.time() - 3_600 - age,) * 2)

    convert.converted(folder, tmp_path, max_length=64)

    left = kept_in(tmp_path)
    assert young in left
    assert abandoned not in left
    assert home / convert.fingerprint(folder) in left
    assert len(left) == convert.KEPT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_costs_a_conversion_and_nothing_else(
    folder: Path, small_disk: Callable[[int], Path], traced: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    disk = small_disk((folder / "model.safetensors").stat().st_size // 2)

    model = convert.converted(folder, disk, max_length=64)

    assert openvino.Core().compile_model(model, "CPU").output(0).partial_shape[1].get_length() == 2
    assert "cache_unwritable" in actions(caplog)
    assert kept_in(disk) == [], "its room may be needed"


def test_a_cache_that_is_no_folder_costs_a_conversion_and_nothing_else(
    folder: Path, tmp_path: Path, traced: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    convert.converted(folder, tmp_path / "file", max_length=64)

    assert "cache_unwritable" in actions(caplog)


def test_a_model_is_there_for_everyone_who_shares_the_cache(folder: Path, tmp_path: Path, traced: list[Path]) -> None:
    before = os.umask(0o022)
    try:
        convert.converted(folder, tmp_path, max_length=64)
    finally:
        os.umask(before)

    assert stat.S_IMODE(kept_in(tmp_path)[0].stat().st_mode) == 0o755


def test_no_memory_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MemoryError has no words of its own. It says nothing about the folder."""

    def run_out(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch_backend.AutoModelForSequenceClassification, "from_pretrained", run_out)

    with pytest.raises(VerificationError, match="does not load in transformers: MemoryError"):
        torch_backend.load_classifier(folder, dtype=torch.float32)
    monkeypatch.setattr(torch_backend, "load_classifier", run_out)
    with pytest.raises(ConversionError, match="MemoryError"):
        convert.converted(folder, tmp_path, max_length=64)
