"""parquet in and out: rows, faults, damage, types that survive."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading
from array import array
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.inputs import Inputs
from producer.output import write_output
from producer.readers import ReaderOptions, open_input
from producer.readers.parquet import BATCH_ROWS
from producer.writers import choose_format, render_results
from scorequeue.columns import ChunkResult
from scorequeue.errors import InputError, MissingFieldError, UsageError
from scorequeue.jobs import ErrorCode, Row, RowError

VERSION = "20261123T101500-1f3c9a"


@pytest.fixture
def read(tmp_path: Path):
    """Write columns to a parquet file and read them back as rows."""

    def read(columns: dict[str, object] | pa.Table, **options) -> list[Row]:
        path = tmp_path / "in.parquet"
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, row_group_size=3)
        with open_input(path, ReaderOptions(**options), name="in.parquet") as reader:
            return list(reader)

    return read


def faults(rows: list[Row]) -> list[tuple[int | None, str, str]]:
    return [(row.line, row.error.code.value, row.error.message) for row in rows if row.error is not None]


# --- in ---


def test_a_row_of_the_file_is_a_row_and_its_number_is_its_line(read):
    rows = read({"id": ["a", "b", "c", "d"], "text": ["One.", "Zwölf.", "Three.", "Four."]})

    assert rows[1] == Row("Zwölf.", "b", "in.parquet", 2)
    assert [row.line for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"text_field": "q", "id_field": "n"}, {"text_field": "2", "id_field": "1"}])
def test_columns_go_by_name_or_number_and_whole_numbers_are_ids(read, options):
    rows = read({"n": pa.array([2**63, None], pa.uint64()), "q": ["One.", "Two."]}, **options)

    assert [(row.id, row.text) for row in rows] == [(str(2**63), "One."), (None, "Two.")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, r"'a', 'b'.*--text-field"),
        ({"text": ["x"], "n": [1]}, r"id field 'k'.*--id-field"),
    ],
)
def test_a_missing_column_names_those_that_are_there(read, columns, message):
    with pytest.raises(MissingFieldError, match=message):
        read(columns, id_field="k" if "n" in columns else None)


def test_a_text_that_is_none_fails_alone(read):
    rows = read({"text": ["One.", None, "", "  ", "Five."]})

    assert [fault[:2] for fault in faults(rows)] == [(2, "wrong_type"), (3, "empty_text"), (4, "empty_text")]
    assert faults(rows)[0][2] == "expected a text, got null"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1, None]), "expected a text, got a number"),
        (pa.array([True, None]), "expected a text, got a boolean"),
        (pa.array([1.5, None]), "expected a text, got a number"),
        (pa.array([["a"], None]), "expected a text, got list<"),
        (pa.array([datetime(2026, 1, 1, tzinfo=UTC), None]), "expected a text, got timestamp"),
    ],
)
def test_a_text_column_of_another_type_fails_row_by_row(read, values, message):
    rows = read({"text": values})

    assert [(line, code) for line, code, _ in faults(rows)] == [(1, "wrong_type"), (2, "wrong_type")]
    assert faults(rows)[0][2].startswith(message)
    assert faults(rows)[1][2] == "expected a text, got null"


@pytest.mark.parametrize("values", [pa.array([True]), pa.array([1.5]), pa.array([float("nan")]), pa.array([[1]])])
def test_an_id_of_another_type_is_a_fault_only_if_it_was_asked_for(read, values):
    """A column that happens to be called id costs no row its score."""
    table = {"text": ["One."], "id": values}

    assert read(table) == [Row("One.", None, "in.parquet", 1)]
    assert faults(read(table, id_field="id"))[0][1] == "wrong_type"


def test_whole_numbers_that_pandas_made_floats_are_ids(read):
    """Whole numbers beside a null become doubles there."""
    rows = read({"text": ["One.", "Two.", "Three."], "id": pa.array([1.0, None, 3.0])}, id_field="id")

    assert [(row.id, row.text) for row in rows] == [("1", "One."), (None, "Two."), ("3", "Three.")]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_kind_of_text_column_is_read(read, kind):
    assert [row.text for row in read(pa.table({"text": pa.array(["Über.", "b"], pa.string()).cast(kind)}))] == [
        "Über.",
        "b",
    ]


def test_bytes_that_are_no_utf8_cost_their_own_row_only(read):
    """Parquet promises UTF-8, and writers do not check."""
    values = pa.array([b"good", b"caf\xe9", b"good too"])
    as_text = pa.Array.from_buffers(pa.string(), 3, values.buffers())

    for column in (values, as_text):
        assert [fault[:2] for fault in faults(read({"text": column}))] == [(2, "invalid_utf8")]


def test_a_text_over_the_limit_fails(read):
    assert [fault[:2] for fault in faults(read({"text": ["a" * 21, "b"]}, max_text_bytes=20))] == [(1, "text_too_long")]


def test_rows_across_batches_and_row_groups_keep_their_numbers(tmp_path):
    count = 3 * BATCH_ROWS + 7
    pq.write_table(
        pa.table({"text": [f"Sentence {n}." for n in range(count)], "x": [1.5] * count}),
        tmp_path / "in.parquet",
        row_group_size=1000,
    )

    for only_rows in (True, False):
        with Inputs.open([tmp_path / "in.parquet"], names=["in.parquet"], only_rows=only_rows) as inputs:
            rows = list(inputs)
        assert [(row.line, row.text) for row in rows] == [(n + 1, f"Sentence {n}.") for n in range(count)]


def test_it_is_read_again_as_the_job_read_it(tmp_path):
    """Resuming an upload and joining results must find the same rows, whatever the file is called by then."""
    pq.write_table(pa.table({"q": ["One.", "Two."], "custom_id": [1, 2]}), tmp_path / "in.parquet")
    with Inputs.open([tmp_path / "in.parquet"], ReaderOptions(text_field="q"), names=["in.parquet"]) as inputs:
        rows, options = list(inputs), inputs.job_options()
        assert list(inputs.again()) == rows
    os.rename(tmp_path / "in.parquet", tmp_path / "moved")

    with Inputs.reopen([tmp_path / "moved"], options, names=["in.parquet"]) as inputs:
        assert list(inputs) == rows


def test_gzip_and_pipes_are_read_by_way_of_a_copy(tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["One.", "Two."]}), out)
    (tmp_path / "in.parquet.gz").write_bytes(gzip.compress(out.getvalue()))
    os.mkfifo(tmp_path / "pipe.parquet")
    feeder = threading.Thread(target=(tmp_path / "pipe.parquet").write_bytes, args=(out.getvalue(),))
    feeder.start()

    for name in ("in.parquet.gz", "pipe.parquet"):
        with open_input(tmp_path / name) as reader:
            assert [row.text for row in reader] == ["One.", "Two."]
    feeder.join()


def parquet_bytes() -> bytes:
    out = io.BytesIO()
    table = pa.table({"id": list(range(300)), "text": [f"Sentence number {n}." for n in range(300)]})
    pq.write_table(table, out, row_group_size=100, write_page_checksum=True)
    return out.getvalue()


WHOLE = parquet_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-10], "parquet data is damaged"),
        (WHOLE[:40], "parquet data is damaged"),
        (b"PAR1", "parquet data is damaged"),
        (b"", "no rows; the input is empty"),
        (b"id,text\n1,One.\n", "expected PAR1 at the start"),
        (gzip.compress(WHOLE, mtime=0)[:-30], "gzip data is damaged"),
        (gzip.compress(b"id,text\n", mtime=0), "expected PAR1 at the start"),
        (WHOLE[:600] + bytes([WHOLE[600] ^ 255]) + WHOLE[601:], "parquet data is damaged"),
    ],
    ids=["cut", "head", "magic", "empty", "csv", "cut-gzip", "gzipped-csv", "flipped-byte"],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "in.parquet").write_bytes(content)

    with pytest.raises(InputError, match=message), open_input(tmp_path / "in.parquet") as reader:
        list(reader)


def test_a_file_without_rows_is_refused(read):
    with pytest.raises(InputError, match="no rows"):
        read({"text": pa.array([], pa.string())})


def test_any_damage_gives_rows_or_a_clean_error(tmp_path_factory):
    """A parquet file from anywhere must not end a producer with a trace."""
    folder = tmp_path_factory.mktemp("any")
    flips = st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    tail = st.lists(st.tuples(st.integers(len(WHOLE) - 700, len(WHOLE) - 1), st.integers(0, 255)), max_size=3)

    @settings(max_examples=300, deadline=None)
    @given(flips=st.one_of(flips, tail), cut=st.one_of(st.just(0), st.integers(0, len(WHOLE))), is_zipped=st.booleans())
    def check(flips, cut, is_zipped):
        content = bytearray(WHOLE)
        for at, byte in flips:
            content[at] = byte
        data = bytes(content[: len(content) - cut])
        path = folder / "in.parquet"
        path.write_bytes(gzip.compress(data, 1) if is_zipped else data)
        try:
            with open_input(path) as reader:
                rows = list(reader)
        except (InputError, MissingFieldError):
            return
        assert [row.line for row in rows] == list(range(1, len(rows) + 1))

    check()


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300), magic=st.sampled_from([b"", b"PAR1"]))
def test_any_bytes_give_a_clean_error(tmp_path_factory, content, magic):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    path.write_bytes(magic + content + magic)

    with pytest.raises((InputError, MissingFieldError)), open_input(path) as reader:
        list(reader)


_PEAK = "def peak(): return int(next(line for line in open('/proc/self/status') if line[:5] == 'VmHWM').split()[1])"


def test_memory_stays_flat_however_long_a_row_group_is(tmp_path):
    """The whole file is one row group of 86 MB: a reader that takes groups whole would need all of it at once."""
    path = tmp_path / "in.parquet"
    count = 1_000_000
    text = pa.array([f"{n:08} is what this sentence says, and it goes on to say it at length." for n in range(count)])
    table = pa.table({"id": pa.array(range(count)), "text": text})
    pq.write_table(table, path, row_group_size=count, compression="none", use_dictionary=False)
    code = (
        f"import sys, pyarrow.parquet; from producer.readers import open_input\n{_PEAK}\n"
        "before = peak()\n"
        "with open_input(sys.argv[1]) as reader: print(sum(1 for _ in reader))\n"
        "print(peak() - before)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)

    rows, grown_kib = map(int, done.stdout.split())
    assert path.stat().st_size > 80_000_000
    assert rows == count
    assert grown_kib < 60 * 1024


# --- out ---


def result(*, first_row: int = 1, ids: list[str] | None = None) -> ChunkResult:
    """A scored row, a failed one, and one that was cut."""
    return ChunkResult(
        first_row=first_row,
        rows=3,
        labels=("unacceptable", "acceptable"),
        scores=array("f", [0.018766, 0.981234, 0.0, 0.0, 0.75, 0.25]),
        model_version=VERSION,
        ids=ids,
        truncated=frozenset({2}),
        errors={1: RowError(ErrorCode.EMPTY_TEXT, "nothing but blanks")},
        origins={1: ("in.csv", 9)},
    )


def table_of(pieces) -> pa.Table:
    return pq.read_table(io.BytesIO(b"".join(pieces)))


def test_results_have_the_columns_of_csv_with_types():
    table = table_of(render_results("parquet", [result(), result(first_row=4, ids=["a", "b", "c"])]))

    assert {field.name: str(field.type) for field in table.schema} == {
        "row": "int64",
        "id": "string",
        "label": "string",
        "score": "float",
        "score_unacceptable": "float",
        "score_acceptable": "float",
        "truncated": "bool",
        "model_version": "string",
        "error_code": "string",
        "error_message": "string",
    }
    columns = table.to_pydict()
    assert columns["row"] == [1, 2, 3, 4, 5, 6]
    assert columns["id"] == ["1", "2", "3", "a", "b", "c"]
    assert columns["label"] == ["acceptable", None, "unacceptable"] * 2
    assert columns["score"] == [array("f", [0.981234])[0], None, 0.75] * 2
    assert columns["score_acceptable"] == [array("f", [0.981234])[0], None, 0.25] * 2
    assert columns["truncated"] == [False, None, True] * 2
    assert columns["error_code"] == [None, "empty_text", None] * 2
    assert columns["error_message"] == [None, "nothing but blanks", None] * 2


def test_only_errors_leaves_out_what_was_scored():
    table = table_of(render_results("parquet", [result(), result(first_row=4)], only_errors=True))

    assert table["row"].to_pylist() == [2, 5]
    assert table["label"].to_pylist() == [None, None]


def test_a_job_without_results_is_a_file_without_rows():
    table = table_of(render_results("parquet", []))

    assert (table.num_rows, table.column_names[:3]) == (0, ["row", "id", "label"])


def test_rows_are_written_in_groups_as_they_come(tmp_path):
    """A file of any size has to pass through flat memory, and readers want groups that are not too small."""
    chunks = (result(first_row=1 + 3 * n) for n in range(50_000))
    pieces = render_results("parquet", chunks)
    first = next(pieces)
    assert next(chunks).first_row < 150_000, "the first bytes come before the last rows"
    write_output(iter([first, *pieces]), str(tmp_path / "out.parquet"))

    meta = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [meta.row_group(n).num_rows // 1000 for n in range(meta.num_row_groups)] == [32, 32, 32, 32, 18]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.parquet"]


def test_parquet_is_not_written_to_a_terminal():
    with pytest.raises(UsageError, match="got a terminal; name an --output"):
        choose_format("parquet", None, is_terminal=True)

    assert choose_format("parquet", None, is_terminal=False) == "parquet"
    assert choose_format(None, "x.pq", is_terminal=True) == "parquet"
