"""submit --dry-run as people run it; no Redis is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scorequeue.settings import Settings
from tests.shell import Shell


@pytest.fixture
def sh(tmp_path: Path) -> Shell:
    """A shell whose Redis does not answer: a dry run must not ask it."""
    return Shell(tmp_path, Settings(redis_url="redis://127.0.0.1:1/0", namespace="nobody"))


BAD = "id,text\na,Who did you see?\nb,\na,Who you did \x1b[31msee?\nd,x,y\n"


def test_the_report_is_a_plain_table_and_submits_nothing(sh):
    sh.write("in.csv", BAD)

    done = sh("submit", "in.csv", "--dry-run", "--max-failed", "2")

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "rows        4 = 2 good + 2 faulty, 1 of them blank",
        "input       in.csv: csv, 4 rows, 60 bytes, text field 'text', id field 'id'",
        "chunks      1 of up to 256 rows, in lane express",
        "text        37 bytes of UTF-8 in the good rows",
        "ids         1 of 3 had been there before",
        "",
        "fault        rows  first at",
        "empty_text      1  in.csv line 3",
        "invalid_csv     1  in.csv line 5",
        "",
        "length      least  median  mean  95 %  most",
        "characters     16      16  18.5    21    21",
        "words           4       4   4.0     4     4",
        "",
        "characters  rows",
        "  16 to 31     2  ########################################",
        "",
        "row  line  characters  the longest begin",
        "  3     4          21  Who you did \\x1b[31msee?",
        "  1     2          16  Who did you see?",
    ]


def test_the_report_has_every_field_of_the_documentation_as_json(sh):
    sh.write("in.csv", BAD)

    report = json.loads(sh("submit", "in.csv", "--dry-run", "--json", "--max-failed", "50%", "--quiet").stdout)

    fields = (
        "inputs rows good faulty blank faults characters words longest text_bytes duplicate_ids ids_compared "
        "chunk_rows chunks lane"
    )
    assert " ".join(report) == fields
    assert " ".join(report["inputs"][0]) == "name format text_field id_field bytes rows"
    assert report["faults"][0] == {
        "code": "empty_text",
        "count": 1,
        "first": [{"row": 2, "source": "in.csv", "line": 3}],
    }
    assert " ".join(report["words"]) == "least median mean p95 most histogram"
    assert report["words"]["histogram"] == [{"least": 4, "most": 7, "rows": 2}]
    assert " ".join(report["longest"][0]) == "row source line characters start"
    page = (Path(__file__).parents[2] / "docs" / "input-formats.md").read_text()
    assert [name for name in fields.split() if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("max_failed", "code"), [("0", 8), ("1", 8), ("2", 0), ("49%", 8), ("50%", 0)])
def test_max_failed_decides_the_exit_code_as_after_a_run(sh, max_failed, code):
    """So ``submit --dry-run && submit`` keeps a broken file off the queue."""
    sh.write("in.csv", BAD)

    done = sh("submit", "in.csv", "--dry-run", "--max-failed", max_failed, code=code)

    assert done.stdout.startswith("rows ")
    said = f"Error: 2 of 4 rows are faulty, more than --max-failed {max_failed}; nothing was submitted\n"
    assert done.stderr == (said if code else "")


def test_an_input_without_a_good_row_is_reported(sh):
    sh.write("in.jsonl", '{"text": 1}\n[]\n\nnonsense\n')

    done = sh("submit", "in.jsonl", "--dry-run", "--json", code=8)

    report = json.loads(done.stdout)
    assert (report["good"], report["faulty"], report["longest"]) == (0, 4, [])
    assert sh("submit", "in.jsonl", "--dry-run", code=8).stdout.startswith("rows        4 = 0 good + 4 faulty")


def test_several_inputs_standard_input_and_texts_are_reported(sh):
    sh.write("a.csv", "text\nOne.\n\n")
    sh.write("b.csv", "text\n \n \nTwo.\n")

    files = sh("submit", "a.csv", "b.csv", "--dry-run", "--max-failed", "2").stdout
    piped = json.loads(sh("submit", "-", "--dry-run", "--json", stdin=b"One.\nTwo.\n").stdout)
    texts = sh("submit", "--dry-run", "--text", "One.", "--text", " ", "--max-failed", "1").stdout

    assert "empty_text     2  b.csv lines 2, 3" in files
    assert piped["inputs"] == [
        {"name": "stdin", "format": "txt", "text_field": None, "id_field": None, "bytes": None, "rows": 2}
    ]
    assert "empty_text     1  row 2" in texts


def test_a_one_liner_can_be_tried_as_it_stands(sh):
    """Whoever adds --dry-run to a command that works should not have to take anything away."""
    sh.write("in.csv", "text\nOne.\n")

    line = ["submit", "in.csv", "--wait", "--join", "--output", "out.csv", "--idempotency-key", "k", "--lane", "bulk"]
    done = sh(*line, "--chunk-rows", "1", "--dry-run")

    assert "1 of up to 1 rows, in lane bulk" in done.stdout
    assert not (sh.folder / "out.csv").exists()
    assert "another file than the input" in sh.error(
        "submit", "in.csv", "--wait", "--output", "in.csv", "--dry-run", code=2
    )


def test_what_a_submit_refuses_a_dry_run_refuses(sh):
    sh.write("other.csv", "a,b\n1,2\n")

    assert "'a', 'b'" in sh.error("submit", "other.csv", "--dry-run", code=2)
    assert "no such file" in sh.error("submit", "none.csv", "--dry-run", code=2)
    sh.env["SCOREQUEUE_MAX_JOB_ROWS"] = "2"
    assert "SCOREQUEUE_MAX_JOB_ROWS" in sh.error("submit", "-", "--dry-run", code=2, stdin=b"a\nb\nc\n")
