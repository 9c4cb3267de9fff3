"""How ``training`` ends when a signal comes, when its reader goes away and when the disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scorequeue.registry import Registry
from tests.shell import hear_signals
from tests.tiny import make_tiny_base, publish_tiny, rows_that_suit
from training.quiet import quiet_libraries

TRAINING = [sys.executable, "-m", "training.cli"]

INTERRUPTED_IMPORT = """
import os, signal, sys

_, module, sent, *arguments = sys.argv

class Interruption:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), getattr(signal, sent))

sys.meta_path.insert(0, Interruption())
sys.argv = ["training", *arguments]
from training.cli import main
main()
"""
"""``training`` in a process that gets a signal as it imports a module."""

MODULES = [
    "click",
    "torch",
    "torch.optim",
    "torchmetrics",
    "transformers.models.bert.modeling_bert",
    "pytorch_lightning",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, and a registry of two versions that know their rows."""
    folder = tmp_path_factory.mktemp("made")
    make_tiny_base(folder / "tiny")
    with quiet_libraries():
        rows = rows_that_suit(0)
        for seed in (1, 0):
            publish_tiny(folder / "registry", seed=seed, rows=rows)
    return folder


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_a_signal_in_an_import_ends_a_fit_as_any_other_moment(sent: str, module: str, made: Path) -> None:
    """Libraries catch what an import raises and make another error of it, which a scheduler would not try again."""
    arguments = ["fit", "--dataset", "sample", "--base-model", "tiny", "--registry", "none", "--runs", "no-runs"]

    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, sent, *arguments],
        cwd=made,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=hear_signals,
    )

    assert (done.returncode, done.stdout) == (128 + getattr(signal, sent), ""), done.stderr
    assert done.stderr.strip() in ("", "interrupted; nothing was published")
    assert not (made / "none").exists()


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_an_ignored_signal_stays_ignored(sent: str, made: Path) -> None:
    """A shell's background job must not end with the Ctrl-C that is meant for another."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, "click", sent, "list", "--registry", "registry"],
        cwd=made,
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(getattr(signal, sent), signal.SIG_IGN),
    )

    assert done.returncode == 0


@pytest.mark.parametrize("command", ["--help", "list", "list --json", "show", "diff", "evaluate"])
def test_a_reader_that_goes_away_is_told_as_a_pipe_is(command: str, made: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = run(command, made, stdout=output)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", ["--help", "list", "show", "diff", "evaluate", "promote", "refresh"])
def test_a_full_disk_below_stdout_is_one_line(command: str, made: Path) -> None:
    """It is no bug of ours, and nobody should look for a trace."""
    with Path("/dev/full").open("wb") as output:
        done = run(command, made, stdout=output)

    assert (done.returncode, done.stderr) == (
        2,
        "Error: standard output cannot be written: No space left on device\n",
    )


def run(command: str, made: Path, *, stdout: object) -> subprocess.CompletedProcess[str]:
    """Run a command on the registry with its standard output somewhere."""
    registry = Registry(made / "registry")
    arguments = {
        "--help": [],
        "diff": [*registry.versions()],
        "evaluate": ["current", "--dataset", "sample", "--quiet"],
        "promote": [str(registry.current()), "--quiet"],
        "refresh": ["--dataset", "sample", "--base-model", "tiny", "--fast-dev-run", "--quiet"],
    }.get(command, [])
    registry_option = [] if command == "--help" else ["--registry", "registry"]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*TRAINING, *command.split(), *arguments, *registry_option],
        cwd=made,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_registry_that_is_a_file_is_wrong_usage(command: str, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")

    done = subprocess.run(
        [*TRAINING, command, "--registry", "data.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.splitlines()[-1]
        == "Error: Invalid value for '--registry' (env var: 'SCOREQUEUE_REGISTRY'): Directory 'data.csv' is a file."
    )
