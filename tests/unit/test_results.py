"""A chunk's results, whole or of the rows that were tried again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorequeue.codec import decode_chunk, decode_result, encode_chunk
from scorequeue.columns import Chunk, chunk_from_rows, part_of
from scorequeue.jobs import ErrorCode, Row, RowError
from scorequeue.records import Commit, Lease, LeasedChunk
from worker.results import commit_of, failed_commit, good_rows
from worker.windows import ChunkScores

LABELS = ("no", "yes")
FAULTY = RowError(ErrorCode.EMPTY_TEXT, "nothing")
FAILED = RowError(ErrorCode.SCORING_FAILED, "the model said no")
GUILTY = RowError(ErrorCode.WORKER_LOST, "two workers")


def leased(chunk: Chunk, *, before: bytes = b"", pending: int | None = None) -> LeasedChunk:
    lease = Lease("0" * 32, 0, "token")
    rows = len(chunk) if pending is None else pending
    return LeasedChunk(lease, "v1", chunk.first_row, rows, 0, encode_chunk(chunk), before)


def commit(
    chunk: Chunk,
    *,
    failed: dict[int, RowError],
    cut: set[int] = frozenset(),
    before: bytes = b"",  # type: ignore[assignment]
) -> Commit:
    """Commit with a score that tells the row: its offset in the whole chunk, in hundredths."""
    good = good_rows(chunk)
    offsets = chunk.offsets or tuple(range(len(chunk)))
    shares = np.array([offsets[position] / 100 for position in good], np.float32)
    truncated = np.array([position in cut for position in range(len(good))])
    done = ChunkScores(np.stack([1 - shares, shares], axis=1), truncated, failed)
    return commit_of(leased(chunk, before=before), chunk, labels=LABELS, done=done)


def test_rows_that_failed_in_the_model_keep_their_texts_and_faulty_ones_do_not() -> None:
    rows = [Row("a", "x"), Row("", "y", "in.csv", 3, FAULTY), Row("b", "z", "in.csv", 4), Row("c", "w", "in.csv", 5)]
    chunk = chunk_from_rows(rows, first_row=11)

    made = commit(chunk, failed={1: FAILED, 2: GUILTY}, cut={0})
    result, kept = decode_result(made.payload), decode_chunk(made.kept_texts)

    assert (made.scored, made.failed, made.truncated, made.kept) == (1, 3, 1, 2)
    assert result.errors == {1: FAULTY, 2: FAILED, 3: GUILTY}
    assert result.origins == {1: ("in.csv", 3), 2: ("in.csv", 4), 3: ("in.csv", 5)}
    assert (kept.texts, kept.ids, kept.offsets, kept.first_row) == (["b", "c"], ["z", "w"], (2, 3), 11)


@given(st.data())
def test_retries_end_with_the_results_of_a_chunk_that_never_failed(data: st.DataObject) -> None:
    """However often rows fail, and whichever: in the end each row has its own scores, id and place."""
    count = data.draw(st.integers(1, 12))
    faulty = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    rows = [
        Row("", f"id {n}", "in.txt", n + 1, FAULTY) if n in faulty else Row(f"text {n}", f"id {n}", "in.txt", n + 1)
        for n in range(count)
    ]
    whole = chunk_from_rows(rows, first_row=1)
    wanted = commit(whole, failed={})

    chunk, before = whole, b""
    while True:
        good = good_rows(chunk)
        failing = data.draw(st.sets(st.sampled_from(range(len(good)))))
        made = commit(chunk, failed=dict.fromkeys(failing, FAILED), before=before)
        assert made.scored + made.failed == len(chunk)
        assert made.kept == len(failing)
        if not failing:
            break
        chunk, before = decode_chunk(made.kept_texts), made.payload

    assert made.payload == wanted.payload


def test_truncation_is_noted_for_rows_that_were_tried_again_too() -> None:
    whole = chunk_from_rows([Row(text) for text in "abc"], first_row=1)
    first = commit(whole, failed={1: FAILED}, cut={0, 1})
    part = decode_chunk(first.kept_texts)

    second = commit(part, failed={}, cut={0}, before=first.payload)

    assert (first.truncated, second.truncated) == (1, 1)
    assert decode_result(second.payload).truncated == {0, 1}


def test_part_of_a_part_knows_its_places_in_the_whole() -> None:
    whole = chunk_from_rows([Row(str(n), None, "in.txt", 100 + n) for n in range(6)], first_row=1)

    part = part_of(part_of(whole, [1, 3, 5]), [0, 2])

    assert (part.texts, part.offsets) == (["1", "5"], (1, 5))
    assert decode_chunk(encode_chunk(part)) == part


def test_chunk_that_nobody_can_read_fails_whole() -> None:
    chunk = chunk_from_rows([Row("a"), Row("b")], first_row=7)

    made = failed_commit(leased(chunk), labels=LABELS)
    result = decode_result(made.payload)

    assert (made.scored, made.failed, made.kept) == (0, 2, 0)
    assert [row.row for row in result] == [7, 8]
    assert {error.code for error in result.errors.values()} == {ErrorCode.SCORING_FAILED}


def test_retry_that_nobody_can_read_leaves_the_reasons_as_they_were() -> None:
    whole = chunk_from_rows([Row("a"), Row("b"), Row("c")], first_row=1)
    first = commit(whole, failed={1: FAILED})

    made = failed_commit(leased(whole, before=first.payload, pending=1), labels=LABELS)

    assert (made.scored, made.failed) == (0, 1)
    assert made.payload == first.payload


@pytest.mark.parametrize("rows", [1, 3])
def test_chunk_without_a_good_row_is_committed_as_well(rows: int) -> None:
    chunk = chunk_from_rows([Row("", None, None, None, FAULTY)] * rows, first_row=1)

    made = commit_of(leased(chunk), chunk, labels=LABELS, done=None)

    assert (made.scored, made.failed, made.kept) == (0, rows, 0)
