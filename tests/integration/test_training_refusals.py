"""What is not whole is refused with the name of the file, by every command that could put it live."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.tiny import make_tiny_base, publish_tiny, rows_that_suit
from training.quiet import quiet_libraries


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose second version is current and whose third is better than both."""
    registry = Registry(tmp_path_factory.mktemp("made") / "registry")
    with quiet_libraries():
        rows = rows_that_suit(0)
        first, second, _ = (publish_tiny(registry.root, seed=seed, rows=rows) for seed in (2, 1, 0))
    registry.promote(second, expected=first, why="better")
    return registry.root


@pytest.fixture
def registry(made: Path, tmp_path: Path) -> Registry:
    return Registry(shutil.copytree(made, tmp_path / "registry"))


def error(registry: Registry, *arguments: str, code: ExitCode) -> str:
    """Run a command that must fail with one line; return the line."""
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", *arguments, "--registry", str(registry.root)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def corrupt(folder: Path) -> Path:
    """Turn one bit of the weights."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def cut_off(folder: Path) -> Path:
    """As a copy by hand that broke off leaves it."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return file


def half_write(folder: Path) -> Path:
    """Weights and tokenizer had not come yet."""
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).unlink()
    return folder / "model.safetensors"


def lose_the_manifest(folder: Path) -> Path:
    (folder / "manifest.json").unlink()
    return folder / "manifest.json"


def lose_the_label_map(folder: Path) -> Path:
    """In the checksums too, as if it had been published so."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["id2label"]
    file.write_text(json.dumps(config))
    return _list_anew(file)


def add_pickled_weights(folder: Path) -> Path:
    """torch would unpickle them, and that runs code."""
    file = folder / "pytorch_model.bin"
    file.write_bytes(b"\x80\x04N.")
    return _list_anew(file)


def _list_anew(file: Path) -> Path:
    from scorequeue.folders import hash_file

    manifest = json.loads((file.parent / "manifest.json").read_text())
    manifest["files"][file.name] = hash_file(file)
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    return file


DAMAGES = [corrupt, cut_off, half_write, lose_the_manifest, lose_the_label_map, add_pickled_weights]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_version_never_goes_live(registry: Registry, damage: Callable[[Path], Path]) -> None:
    """Not by promote, not by force, not by rollback; show says what is wrong."""
    first, second, third = registry.versions()
    file, way_back = damage(registry.path(third)), damage(registry.path(first))

    lines = [
        error(registry, "promote", third, code=ExitCode.NO_SUCH_VERSION),
        error(registry, "promote", third, "--force", "--why", "now", code=ExitCode.NO_SUCH_VERSION),
        error(registry, "show", third, code=ExitCode.NO_SUCH_VERSION),
    ]

    assert all(str(file) in line for line in lines), lines
    assert str(way_back) in error(registry, "rollback", code=ExitCode.NO_SUCH_VERSION)
    assert registry.current() == second
    registry.verify(second)
    assert len(registry.history()) == 2


def no_label_map(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "yes", "1": "yes"}}
    (folder / "config.json").write_text(json.dumps(config))
    return "labels should be distinct"


def pickle_alone(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return "pytorch_model.bin (pickle can run code)"


def half_a_folder(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "no config.json"


def broken_weights(folder: Path) -> str:
    cut_off(folder)
    return "does not load"


@pytest.mark.parametrize(
    "damage", [no_label_map, pickle_alone, half_a_folder, broken_weights], ids=lambda damage: damage.__name__
)
def test_damaged_folder_is_not_imported(registry: Registry, tmp_path: Path, damage: Callable[[Path], str]) -> None:
    folder = make_tiny_base(tmp_path / "checkpoint")
    reason = damage(folder)
    before = registry.versions()

    line = error(registry, "import", str(folder), code=ExitCode.USAGE)

    assert str(folder) in line
    assert reason in line
    assert registry.versions() == before
