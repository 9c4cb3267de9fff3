"""Malformed inputs through the real commands, a real Redis and a real worker: every row is accounted for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from scorequeue.settings import Settings
from tests.bad_inputs import BAD, Bad, write_all
from tests.processes import WorkerProcess
from tests.shell import Shell
from tests.tiny import publish_tiny

REFUSED = [bad for bad in BAD if bad.refused is not None]
READ = [bad for bad in BAD if bad.refused is None]


@pytest.fixture(scope="module")
def sh(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Runs producer where the inputs are, with a worker on the fake backend."""
    folder = tmp_path_factory.mktemp("bad")
    namespace = f"bad-{uuid.uuid4().hex[:12]}"
    with contextlib.redirect_stderr(io.StringIO()):
        publish_tiny(folder / "registry")
    worker = WorkerProcess(
        folder / "worker.log",
        redis_url=redis_url,
        namespace=namespace,
        registry=folder / "registry",
        backend="fake",
    )
    with worker:
        yield Shell(write_all(), Settings(redis_url=redis_url, namespace=namespace))


def test_there_are_enough_of_them() -> None:
    assert len({bad.name for bad in BAD}) == len(BAD) >= 30


@pytest.mark.parametrize("bad", REFUSED, ids=lambda bad: bad.name)
def test_an_input_that_cannot_be_read_is_named_and_makes_no_job(sh: Shell, bad: Bad, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    before = sh("list", "--json").stdout

    done = sh("submit", bad.name, *bad.options, "--wait", "--output", str(output), code=2)

    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert bad.refused is not None
    assert bad.refused in error
    assert bad.name in error or "--encoding" in bad.options
    assert not output.exists()
    assert done.stdout == ""
    assert sh("list", "--json").stdout == before


@pytest.mark.parametrize("bad", READ, ids=lambda bad: bad.name)
def test_a_bad_row_costs_itself_only(sh: Shell, bad: Bad, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    failed = sum(len(fault.lines) for fault in bad.faults.values())

    done = sh("submit", bad.name, *bad.options, "--wait", "--output", str(output), "--json", code=8 if failed else 0)

    status = json.loads(done.stdout)
    assert (status["total"], status["scored"], status["failed"]) == (bad.rows, bad.rows - failed, failed)
    assert (status["cancelled"], status["pending"], status["state"]) == (0, 0, "completed")
    rows = [json.loads(line) for line in output.read_text().split("\n")[:-1]]
    assert [row["row"] for row in rows] == list(range(1, bad.rows + 1))
    faulty = [row for row in rows if "error" in row]
    assert Counter(row["error"]["code"] for row in faulty) == {
        code: len(fault.lines) for code, fault in bad.faults.items()
    }
    for code, fault in bad.faults.items():
        found = [row for row in faulty if row["error"]["code"] == code]
        assert [row["line"] for row in found] == list(fault.lines)
        assert {row["source"] for row in found} == {bad.name}
        assert all(fault.message in row["error"]["message"] for row in found), found


@pytest.mark.parametrize(
    ("max_failed", "code"), [("0", 8), ("1", 8), ("2", 0), ("49%", 8), ("50%", 0), ("49.9%", 8), ("100%", 0)]
)
def test_max_failed_decides_the_exit_code_and_the_results_are_there_anyway(
    sh: Shell, tmp_path: Path, max_failed: str, code: int
) -> None:
    """Two of four rows fail."""
    output = tmp_path / "out.csv"

    done = sh(
        *("submit", "blank-in-the-middle.txt", "--wait", "--join", "--output", str(output), "--max-failed", max_failed),
        code=code,
    )

    assert output.read_text().count("empty_text") == 2
    assert (f"2 of 4 rows failed, more than --max-failed {max_failed}" in done.stderr) == bool(code)


def test_several_bad_inputs_are_one_job_that_names_each(sh: Shell) -> None:
    done = sh(*("submit", "numbe*.parquet", "null.jsonl", "too-few-fields.csv", "--wait", "--format", "jsonl"), code=8)

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["source"], row["line"]) for row in rows if "error" in row] == [
        ("numbers.parquet", 1),
        ("numbers.parquet", 2),
        ("null.jsonl", 2),
        ("too-few-fields.csv", 2),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(sh: Shell, tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("One.\n")
    path.chmod(0)

    assert "no permission to read it" in sh.error("submit", str(path), code=2)
