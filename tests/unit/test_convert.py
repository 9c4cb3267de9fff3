from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scorequeue.errors import ConversionStoppedError, VerificationError
from tests.tiny import make_tiny_base
from worker.backends import checkpoint, convert
from worker.device import choosing
from worker.device.choosing import open_backend

DEADLINE_S = 60.0
NOBODY = 65534

LOAD = """
import sys
from pathlib import Path
from worker.backends import convert
with convert.converted(Path(sys.argv[1]), Path(sys.argv[2]), max_length=64): pass
"""

LOAD_AS_ANOTHER_USER = f"""
import os, sys, tempfile
from pathlib import Path
from worker.backends import convert
def stub(folder, target, max_length):
    for name in ("model.xml", "model.bin"): (target / name).write_text("theirs")
convert._convert = stub  # that user need not be able to run this Python
convert.fingerprint(Path(sys.argv[1]))  # what it imports may be out of reach, too
os.setgid({NOBODY}), os.setuid({NOBODY})
with convert.converted(Path(sys.argv[1]), Path(sys.argv[2]), max_length=64) as ready:
    print(ready.name, (ready / "model.bin").read_text())
print(ready.exists())
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or mount a small disk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go in this test."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may enter and write to, which those of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="scorequeue-test-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def convert_to(cache: Path, folder: Path) -> Path:
    with convert.converted(folder, cache, max_length=64) as ready:
        return ready


def write(target: Path, text: str) -> None:
    """Convert in no time."""
    for name in (convert.MODEL_FILE, "model.bin"):
        (target / name).write_text(text)


def actions(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    found = [vars(record)["scorequeue_fields"] for record in caplog.records if "scorequeue_fields" in vars(record)]
    return {fields["action"]: fields for fields in found}


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_slower_of_two_converters_takes_the_model_of_the_faster(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    """Its own would be as good, but to put it there it would take away what the other one is about to open."""
    if is_damaged:
        monkeypatch.setattr(convert, "_convert", lambda folder, target, _: write(target, "old"))
        (convert_to(tmp_path, folder) / "model.bin").write_text("damaged")

    def be_overtaken(folder: Path, target: Path, max_length: int) -> None:
        monkeypatch.setattr(convert, "_convert", lambda folder, target, _: write(target, "faster"))
        assert (convert_to(tmp_path, folder) / "model.bin").read_text() == "faster"
        write(target, "slower")

    monkeypatch.setattr(convert, "_convert", be_overtaken)

    ready = convert_to(tmp_path, folder)

    assert ready.name == convert.fingerprint(folder)
    assert (ready / "model.bin").read_text() == "faster"
    assert [path.name for path in ready.parent.iterdir()] == [ready.name]


def test_processes_that_convert_at_the_same_time_all_load(folder: Path, tmp_path: Path) -> None:
    """Replicas with one cache start together."""
    command = [sys.executable, "-c", LOAD, str(folder), str(tmp_path)]
    loading = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    ends = [(process.communicate(timeout=DEADLINE_S)[1], process.returncode) for process in loading]

    assert [status for _, status in ends] == [0, 0], ends
    assert [path.name for path in (tmp_path / "openvino").iterdir()] == [convert.fingerprint(folder)]


def test_what_was_left_half_made_goes_after_an_hour(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed while it converts leaves it. A younger folder may be a conversion that is under way."""
    monkeypatch.setattr(convert, "_convert", lambda folder, target, _: write(target, "model"))
    kept = convert_to(tmp_path, folder)
    old, young = (kept.with_name(convert.MAKING + name) for name in ("old", "young"))
    for path in (old, young):
        path.mkdir()
        (path / "model.bin").touch()
    os.utime(old, (time.time() - convert.ABANDONED_S - 60,) * 2)

    convert_to(tmp_path, folder)

    assert sorted(kept.parent.iterdir()) == sorted([kept, young])


def test_an_old_model_that_another_worker_removes_meanwhile_is_no_error(tmp_path: Path) -> None:
    for number in range(convert.KEPT + 2):
        (tmp_path / f"{number:032x}").mkdir()
    (tmp_path / "f").symlink_to("gone")  # listed, and not there when it is looked at

    convert._forget_old(tmp_path)

    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) <= convert.KEPT


@needs_root
@pytest.mark.parametrize("is_seen_beforehand", [True, False])
def test_a_full_disk_costs_a_conversion_only(
    folder: Path,
    small_disk: Callable[[int], Path],
    temporary: Path,
    caplog: pytest.LogCaptureFixture,
    is_seen_beforehand: bool,
) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    disk = small_disk(weights // 2 if is_seen_beforehand else weights + 16_384)

    with convert.converted(folder, disk, max_length=64) as ready:
        assert ready.parent == temporary
        assert (ready / "model.bin").stat().st_size > 0
        assert not list((disk / "openvino").iterdir()), "its room may be needed"

    assert not list(temporary.iterdir())
    error = actions(caplog)["cache_unwritable"]["error"]
    assert ("bytes are needed" if is_seen_beforehand else "could not write the model") in error


@needs_root
def test_no_room_anywhere_is_said(
    folder: Path,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="worker.device.choosing")
    monkeypatch.setattr(choosing, "has_nvidia_driver", lambda: False)
    disk = small_disk(4_096)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))

    backend = open_backend(folder, backend="auto", device="auto", dtype="float32", cache_dir=disk, max_length=64)

    assert backend.name == "torch"
    assert "make room in one of them" in actions(caplog)["backend_chosen"]["why"]
    assert "conversion_stopped" in actions(caplog)
    assert [path.name for path in disk.rglob("*")] == ["openvino"]


def test_a_model_is_there_for_everyone_who_shares_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_convert", lambda folder, target, _: write(target, "model"))
    before = os.umask(0o022)
    try:
        kept = convert_to(tmp_path, folder)
    finally:
        os.umask(before)

    assert stat.S_IMODE(kept.stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize(
    ("rights", "lent"),
    [(0o755, "kept"), (0o700, "own"), (None, "own")],
    ids=["readable", "unreadable", "none kept, and no right to keep one"],
)
def test_another_user_loads_what_is_kept_or_makes_a_model_for_itself(
    shared: Path, monkeypatch: pytest.MonkeyPatch, rights: int | None, lent: str
) -> None:
    """An init container and a worker, or a shell for a look, need not be the same user."""
    folder = make_tiny_base(shared / "model")
    (folder / "model.safetensors").chmod(0o644)  # a registry's files are
    monkeypatch.setattr(convert, "_convert", lambda folder, target, _: write(target, "ours"))
    kept = convert_to(shared / "cache", folder)
    if rights is None:
        shutil.rmtree(kept)
        kept.parent.chmod(0o755)
    else:
        kept.chmod(rights)
        kept.parent.chmod(0o777)
    before = sorted(kept.parent.iterdir())

    command = [sys.executable, "-c", LOAD_AS_ANOTHER_USER, str(folder), str(shared / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(shared)})

    assert done.returncode == 0, done.stderr
    loaded, is_left = done.stdout.splitlines()
    if lent == "kept":
        assert (loaded, is_left) == (f"{kept.name} ours", "True")
    else:
        assert (loaded.split()[-1], is_left) == ("theirs", "False")
    assert sorted(kept.parent.iterdir()) == before
    assert not list(shared.glob("scorequeue-openvino-*"))


def test_an_error_without_words_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MemoryError has none. It says nothing about the folder."""

    def run_out(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint.AutoModelForSequenceClassification, "from_pretrained", run_out)

    with pytest.raises(VerificationError, match="does not load in transformers: MemoryError"):
        checkpoint.load_classifier(folder, dtype=torch.float32)
    with pytest.raises(ConversionStoppedError, match="not enough memory"):
        convert_to(tmp_path, folder)
    assert not list((tmp_path / "openvino").iterdir())
