"""``worker bench`` on a tiny model: every way of running it is measured, compared and kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from scorequeue.errors import ExitCode
from tests.tiny import publish_tiny
from worker import bench
from worker.backends import DeviceFullError
from worker.bench import Measured, table_of
from worker.cli import cli
from worker.device import sweep
from worker.device.sweep import Point

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
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the command's own writes to a stream that is closed then

    def run(*args: str):  # type: ignore[no-untyped-def]
        where = ["--registry", str(folder / "registry"), "--cache-dir", str(folder / "cache")]
        return CliRunner().invoke(cli, ["bench", *where, *args])

    return run


def test_backends_are_compared_and_their_budgets_kept(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("--json", "--sentences", str(folder / "in.txt"))

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


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (("--backend", "openvino", "--dtype", "float16"), "openvino float16: "),
        (("--backend", "openvino", "--device", "cuda"), "openvino float32: openvino runs on the CPU, not on cuda"),
    ],
)
def test_what_was_named_and_cannot_run_is_listed_and_no_success(run, named: tuple[str, ...], why: str) -> None:  # type: ignore[no-untyped-def]
    """A script would take the reference's figures for those that it asked for."""
    done = run(*named)

    assert done.exit_code == ExitCode.USAGE, done.output
    assert why in done.stdout
    assert "the reasons are above" in done.stderr


def test_one_of_several_ways_that_cannot_run_is_no_failure(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--dtype", "bfloat16", "--json", "--quiet")

    assert done.exit_code == 0, done.output
    ways = {(way["backend"], way["dtype"]): way["failed"] for way in json.loads(done.stdout)}
    assert ways.keys() == {("torch", "float32"), ("torch", "bfloat16"), ("openvino", "bfloat16")}
    assert ways["torch", "bfloat16"] is None


def test_a_device_without_memory_for_a_way_costs_that_way_only(run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def full(*args: object, **options: object) -> None:
        raise DeviceFullError("CUDA out of memory")

    monkeypatch.setattr(bench, "score_all", full)

    done = run("--backend", "torch")

    assert done.exit_code == ExitCode.USAGE
    assert "torch float32: CUDA out of memory" in done.stdout


def test_the_fake_backend_has_no_speed(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--backend", "fake")

    assert done.exit_code == ExitCode.USAGE
    assert "name torch or openvino" in done.stderr


def test_logs_are_as_asked_for(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--backend", "torch", "--log-format", "json")
    quiet = run("--backend", "torch", "--log-level", "error", "--quiet")

    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert "version_ready" in [line["action"] for line in logged]
    assert quiet.stderr == ""


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
