"""``worker bench`` on a tiny model: every way of running it is measured, compared, drawn and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scorequeue.errors import ExitCode
from tests.tiny import publish_tiny
from worker import bench, sweep
from worker.bench import Measured, table_of
from worker.cli import cli
from worker.sweep import Point

TEXTS = ["The dog slept.", "The dogs is hungry.", "Which letter did the teacher read to the children?"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    publish_tiny(path / "registry", seed=3)
    (path / "in.txt").write_text("\n".join(TEXTS))
    return path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sweep, "LARGEST_BUDGET", 1_024)
    monkeypatch.setattr(bench, "has_native_bfloat16", lambda: False)

    def run(*args: str):  # type: ignore[no-untyped-def]
        where = ["--registry", str(folder / "registry"), "--cache-dir", str(folder / "cache")]
        return CliRunner().invoke(cli, ["bench", *where, *args])

    return run


def test_backends_are_compared_and_their_budgets_kept(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("--json", "--sentences", str(folder / "in.txt"), "--plot", str(folder / "bench.png"))

    assert done.exit_code == 0, done.output
    torch, openvino = json.loads(done.stdout)
    assert [(way["backend"], way["dtype"]) for way in (torch, openvino)] == [
        ("torch", "float32"),
        ("openvino", "float32"),
    ]
    assert (torch["flips"], openvino["flips"]) == (None, 0)
    assert 0 <= openvino["largest_difference"] < 1e-4
    for way in (torch, openvino):
        assert way["rows_per_s"] > 0
        assert way["token_budget"] in [point["token_budget"] for point in way["points"]]
        assert 0 <= way["padding"] < 0.5
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((folder / "cache" / sweep.FILE_NAME).read_text())) == 2


def test_people_get_a_table_and_one_way_may_be_named(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--backend", "torch")

    assert done.exit_code == 0, done.output
    assert "openvino" not in done.stdout
    head, line = done.stdout.splitlines()[:2]
    assert head.split()[:4] == ["backend", "dtype", "budget", "rows/s"]
    assert line.split()[:2] == ["torch", "float32"]
    assert "* the budget that is taken" in done.stdout


@pytest.mark.parametrize("content", [None, "\n \n"])
def test_sentences_that_cannot_be_read_are_wrong_usage(run, tmp_path: Path, content: str | None) -> None:  # type: ignore[no-untyped-def]
    if content is not None:
        (tmp_path / "in.txt").write_text(content)

    done = run("--sentences", str(tmp_path / "in.txt"))

    assert done.exit_code == ExitCode.USAGE
    assert "expected a" in done.stderr


def test_a_way_that_cannot_run_is_a_line_and_not_the_end() -> None:
    points = (Point(256, 0.01), Point(512, 0.015))
    found = table_of(
        [
            Measured("torch", "float32", "cpu", 512, points, rows_per_s=100.0, tokens_per_s=1_000.0, padding=0.01),
            Measured("openvino", "float32", failed="no such operation"),
        ]
    )

    assert "openvino float32: no such operation" in found
    assert "512*" in found
