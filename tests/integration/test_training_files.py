"""A team's own file of sentences and labels, from the command line to a version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.tiny import make_tiny_base

LABELS = ("calm", "cross", "glad")


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, a file of three labels and one faulty row, and a config that names them."""
    folder = tmp_path_factory.mktemp("files")
    make_tiny_base(folder / "base")
    rows = [f'{row},"The ""dog"" number {row}, slept.",{LABELS[row % 3]}' for row in range(150)]
    (folder / "moods.csv").write_text("\n".join(["idx,body,mood", *rows, "150,,calm"]), "utf-8")
    (folder / "nightly.yaml").write_text(
        "dataset: moods.csv\ntext_field: body\nlabel_field: mood\nbase_model: base\nepochs: 3\nmax_length: 32\n"
    )
    return folder


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.cli", *arguments],
        cwd=cwd,
        env=os.environ | {"SCOREQUEUE_FIT_EPOCHS": "2", "SCOREQUEUE_FIT_BATCH_SIZE": "16"},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_a_config_fits_a_file_of_any_labels(cwd: Path) -> None:
    """Options win over variables, those over the file; the manifest keeps what came of it."""
    done = run("fit", "--config", "nightly.yaml", "--batch-size", "8", cwd=cwd)

    assert done.returncode == ExitCode.DONE, done.stderr
    assert "1 of 151 rows left out: moods.csv:152 has no text" in done.stderr
    manifest = Registry(cwd / ".scorequeue/registry").manifest(done.stdout.strip())
    assert manifest.labels == LABELS
    settings = manifest.training_config
    assert (settings["batch_size"], settings["epochs"], settings["lr"], settings["text_field"]) == (8, 2, 1e-4, "body")
    data = manifest.dataset
    assert data["train_rows"] + data["dev_rows"] == 150
    assert data["fields"] == {"text": "body", "label": "mood"}
    assert data["left_out"] == {"faulty": 1}
    assert sum(data["dev_labels"].values()) == data["dev_rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "moods.csv"], "moods.csv: no column tells that it holds the texts"),
        (["--config", "weekly.yaml"], "no config 'weekly.yaml'"),
    ],
)
def test_what_does_not_fit_is_one_line(cwd: Path, arguments: list[str], message: str) -> None:
    done = run("fit", "--quiet", *arguments, cwd=cwd)

    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
