"""Results and joined results, byte for byte."""

from __future__ import annotations

import csv
import io
import json
import os
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from producer.inputs import Inputs
from producer.join import JoinedChunk
from producer.output import check_output, write_output
from producer.readers import ReaderOptions
from producer.writers import choose_format, render_joined, render_results, render_table
from scorequeue.columns import ChunkResult
from scorequeue.errors import InputError, UsageError
from scorequeue.jobs import ErrorCode, RowError

VERSION = "20261123T101500-1f3c9a"
LABELS = ("unacceptable", "acceptable")


def result(*, first_row: int = 1, failed: bool = False, ids: list[str] | None = None, labels=LABELS) -> ChunkResult:
    """Two scored rows, the second one cut; with a failed row between them if asked for."""
    scores = [0.018766, 0.981234, 0.75, 0.25] if not failed else [0.018766, 0.981234, 0.0, 0.0, 0.75, 0.25]
    rows = len(scores) // 2
    return ChunkResult(
        first_row=first_row,
        rows=rows,
        labels=labels,
        scores=array("f", scores),
        model_version=VERSION,
        ids=ids,
        truncated=frozenset({rows - 1}),
        errors={1: RowError(ErrorCode.EMPTY_TEXT, 'nothing, but "100 %" blanks')} if failed else {},
        origins={1: ("in.csv", 9)} if failed else {},
    )


def rendered(output_format: str, *chunks: ChunkResult, only_errors: bool = False) -> str:
    return "".join(render_results(output_format, chunks, only_errors=only_errors))


# --- results alone ---


def test_jsonl_lines_are_those_of_the_documentation():
    assert rendered("jsonl", result(failed=True)) == (
        '{"row": 1, "id": "1", "label": "acceptable", "score": 0.981234, "scores": {"unacceptable": 0.018766, '
        '"acceptable": 0.981234}, "truncated": false, "model_version": "20261123T101500-1f3c9a"}\n'
        '{"row": 2, "id": "2", "source": "in.csv", "line": 9, "error": {"code": "empty_text", '
        '"message": "nothing, but \\"100 %\\" blanks"}}\n'
        '{"row": 3, "id": "3", "label": "unacceptable", "score": 0.750000, "scores": {"unacceptable": 0.750000, '
        '"acceptable": 0.250000}, "truncated": true, "model_version": "20261123T101500-1f3c9a"}\n'
    )


def test_csv_lines_are_those_of_the_documentation():
    assert rendered("csv", result(failed=True), result(first_row=4)) == (
        "row,id,label,score,score_unacceptable,score_acceptable,truncated,model_version,error_code,error_message\n"
        "1,1,acceptable,0.981234,0.018766,0.981234,false,20261123T101500-1f3c9a,,\n"
        '2,2,,,,,,20261123T101500-1f3c9a,empty_text,"nothing, but ""100 %"" blanks"\n'
        "3,3,unacceptable,0.750000,0.750000,0.250000,true,20261123T101500-1f3c9a,,\n"
        "4,4,acceptable,0.981234,0.018766,0.981234,false,20261123T101500-1f3c9a,,\n"
        "5,5,unacceptable,0.750000,0.750000,0.250000,true,20261123T101500-1f3c9a,,\n"
    )


def test_tsv_has_a_space_where_a_tab_would_break_the_row():
    text = rendered("tsv", result(ids=["a\tb", "c\nd"]))

    assert [line.split("\t")[1] for line in text.splitlines()] == ["id", "a b", "c d"]


@pytest.mark.parametrize("output_format", ["jsonl", "csv"])
def test_only_errors_leaves_out_what_was_scored(output_format):
    lines = rendered(output_format, result(failed=True), result(first_row=4), only_errors=True).splitlines()

    assert len(lines) == (1 if output_format == "jsonl" else 2)
    assert "empty_text" in lines[-1]


def test_an_empty_job_still_has_a_csv_header():
    assert rendered("csv") == "row,id,label,score,truncated,model_version,error_code,error_message\n"


@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
    labels=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2, unique=True),
)
def test_any_ids_and_labels_come_back_from_jsonl_and_csv(ids, labels):
    """Templates are filled with %: quotes, percent signs and line breaks in a label must not show."""
    chunk = result(failed=True, ids=ids, labels=tuple(labels))

    # Not splitlines: JSON texts may hold separators that it would split at.
    objects = [json.loads(line) for line in rendered("jsonl", chunk).split("\n")[:-1]]
    assert [value["id"] for value in objects] == ids
    assert objects[0]["label"] == labels[1]
    assert objects[0]["scores"] == {labels[0]: 0.018766, labels[1]: 0.981234}

    records = list(csv.reader(io.StringIO(rendered("csv", chunk), newline="")))
    assert [record[1] for record in records[1:]] == ids
    assert records[0][4:6] == [f"score_{label}" for label in labels]
    assert records[3][2] == labels[0]


# --- joined ---


def joined(tmp_path: Path, name: str, content: str, **options) -> list[JoinedChunk]:
    """Read an input of three rows, the second one failed, as the chunk of a job."""
    path = tmp_path / name
    path.write_text(content, newline="")
    with Inputs.open([path], ReaderOptions(**options), names=[name]) as inputs:
        found = list(inputs.records())
    assert [row.error is not None for _, row, _ in found] == [False, True, False]
    readers, rows, records = (list(column) for column in zip(*found, strict=True))
    return [JoinedChunk(readers[0], 1, rows, records, result(failed=True), "")]


def test_csv_gets_its_columns_appended(tmp_path):
    chunks = joined(tmp_path, "in.csv", 'text,"my, note"\n"He said ""no"".",x\n,"a\nb"\nBad.,\n')

    assert "".join(render_joined("csv", chunks)) == (
        'text,"my, note",pred_label,pred_score,pred_error\n'
        '"He said ""no"".",x,acceptable,0.981234,\n'
        ',"a\nb",,,empty_text\n'
        "Bad.,,unacceptable,0.750000,\n"
    )


def test_csv_keeps_its_delimiter_and_its_lack_of_a_header(tmp_path):
    chunks = joined(tmp_path, "in.csv", "a;Good.\nb;\nc;Bad.\n", has_header=False, text_field="2", delimiter=";")

    assert "".join(render_joined("csv", chunks)) == (
        "a;Good.;acceptable;0.981234;\nb;;;;empty_text\nc;Bad.;unacceptable;0.750000;\n"
    )


def test_a_faulty_csv_record_leaves_the_predictions_in_their_columns(tmp_path):
    chunks = joined(tmp_path, "in.csv", 'id,text\n1,Good.\n2,"a"b,c,d\n3,Bad.\n')

    records = list(csv.reader("".join(render_joined("csv", chunks)).splitlines()))
    assert {len(record) for record in records} == {5}
    assert records[2][-1] == "empty_text"


@pytest.mark.parametrize(
    ("line", "id_", "text"),
    [("7,too,many,fields", "7", "too,many,fields"), ('"a"b,c,d', "", '"a"b,c,d'), ("7", "7", "")],
    ids=["too-many", "unreadable", "too-few"],
)
@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_a_faulty_csv_record_keeps_what_it_says(tmp_path, output_format, line, id_, text):
    """Who mends the rows that failed needs them as they were, and ids in the ids' column only."""
    rendered = "".join(render_joined(output_format, joined(tmp_path, "in.csv", f"id,text\n1,Good.\n{line}\n3,Bad.\n")))

    if output_format == "csv":
        found = list(csv.DictReader(io.StringIO(rendered, newline="")))[1]
    else:
        found = json.loads(rendered.splitlines()[1])
    assert (found["id"], found["text"]) == (id_, text)


def test_tsv_gets_its_columns_appended(tmp_path):
    chunks = joined(tmp_path, "in.tsv", 'id\ttext\n1\t"Good\n2\t\n3\tBad.\n')

    assert "".join(render_joined("tsv", chunks)) == (
        'id\ttext\tpred_label\tpred_score\tpred_error\n1\t"Good\tacceptable\t0.981234\t\n'
        "2\t\t\t\tempty_text\n3\tBad.\tunacceptable\t0.750000\t\n"
    )


def test_jsonl_objects_stay_as_they_are_written(tmp_path):
    content = '{ "text":"Good.",  "n": 1.50 }\n{"text": ""}\n{"text": "Bad.", "x": "\\u00e9"}\n'
    chunks = joined(tmp_path, "in.jsonl", content)

    assert "".join(render_joined("jsonl", chunks)) == (
        '{ "text":"Good.",  "n": 1.50, "pred_label": "acceptable", "pred_score": 0.981234, "pred_error": null}\n'
        '{"text": "", "pred_label": null, "pred_score": null, "pred_error": "empty_text"}\n'
        '{"text": "Bad.", "x": "\\u00e9", "pred_label": "unacceptable", "pred_score": 0.750000, "pred_error": null}\n'
    )


@pytest.mark.parametrize("line", ['{"text": ', "[1]", "{}", '"x"', "null"])
def test_a_line_that_is_no_good_object_joins_as_one(tmp_path, line):
    chunks = joined(tmp_path, "in.jsonl", '{"text": "Good."}\n' + line + '\n{"text": "Bad."}\n')

    value = json.loads("".join(render_joined("jsonl", chunks)).splitlines()[1])
    assert value["pred_error"] == "empty_text"
    assert value.get("input") == (None if line == "{}" else line)


def test_txt_becomes_a_table_with_a_text_column(tmp_path):
    chunks = joined(tmp_path, "in.txt", "Good, then.\n\nBad.\n")

    assert "".join(render_joined("csv", chunks)) == (
        "text,pred_label,pred_score,pred_error\n"
        '"Good, then.",acceptable,0.981234,\n,,,empty_text\nBad.,unacceptable,0.750000,\n'
    )


def test_csv_can_be_joined_into_jsonl(tmp_path):
    chunks = joined(tmp_path, "in.csv", "id,text\n1,Good.\n2,\n3,Bad.\n")

    lines = [json.loads(line) for line in "".join(render_joined("jsonl", chunks)).splitlines()]
    assert lines[0] == {
        "id": "1",
        "text": "Good.",
        "pred_label": "acceptable",
        "pred_score": 0.981234,
        "pred_error": None,
    }


def test_rows_without_a_result_say_why(tmp_path):
    chunk = joined(tmp_path, "in.txt", "a\n\nb\n")[0]._replace(result=None, no_result="cancelled")

    assert "".join(render_joined("csv", [chunk])).splitlines()[1] == "a,,,cancelled"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", "text,pred_label\nGood.,x\n,x\nBad.,x\n"),
        ("in.jsonl", '{"text": "a", "pred_score": 1}\n{"text": ""}\n{"text": "b"}\n'),
    ],
)
def test_an_input_that_was_joined_before_is_refused(tmp_path, name, content):
    chunks = joined(tmp_path, name, content)

    with pytest.raises(InputError, match="pred_"):
        "".join(render_joined(name.rpartition(".")[2], chunks))


def test_the_table_shows_sentences_beside_verdicts(tmp_path):
    chunks = joined(tmp_path, "in.txt", "Who did you see?\n\nWho you did see?\n")

    text = "".join(render_table(Console(file=io.StringIO(), width=80), chunks))

    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[0] == ["id", "label", "score", "sentence"]
    assert ["1", "acceptable", "0.9812", "Who", "did", "you", "see?"] in lines
    assert any(line[:2] == ["2", "empty_text"] for line in lines)


def test_the_table_does_not_read_sentences_as_markup(tmp_path):
    chunks = joined(tmp_path, "in.txt", "[red]Go.[/]\n\n[/]\n")

    assert "[red]Go.[/]" in "".join(render_table(Console(file=io.StringIO(), width=80), chunks))


# --- where they go ---


@pytest.mark.parametrize(
    ("wanted", "output", "is_terminal", "joined_to", "expected"),
    [
        (None, None, True, None, "table"),
        (None, None, False, None, "jsonl"),
        (None, "x.csv", True, None, "csv"),
        (None, "x.tsv", False, "csv", "tsv"),
        ("tsv", "x.csv", True, None, "tsv"),
        (None, "-", False, "txt", "csv"),
        (None, None, False, "tsv", "tsv"),
    ],
)
def test_format_is_asked_for_or_follows_the_file(wanted, output, is_terminal, joined_to, expected):
    assert choose_format(wanted, output, is_terminal=is_terminal, joined=joined_to) == expected


def test_a_suffix_that_says_nothing_is_refused():
    with pytest.raises(UsageError, match="--format"):
        choose_format(None, "x.out", is_terminal=False)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    """A reader of the output must never see half of it, and an old one survives a failure."""
    path = tmp_path / "out.csv"
    path.write_text("old")

    def pieces():
        yield "new"
        raise InputError("the input changed")

    with pytest.raises(InputError):
        write_output(pieces(), str(path))

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_output(["new"], str(path))
    assert path.read_text() == "new"


def test_a_file_is_on_the_disk_under_its_name_before_anybody_lets_go_of_its_source(tmp_path, monkeypatch):
    """The rename too: --discard comes next, and a power cut after it must not take the only copy."""
    path = tmp_path / "out.csv"
    synced: list[tuple[bool, bool]] = []

    def sync(descriptor: int) -> None:
        synced.append((os.path.samestat(os.fstat(descriptor), tmp_path.stat()), path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_output(["new"], str(path))

    assert synced == [(False, False), (True, True)], "the file's bytes, then the folder with its name"


def test_what_was_no_text_comes_out_as_a_replacement_character(tmp_path):
    path = tmp_path / "out.csv"

    write_output(["caf\udce9,x\n"], str(path))

    assert path.read_bytes() == "caf\ufffd,x\n".encode()


def test_a_device_is_written_to_and_not_replaced():
    write_output(["x"], "/dev/null")

    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("output", "reason"), [("", "directory"), ("none/x.csv", "no such folder")])
def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path, output, reason):
    with pytest.raises(InputError, match=reason):
        check_output(str(tmp_path / output))
