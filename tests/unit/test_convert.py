"""Converted models on disk: made once, shared by workers, and never in the way."""

from __future__ import annotations

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

from scorequeue.errors import VerificationError
from tests.tiny import make_tiny_base
from worker.backends import checkpoint, convert

DEADLINE_S = 60.0
NOBODY = 65534

LOAD = """
import sys
from pathlib import Path
from worker.backends import convert
convert.converted(Path(sys.argv[1]), Path(sys.argv[2]), max_length=64)
"""

LOAD_AS_ANOTHER_USER = f"""
import os, sys
from pathlib import Path
from worker.backends import convert
convert._traced = lambda folder, max_length: "theirs"  # that user need not be able to run this Python
def save(model, path, **options): [path.with_suffix(end).write_text(model) for end in (".xml", ".bin")]
convert.openvino.save_model = save
convert.fingerprint(Path(sys.argv[1]))  # what it imports may be out of reach, too
os.setgid({NOBODY}), os.setuid({NOBODY})
print(convert.converted(Path(sys.argv[1]), Path(sys.argv[2]), max_length=64))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or mount a small disk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may enter and write to, which those of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="scorequeue-test-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def convert_to(cache: Path, folder: Path) -> Path:
    """Convert or find a model; returns where it is kept."""
    assert convert.converted(folder, cache, max_length=64) is not None
    return cache / "openvino" / convert.fingerprint(folder)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_slower_of_two_workers_keeps_the_model_of_the_faster(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    """Its own would be as good, but to put it there it would take away what the other one is about to open."""
    kept = convert_to(tmp_path, folder)
    (kept / "model.bin").write_text("damaged")
    if not is_damaged:
        shutil.rmtree(kept)
    traced = convert._traced

    def be_overtaken(folder: Path, max_length: int) -> Any:
        monkeypatch.setattr(convert, "_traced", traced)
        convert_to(tmp_path, folder)
        (kept / "from").write_text("the faster one")
        return traced(folder, max_length)

    monkeypatch.setattr(convert, "_traced", be_overtaken)

    convert_to(tmp_path, folder)

    assert (kept / "from").read_text() == "the faster one"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_processes_that_convert_at_the_same_time_all_load(folder: Path, tmp_path: Path) -> None:
    """Replicas with one cache start together."""
    command = [sys.executable, "-c", LOAD, str(folder), str(tmp_path)]
    loading = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    ends = [(process.communicate(timeout=DEADLINE_S)[1], process.returncode) for process in loading]

    assert [status for _, status in ends] == [0, 0], ends
    assert [path.name for path in (tmp_path / "openvino").iterdir()] == [convert.fingerprint(folder)]


def test_what_was_left_half_made_goes_after_an_hour(folder: Path, tmp_path: Path) -> None:
    """A worker that is killed while it writes leaves it. A younger folder may be another one's that writes now."""
    kept = convert_to(tmp_path, folder)
    old, young = (kept.with_name(convert._MAKING + name) for name in ("old", "young"))
    for path in (old, young):
        path.mkdir()
        (path / "model.bin").touch()
    os.utime(old, (time.time() - convert.ABANDONED_S - 60,) * 2)
    shutil.rmtree(kept)

    convert_to(tmp_path, folder)

    assert sorted(kept.parent.iterdir()) == sorted([kept, young])


@needs_root
def test_a_full_disk_costs_a_conversion_only(
    folder: Path, small_disk: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    disk = small_disk(16_384)

    convert_to(disk, folder)

    assert not list((disk / "openvino").iterdir()), "its room may be needed"
    (record,) = [record for record in caplog.records if "scorequeue_fields" in vars(record)]
    assert vars(record)["scorequeue_fields"]["action"] == "cache_unwritable"


def test_a_model_is_there_for_everyone_who_shares_the_cache(folder: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        kept = convert_to(tmp_path, folder)
    finally:
        os.umask(before)

    assert stat.S_IMODE(kept.stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize(
    ("rights", "lent"),
    [(0o755, "ours"), (0o700, "theirs"), (None, "theirs")],
    ids=["readable", "unreadable", "none kept, and no right to keep one"],
)
def test_another_user_loads_what_is_kept_or_makes_a_model_for_itself(
    shared: Path, rights: int | None, lent: str
) -> None:
    """An init container and a worker, or a shell for a look, need not be the same user."""
    folder = make_tiny_base(shared / "model")
    (folder / "model.safetensors").chmod(0o644)  # a registry's files are
    kept = convert_to(shared / "cache", folder)
    if rights is None:
        shutil.rmtree(kept)
        kept.parent.chmod(0o755)
    else:
        kept.chmod(rights)
        kept.parent.chmod(0o777)
    before = sorted(kept.parent.iterdir())

    command = [sys.executable, "-c", LOAD_AS_ANOTHER_USER, str(folder), str(shared / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip() == "theirs") == (lent == "theirs")
    assert sorted(kept.parent.iterdir()) == before


def test_an_error_without_words_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MemoryError has none."""

    def run_out(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint.AutoModelForSequenceClassification, "from_pretrained", run_out)

    with pytest.raises(VerificationError, match="does not load in transformers: MemoryError"):
        checkpoint.load_classifier(folder, dtype=torch.float32)
