"""Chunks and results survive the way through the ledger; damaged bytes never pass for rows."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorequeue import codec
from scorequeue.columns import Chunk, ChunkResult, chunk_from_rows, origin
from scorequeue.errors import CodecError, ProtocolTooNewError
from scorequeue.jobs import ErrorCode, Row, RowError, RowResult

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ERRORS = st.builds(RowError, st.sampled_from(list(ErrorCode)), TEXT)
SOURCES = st.none() | st.sampled_from(["in.csv", "two.tsv", "dir/ünï.jsonl"])
ROWS = st.lists(
    st.builds(Row, TEXT, st.none() | TEXT, SOURCES, st.none() | st.integers(1, 10**9))
    | st.builds(Row, st.just(""), st.none() | TEXT, SOURCES, st.none() | st.integers(1, 10**9), ERRORS),
    min_size=1,
    max_size=30,
)
FIRST_ROWS = st.integers(1, 10**12)


@st.composite
def results(draw: st.DrawFn) -> ChunkResult:
    rows = draw(st.integers(1, 20))
    labels = tuple(draw(st.lists(TEXT, min_size=1, max_size=4, unique=True)))
    scores = array(
        "f", draw(st.lists(st.floats(0, 1, width=32), min_size=rows * len(labels), max_size=rows * len(labels)))
    )
    offsets = st.integers(0, rows - 1)
    errors = draw(st.dictionaries(offsets, ERRORS, max_size=5))
    return ChunkResult(
        first_row=draw(FIRST_ROWS),
        rows=rows,
        labels=labels,
        scores=scores,
        model_version=draw(TEXT),
        ids=draw(st.none() | st.lists(TEXT, min_size=rows, max_size=rows)),
        truncated=draw(st.frozensets(offsets)),
        errors=errors,
        origins={offset: draw(st.tuples(SOURCES, st.none() | st.integers(1, 10**9))) for offset in errors},
    )


@given(rows=ROWS, first_row=FIRST_ROWS)
def test_a_chunk_comes_back_as_it_was(rows, first_row):
    chunk = chunk_from_rows(rows, first_row=first_row)

    assert codec.decode_chunk(codec.encode_chunk(chunk)) == chunk


@given(rows=ROWS, first_row=FIRST_ROWS)
def test_a_chunk_keeps_all_that_its_rows_said(rows, first_row):
    """Texts, ids, faults and places are spread over columns; every row must find its own again."""
    chunk = codec.decode_chunk(codec.encode_chunk(chunk_from_rows(rows, first_row=first_row)))

    ids = chunk.ids if chunk.ids is not None else [str(first_row + offset) for offset in range(len(rows))]
    for offset, row in enumerate(rows):
        assert chunk.texts[offset] == row.text
        assert ids[offset] == (str(first_row + offset) if row.id is None else row.id)
        assert chunk.errors.get(offset) == row.error
        assert origin(chunk.runs, offset) == (row.source, row.line)


@given(rows=ROWS, first_row=FIRST_ROWS)
def test_equal_chunks_have_equal_digests_and_others_differ(rows, first_row):
    """A resumed upload and a join go by the digest."""
    payload = codec.encode_chunk(chunk_from_rows(rows, first_row=first_row))
    again = codec.encode_chunk(chunk_from_rows(list(rows), first_row=first_row))
    other = codec.encode_chunk(chunk_from_rows([*rows, Row("more")], first_row=first_row))

    assert codec.digest(payload) == codec.digest(again)
    assert codec.digest(payload) != codec.digest(other)


def test_consecutive_lines_of_a_file_cost_one_run():
    """The places of a large file must not be as large as the file."""
    rows = [Row("a", None, "in.txt", line) for line in range(1, 257)]

    assert chunk_from_rows(rows, first_row=1).runs == (("in.txt", 1, 256),)


@given(result=results())
def test_a_result_comes_back_as_it_was(result):
    assert codec.decode_result(codec.encode_result(result)) == result


@given(result=results())
def test_the_rows_of_a_result_are_in_order_with_a_label_or_an_error_each(result):
    rows = list(codec.decode_result(codec.encode_result(result)))

    assert [row.row for row in rows] == list(range(result.first_row, result.first_row + result.rows))
    for offset, row in enumerate(rows):
        assert isinstance(row, RowResult)
        assert (row.label is None) == (row.error is not None) == (offset in result.errors)
        if row.error is None:
            assert row.score == max(row.scores.values())
            assert row.scores[str(row.label)] == row.score


def encoded(rows: list[Row], result: ChunkResult) -> list[tuple[bytes, type]]:
    return [
        (codec.encode_chunk(chunk_from_rows(rows, first_row=1)), Chunk),
        (codec.encode_result(result), ChunkResult),
    ]


def decode_or_refuse(payload: bytes, kind: type) -> None:
    """Whatever comes back has to be of the right shape; nothing but our own errors may be raised."""
    try:
        value = codec.decode_chunk(payload) if kind is Chunk else codec.decode_result(payload)
    except (CodecError, ProtocolTooNewError):
        return
    assert isinstance(value, kind)


@settings(max_examples=100)
@given(rows=ROWS, result=results(), data=st.data())
def test_cut_off_bytes_are_refused(rows, result, data):
    for payload, kind in encoded(rows, result):
        cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
        if kind is ChunkResult and cut == payload:
            continue
        with pytest.raises((CodecError, ProtocolTooNewError)):
            codec.decode_chunk(cut) if kind is Chunk else codec.decode_result(cut)


@settings(max_examples=150)
@given(rows=ROWS, result=results(), data=st.data())
def test_flipped_bytes_raise_nothing_but_our_own_errors(rows, result, data):
    for payload, kind in encoded(rows, result):
        damaged = bytearray(payload)
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        decode_or_refuse(bytes(damaged), kind)


@settings(max_examples=100)
@given(
    head=st.text(max_size=60) | st.sampled_from(["[]", "{}", "null", '{"rows": -1}', '{"rows": 1e9, "first_row": 1}']),
    body=st.binary(max_size=80),
)
def test_any_bytes_raise_nothing_but_our_own_errors(head, body):
    raw = head.encode("utf-8", "replace")
    for kind in (Chunk, ChunkResult):
        decode_or_refuse(struct.pack("<BI", codec.FORMAT, len(raw)) + raw + body, kind)
        decode_or_refuse(body, kind)


@pytest.mark.parametrize("decode", [codec.decode_chunk, codec.decode_result])
def test_a_newer_format_is_told_from_damage(decode):
    """An old worker must leave a newer producer's chunk alone, not fail its rows."""
    with pytest.raises(ProtocolTooNewError, match=f"format {codec.FORMAT}, got format {codec.FORMAT + 1}"):
        decode(struct.pack("<BI", codec.FORMAT + 1, 0))


@pytest.mark.parametrize(
    "head",
    [
        '{"rows": 1, "first_row": 1, "labels": ["a"], "model_version": "v", "errors": []}',
        '{"rows": 1, "first_row": 1, "labels": ["a"], "model_version": "v", "origins": [1], "runs": 7}',
        '{"rows": 1, "first_row": 1, "labels": ["a"], "model_version": "v", "errors": {"7": ["empty_text", ""]}}',
        '{"rows": -3, "first_row": 1, "labels": [], "model_version": "v"}',
        '{"rows": 0, "first_row": 0, "labels": [], "model_version": "v"}',
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("decode", [codec.decode_chunk, codec.decode_result])
def test_header_that_cannot_be_is_damage(decode, head):
    with pytest.raises(CodecError):
        decode(struct.pack("<BI", codec.FORMAT, len(head)) + head.encode() + b"\0\0\0\0")
