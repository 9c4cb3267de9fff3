"""Formats through the real command: what is chosen, what is refused before the upload, parquet both ways."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.scoring import score_waiting, scoring
from tests.shell import Shell

JSONL = '{"text": "One.", "n": 1}\n{"text": null}\n{"text": "Three.", "late": [1, 2]}\n'


def write_parquet(sh: Shell, name: str = "in.parquet", count: int = 300) -> bytes:
    table = pa.table(
        {
            "id": pa.array(range(1000, 1000 + count)),
            "sentence": [None if n == 1 else f"Sentence number {n}." for n in range(count)],
            "when": pa.array([n * 1_000_000_007 for n in range(count)], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, sh.folder / name, row_group_size=100)
    return (sh.folder / name).read_bytes()


def jobs(sh: Shell) -> str:
    return sh("list", "--json").stdout


# --- parquet ---


def test_parquet_goes_in_and_comes_back_joined_with_its_types(sh, settings):
    write_parquet(sh)
    with scoring(settings):
        done = sh("submit", "in.parquet", "--wait", "--join", "--output", "scored.parquet", code=8)

    joined, given = (pq.read_table(sh.folder / name) for name in ("scored.parquet", "in.parquet"))
    assert joined.drop(["pred_label", "pred_score", "pred_error"]).equals(given)
    assert joined["pred_error"].to_pylist()[:3] == [None, "wrong_type", None]
    assert joined["pred_score"].null_count == 1
    assert "in.parquet: parquet, text column 'sentence', id column 'id'" in done.stderr


def test_results_come_as_parquet_by_suffix_by_option_and_through_a_pipe(sh, ledger):
    write_parquet(sh)
    job_id = sh("submit", "in.parquet").stdout.strip()
    score_waiting(ledger)
    sh("results", job_id, "--output", "out.parquet")
    piped = subprocess.run(
        sh.command("results", job_id, "--format", "parquet", "--errors"), cwd=sh.folder, env=sh.env, capture_output=True
    )

    table = pq.read_table(sh.folder / "out.parquet")
    assert (table.num_rows, table["id"].to_pylist()[:2]) == (300, ["1000", "1001"])
    assert table.filter(pa.compute.field("error_code") == "wrong_type")["row"].to_pylist() == [2]
    assert pq.read_table(io.BytesIO(piped.stdout))["error_message"].to_pylist() == ["expected a text, got null"]


@pytest.mark.parametrize("join", [[], ["--join"]])
def test_parquet_on_standard_input_is_copied(sh, settings, join):
    content = write_parquet(sh)
    with scoring(settings):
        done = sh("submit", "-", "--input-format", "parquet", "--wait", "--format", "csv", *join, stdin=content, code=8)

    lines = done.stdout.splitlines()
    assert len(lines) == 301
    assert lines[0].startswith("id,sentence,when,pred_label" if join else "row,id,label")


def test_an_upload_of_parquet_goes_on_under_its_key_and_refuses_other_rows(sh):
    write_parquet(sh)
    first, second = (sh("submit", "in.parquet", "--idempotency-key", "k").stdout for _ in range(2))
    write_parquet(sh, count=299)

    assert first == second
    assert "another key" in sh.error("--quiet", "submit", "in.parquet", "--idempotency-key", "k", code=2)


def test_parquet_is_joined_where_it_lies_now(sh, ledger):
    write_parquet(sh)
    job_id = sh("submit", "in.parquet", "--text-field", "2", "--id-field", "1").stdout.strip()
    score_waiting(ledger)
    os.rename(sh.folder / "in.parquet", sh.folder / "moved")

    lines = [
        json.loads(line)
        for line in sh("results", job_id, "--join", "moved", "--format", "jsonl").stdout.split("\n")[:-1]
    ]

    assert (lines[0]["when"], lines[1]["when"]) == ("1970-01-01 00:00:00.000000000", "1970-01-01 00:00:01.000000007")
    assert [line["pred_error"] for line in lines[:3]] == [None, "wrong_type", None]


def test_parquet_does_not_go_to_a_terminal(sh):
    sh.write("in.txt", "One.\n")
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            sh.command("submit", "in.txt", "--wait", "--format", "parquet"),
            **{
                "cwd": sh.folder,
                "env": sh.env,
                "stdin": subprocess.DEVNULL,
                "stdout": theirs,
                "stderr": subprocess.PIPE,
            },
        )
    finally:
        os.close(theirs)
        os.close(ours)

    assert done.returncode == 2
    assert "expected parquet to go to a file or a pipe, got a terminal; name an --output" in done.stderr.decode()
    assert jobs(sh) == ""


@pytest.mark.parametrize("args", [["submit", "in.parquet"], ["submit", "in.txt", "--wait", "--output", "x.parquet"]])
def test_without_pyarrow_the_install_line_is_said_before_any_work(sh, args):
    """Parquet is an extra; the rest works without it."""
    write_parquet(sh)
    sh.write("in.txt", "One.\n")
    (sh.folder / "hidden").mkdir()
    sh.write("hidden/sitecustomize.py", "import sys\nsys.modules['pyarrow'] = None\n")
    sh.env["PYTHONPATH"] = os.pathsep.join([str(sh.folder / "hidden"), os.environ.get("PYTHONPATH", "")])

    assert 'pip install "scorequeue[parquet]"' in sh.error(*args, code=2)
    assert len(sh("submit", "in.txt").stdout.strip()) == 32


# --- joins ---


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["in.jsonl", "in.txt", "in.csv", "in.parquet"])
def test_every_input_joins_into_every_output(sh, settings, name, suffix):
    write_parquet(sh, count=3)
    sh.write("in.jsonl", JSONL)
    sh.write("in.txt", "One.\n\nThree.\n")
    sh.write("in.csv", "text,n\nOne.,1\n,2\nThree.,3\n")
    output = f"out.{suffix}"
    with scoring(settings):
        sh("submit", name, "--wait", "--join", "--output", output, "--max-failed", "1")

    if suffix == "parquet":
        errors = pq.read_table(sh.folder / output)["pred_error"].to_pylist()
    else:
        text = (sh.folder / output).read_text()
        lines = text.splitlines()[suffix != "jsonl" :]
        errors = [next((code for code in ("wrong_type", "empty_text") if code in line), None) for line in lines]
    assert errors == [None, "empty_text" if name in ("in.txt", "in.csv") else "wrong_type", None]


def test_jsonl_from_standard_input_becomes_a_table_with_all_fields(sh, settings):
    """It is read twice for its columns, and so copied first."""
    with scoring(settings):
        done = sh(
            *("submit", "-", "--input-format", "jsonl", "--wait", "--join", "--format", "csv", "--max-failed", "1"),
            stdin=JSONL.encode(),
        )

    assert done.stdout.splitlines() == [
        "text,n,late,pred_label,pred_score,pred_error",
        "One.,1,,unacceptable,0.937500,",
        ",,,,,wrong_type",
        'Three.,,"[1, 2]",unacceptable,0.906250,',
    ]


def test_a_named_pipe_that_is_joined_keeps_the_format_of_its_suffix(sh, settings):
    """It is copied to be read twice; the copy must not be taken for txt."""
    os.mkfifo(sh.folder / "in.jsonl")
    with scoring(settings), (sh.folder / "out.csv").open("wb") as out:
        process = subprocess.Popen(
            sh.command("submit", "in.jsonl", "--wait", "--join", "--format", "csv", "--max-failed", "1"),
            cwd=sh.folder,
            env=sh.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
        )
        (sh.folder / "in.jsonl").write_text(JSONL)
        assert process.wait(30) == 0

    assert (sh.folder / "out.csv").read_text().startswith("text,n,late,pred_label")


def test_inputs_of_any_kinds_are_shown_as_one_table_for_eyes(sh, settings):
    """A table shows sentences, whatever columns they stood in."""
    sh.write("a.txt", "One.\n")
    sh.write("b.csv", "id,text\nx,Two.\n")
    with scoring(settings):
        lines = sh("submit", "a.txt", "b.csv", "--wait", "--format", "table").stdout.split("\n")

    assert [line.split()[-1] for line in lines if "acceptable" in line] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ({"a.csv": "text,pred_label\nOne.,x\n"}, "out.csv", "a.csv: expected no column pred_label"),
        ({"a.jsonl": '{"text": "x"}\n{"text": "y", "pred_error": 1}\n'}, "out.jsonl", "a.jsonl, line 2: expected no"),
        ({"a.csv": "text\nOne.\n", "b.csv": "text,n\nTwo.,1\n"}, "out.csv", "got a.csv and b.csv; submit them as two"),
        ({"a.txt": "One.\n", "b.csv": "text\nTwo.\n"}, "out.jsonl", "got a.txt and b.csv; submit them as two"),
    ],
)
def test_a_join_that_cannot_be_is_refused_before_the_upload(sh, inputs, output, message):
    """Nobody wants to hear of it after an hour of scoring."""
    for name, content in inputs.items():
        sh.write(name, content)

    assert message in sh.error("submit", *inputs, "--wait", "--join", "--output", output, code=2)
    assert jobs(sh) == ""


def test_results_name_the_input_that_they_were_given(sh, ledger):
    """The job's name for it says nothing about a path that was mistyped."""
    sh.write("in.csv", "text\nOne.\n")
    job_id = sh("submit", "in.csv").stdout.strip()
    score_waiting(ledger)
    sh.write("other.csv", "text\nAnother.\n")
    sh.write("columns.csv", "a,b\n1,2\n")

    assert sh.error("results", job_id, "--join", "missing.csv", code=2) == "Error: missing.csv: no such file"
    assert "(other.csv)" in sh.error("results", job_id, "--join", "other.csv", code=2)
    assert sh.error("results", job_id, "--join", "columns.csv", code=2).startswith("Error: columns.csv: ")


# --- patterns, and what is said ---


def test_a_quoted_pattern_is_expanded_in_order(sh, settings):
    (sh.folder / "data" / "deep").mkdir(parents=True)
    sh.write("data/b.csv", "text\nTwo.\n")
    sh.write("data/a.csv.gz", gzip.compress(b"text\nOne.\n"))
    sh.write("data/deep/c.csv", "text\nThree.\n")
    sh.write("odd[1].csv", "text\nFour.\n")
    with scoring(settings):
        done = sh("submit", "data/**/*.csv*", "odd[1].csv", "--wait", "--join")
        job_id = done.stderr.partition("job ")[2].split()[0]
        again = sh("results", job_id, "--join", "data/**/*.csv*", "--join", "odd[1].csv", "--format", "csv")

    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == ["One.", "Two.", "Three.", "Four."]
    assert again.stdout == done.stdout
    assert "found none that matches" in sh.error("submit", "data/*.txt", code=2)


def test_an_output_among_the_inputs_of_a_pattern_is_refused(sh):
    """The second run of a weekly line would score its own results."""
    sh.write("in.csv", "text\nOne.\n")
    sh.write("scored.csv", "text,pred_label\nOne.,x\n")

    error = sh.error("submit", "*.csv", "--wait", "--join", "--output", "scored.csv", code=2)
    assert "expected another file than the input" in error


def test_what_was_chosen_is_said_for_each_kind_of_input_unless_quiet(sh):
    for name in ("a.csv", "b.csv", "c.csv"):
        sh.write(name, "id,text\n1,One.\n")
    sh.write("d.tsv", "q\nOne.\n")
    sh.write("e.json", '{"text": "One."}\n')

    notes = sh("submit", "a.csv", "b.csv", "c.csv", "d.tsv", "e.json").stderr.splitlines()

    assert notes[:3] == [
        "a.csv and 2 more inputs: csv, text column 'text', id column 'id'",
        "d.tsv: tsv, text column 'q'",
        "e.json: jsonl, text field 'text', id field 'id' or 'custom_id' where an object has one",
    ]
    assert sh("submit", "--quiet", "a.csv").stderr == ""
    assert "text" not in sh("submit", "--text", "One.").stderr.splitlines()[0]
