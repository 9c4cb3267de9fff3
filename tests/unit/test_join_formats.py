"""Any input joined into any output: nothing that the input says is lost, and what cannot be is said beforehand."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from array import array
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.inputs import Inputs
from producer.join import JoinedChunk
from producer.joinable import MOST_COLUMNS, Column, Kind, check_join
from producer.readers import ReaderOptions
from producer.writers import render_joined
from scorequeue.columns import ChunkResult
from scorequeue.errors import ContentConflictError, InputError, UsageError

INPUTS: dict[str, str | pa.Table] = {
    "in.txt": "One.\n\nThree.\n",
    "in.csv": 'text,n\nOne.,1\n,2\n"Three, 3.",3\n',
    "in.tsv": "text\tn\nOne.\t1\n\t2\nThree.\t3\n",
    "in.jsonl": '{"text": "One.", "n": 1}\n{"text": "", "n": 2}\n{"text": "Three.", "n": 3, "more": [1]}\n',
    "in.parquet": pa.table({"text": ["One.", "", "Three."], "n": [1, 2, 3]}),
}


def write(folder: Path, name: str, content: str | pa.Table) -> Path:
    path = folder / name
    if isinstance(content, str):
        path.write_text(content, newline="")
    else:
        pq.write_table(content, path)
    return path


def join(paths: Sequence[Path], output_format: str, **options) -> bytes:
    """Join made-up results to inputs as submit and results do: faulty rows failed, the others scored."""
    with Inputs.open(paths, ReaderOptions(**options), names=[path.name for path in paths]) as inputs:
        columns = check_join(inputs, output_format)
        chunks = []
        first_row = 1
        for at, (reader, row, record) in enumerate(inputs.records()):
            result = ChunkResult(
                at + 1,
                1,
                ("unacceptable", "acceptable"),
                array("f", [0.25, 0.75]),
                "v",
                errors={0: row.error} if row.error else {},
            )
            chunks.append(JoinedChunk(reader, first_row, [row], [record], result, ""))
            first_row += 1
        pieces = render_joined(output_format, chunks, columns=columns)
        return b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)


def records(output_format: str, data: bytes) -> list[dict[str, object]]:
    """Read a joined output back."""
    if output_format == "parquet":
        return pq.read_table(io.BytesIO(data)).to_pylist()
    if output_format == "jsonl":
        return [json.loads(line) for line in data.decode().splitlines()]
    delimiter = "," if output_format == "csv" else "\t"
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


@pytest.mark.parametrize("output_format", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", INPUTS)
def test_every_input_joins_into_every_output(tmp_path, name, output_format):
    rows = records(output_format, join([write(tmp_path, name, INPUTS[name])], output_format))

    assert [row["text"] for row in rows] == ["One.", "", "Three, 3." if name == "in.csv" else "Three."]
    if name != "in.txt":
        assert [str(row["n"]) for row in rows] == ["1", "2", "3"]
    assert [row["pred_label"] or None for row in rows] == ["acceptable", None, "acceptable"]
    assert [float(row["pred_score"]) if row["pred_score"] else None for row in rows] == [0.75, None, 0.75]  # type: ignore[arg-type]
    assert [row["pred_error"] or None for row in rows] == [None, "empty_text", None]


# --- jsonl as a table ---


def test_every_field_of_any_object_is_a_column(tmp_path):
    """A field that comes late is as good as those of the first object; a table without it would have lost it."""
    content = (
        '{"text": "One.", "tags": ["a", "b"], "deep": {"x": 1}}\n'
        "no json\n"
        '{"late": null, "text": "Three.", "n": 1.50, "ok": true}\n'
    )

    text = join([write(tmp_path, "in.jsonl", content)], "csv").decode()

    assert text == (
        "text,tags,deep,input,late,n,ok,pred_label,pred_score,pred_error\n"
        'One.,"[""a"", ""b""]","{""x"": 1}",,,,,acceptable,0.750000,\n'
        ",,,no json,,,,,,invalid_json\n"
        "Three.,,,,,1.5,true,acceptable,0.750000,\n"
    )


def test_columns_of_jsonl_have_the_types_of_their_values_in_parquet(tmp_path):
    values = [
        {"text": "One.", "i": 1, "f": 1, "b": True, "mixed": 1, "long": 2**53 + 1, "huge": 2**70, "list": [1]},
        {"text": "Two.", "i": None, "f": 0.5, "b": False, "mixed": "a", "long": 1, "huge": 1, "list": None},
    ]
    content = "".join(json.dumps(value) + "\n" for value in values)

    table = pq.read_table(io.BytesIO(join([write(tmp_path, "in.jsonl", content)], "parquet")))

    assert {field.name: str(field.type) for field in table.schema if not field.name.startswith("pred_")} == {
        "text": "string",
        "i": "int64",
        "f": "double",
        "b": "bool",
        "mixed": "string",
        "long": "int64",
        "huge": "string",
        "list": "string",
    }
    assert table["mixed"].to_pylist() == ["1", "a"]
    assert table["huge"].to_pylist() == [str(2**70), "1"]
    assert table["list"].to_pylist() == ["[1]", None]


def test_a_number_that_a_float_would_round_keeps_its_digits(tmp_path):
    content = f'{{"text": "a", "n": {2**53 + 1}}}\n{{"text": "b", "n": 0.5}}\n'

    table = pq.read_table(io.BytesIO(join([write(tmp_path, "in.jsonl", content)], "parquet")))

    assert table["n"].to_pylist() == [str(2**53 + 1), "0.5"]


def test_fields_of_several_jsonl_inputs_become_one_table(tmp_path):
    paths = [
        write(tmp_path, "a.jsonl", '{"text": "a", "x": 1}\n'),
        write(tmp_path, "b.jsonl", '{"text": "b", "y": 2}\n'),
    ]

    assert join(paths, "csv").decode().splitlines()[0] == "text,x,y,pred_label,pred_score,pred_error"


def test_too_many_fields_for_a_table_are_said_with_key_and_line(tmp_path):
    content = "".join(json.dumps({"text": "a", f"key{n}": 1}) + "\n" for n in range(MOST_COLUMNS))

    with pytest.raises(
        InputError, match=rf"in\.jsonl, line {MOST_COLUMNS}.*'key{MOST_COLUMNS - 1}'; say --format jsonl"
    ):
        join([write(tmp_path, "in.jsonl", content)], "csv")


def test_jsonl_that_cannot_be_read_twice_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    feeder = threading.Thread(target=(tmp_path / "pipe.jsonl").write_text, args=('{"text": "a"}\n',))
    feeder.start()

    with pytest.raises(InputError, match="read twice"):
        join([tmp_path / "pipe.jsonl"], "csv")
    feeder.join()


def test_a_field_that_comes_after_the_check_is_not_dropped(tmp_path):
    """Digests cover texts and ids: another field can change without them."""
    path = write(tmp_path, "in.jsonl", '{"text": "a", "new": 1}\n')
    with Inputs.open([path], names=["in.jsonl"]) as inputs:
        reader, row, record = next(inputs.records())
        result = ChunkResult(1, 1, ("x", "y"), array("f", [0.25, 0.75]), "v")
        chunk = JoinedChunk(reader, 1, [row], [record], result, "")

        with pytest.raises(ContentConflictError, match=r"in\.jsonl, line 1.*new field 'new'"):
            list(render_joined("csv", [chunk], columns=[Column("text")]))
        with pytest.raises(ContentConflictError, match="another kind of value"):
            list(render_joined("parquet", [chunk], columns=[Column("text", Kind.INTEGER), Column("new")]))
        with pytest.raises(UsageError, match="check_join"):
            list(render_joined("csv", [chunk]))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=st.lists(st.dictionaries(st.sampled_from(["a", "b", "", "c,\n", "é"]), JSON), min_size=1, max_size=6))
def test_any_object_comes_back_from_any_table(tmp_path, objects):
    """What a cell of a table says is what the field said: as it is, or as JSON."""
    content = "".join(json.dumps({"text": "a"} | value) + "\n" for value in objects)
    path = write(tmp_path, "in.jsonl", content)

    for row, value in zip(records("csv", join([path], "csv")), objects, strict=True):
        for name, item in value.items():
            expected = "" if item is None else item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
            assert row[name] == expected
    for row, value in zip(records("parquet", join([path], "parquet")), objects, strict=True):
        for name, item in value.items():
            if not name:
                continue  # a column without a name is called by its number there
            found = row[name]
            if isinstance(found, str) and not isinstance(item, str):
                assert json.loads(found) == item
            else:
                assert found == item


# --- parquet ---


def every_type() -> pa.Table:
    return pa.table(
        {
            "text": ["One.", "Two."],
            "i8": pa.array([1, None], pa.int8()),
            "f32": pa.array([0.1, float("nan")], pa.float32()),
            "f64": pa.array([0.1, 1e300]),
            "flag": [True, None],
            "day": [date(2026, 1, 2), None],
            "at": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "UTC")),
            "took": pa.array([timedelta(seconds=1), None], pa.duration("us")),
            "price": [Decimal("12.340"), None],
            "raw": [b"\xff\x00", b"plain"],
            "tags": [["a", None], None],
            "deep": [{"x": 1, "y": datetime(2026, 1, 1, tzinfo=UTC)}, None],
            "kind": pa.array(["a", None]).dictionary_encode(),
            "none": pa.nulls(2),
        }
    )


def test_parquet_keeps_its_types_when_joined_into_parquet(tmp_path):
    table = every_type()

    joined = pq.read_table(io.BytesIO(join([write(tmp_path, "in.parquet", table)], "parquet")))

    stored = pq.read_table(tmp_path / "in.parquet")
    assert joined.select(stored.column_names).equals(stored) or joined.drop(
        ["f32", "pred_label", "pred_score", "pred_error"]
    ).equals(stored.drop(["f32"]))  # NaN is unequal to itself
    assert joined.column_names[-3:] == ["pred_label", "pred_score", "pred_error"]
    assert joined["pred_score"].to_pylist() == [0.75, 0.75]


def test_parquet_of_any_types_becomes_texts_and_json(tmp_path):
    path = write(tmp_path, "in.parquet", every_type())

    first, second = records("csv", join([path], "csv"))
    line, other = records("jsonl", join([path], "jsonl"))

    assert first["f32"] == "0.1"
    assert first["at"] == "2023-11-14 22:13:20.123456789Z"
    assert (first["price"], first["took"], first["raw"], first["flag"]) == ("12.340", "1000000", "/wA=", "true")
    assert json.loads(str(first["deep"])) == {"x": 1, "y": "2026-01-01T00:00:00+00:00"}
    assert (second["i8"], second["f32"], second["tags"], second["raw"], second["none"]) == ("", "nan", "", "plain", "")
    assert (line["i8"], line["f32"], line["f64"], line["tags"], line["kind"]) == (1, 0.1, 0.1, ["a", None], "a")
    assert (other["f32"], other["flag"], other["day"]) == (None, None, None)


def test_bytes_that_are_no_text_come_out_as_a_replacement_character_in_parquet(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"A good sentence is the first one.\ncaf\xe9\n")

    rows = records("parquet", join([path], "parquet"))

    assert (rows[1]["text"], rows[1]["pred_error"]) == ("caf\ufffd", "invalid_utf8")


def test_columns_of_one_name_are_kept_apart(tmp_path):
    path = write(tmp_path, "in.csv", "a,a,a_2,,text\n1,2,3,4,One.\n")

    for output_format in ("parquet", "jsonl"):
        (row,) = records(output_format, join([path], output_format))
        assert [row[name] for name in ("a", "a_3", "a_2", "column_4")] == ["1", "2", "3", "4"]


# --- what is said beforehand ---


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("in.csv", "text,pred_label\nOne.,x\n", "column pred_label"),
        ("in.jsonl", '{"text": "One."}\n{"text": "Two.", "pred_score": 1}\n', "line 2: expected no field pred_score"),
        ("in.parquet", pa.table({"text": ["One."], "pred_error": ["x"]}), "column pred_error"),
    ],
)
def test_an_input_that_was_joined_before_is_found_out_before_the_upload(tmp_path, name, content, what, output_format):
    path = write(tmp_path, name, content)

    with Inputs.open([path], names=[name]) as inputs, pytest.raises(InputError, match=what):
        check_join(inputs, output_format)


def test_a_text_that_speaks_of_a_field_of_ours_is_no_such_field(tmp_path):
    path = write(tmp_path, "in.jsonl", '{"text": "Say \\"pred_label\\" twice.", "x": {"pred_label": 1}}\n')

    assert len(records("jsonl", join([path], "jsonl"))) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.csv", "text,n\nx,1\n"),
        ("b.txt", "x\n"),
        ("b.parquet", pa.table({"text": ["x"]})),
    ],
)
def test_inputs_of_other_columns_are_found_out_before_the_upload(tmp_path, name, content):
    paths = [write(tmp_path, "a.csv", "text\nOne.\n"), write(tmp_path, name, content)]

    with Inputs.open(paths) as inputs:
        with pytest.raises(InputError, match=rf"same columns to join, got .*a\.csv and .*{name}; submit them as two"):
            check_join(inputs, "csv")
        assert check_join(inputs, "table") is None


def test_inputs_without_headers_need_as_many_fields(tmp_path):
    paths = [write(tmp_path, "a.csv", "1,One.\n"), write(tmp_path, "b.csv", "2,Two.,x\n")]

    with (
        Inputs.open(paths, ReaderOptions(has_header=False, text_field="2")) as inputs,
        pytest.raises(InputError, match="same columns"),
    ):
        check_join(inputs, "csv")


def test_parquet_inputs_of_other_types_do_not_fit_into_one_table(tmp_path):
    paths = [
        write(tmp_path, "a.parquet", pa.table({"text": ["x"], "n": [1]})),
        write(tmp_path, "b.parquet", pa.table({"text": ["x"], "n": ["1"]})),
    ]

    with Inputs.open(paths) as inputs, pytest.raises(InputError, match="same columns"):
        check_join(inputs, "csv")
