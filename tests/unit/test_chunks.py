"""Rows as chunks, once and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.chunks import ChunkSource, calls
from producer.inputs import Inputs
from scorequeue import codec
from scorequeue.errors import LimitError
from scorequeue.jobs import Row
from scorequeue.records import ChunkUpload


def rows(count: int) -> Iterator[Row]:
    return (Row(f"sentence {number}") for number in range(count))


def source(given_rows: Any, **options: Any) -> ChunkSource:
    return ChunkSource(given_rows, **{"chunk_rows": 3, "most_bytes": 10_000, "most_rows": 10_000, **options})


@given(st.integers(0, 40), st.lists(st.integers(0, 20), max_size=4))
def test_what_can_be_read_once_is_there_again_from_any_point(count: int, stops: list[int]) -> None:
    """Wherever an upload broke off, and however often, it gets the same chunks from the start."""
    with closing(source(rows(count))) as plain, closing(source(rows(count))) as once:
        wanted = list(plain)

        for stop in stops:
            assert list(islice(once, stop)) == wanted[:stop]

        assert list(once) == wanted
        assert list(once) == wanted


def test_what_can_be_read_again_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"sentence {number}\n" for number in range(10)))
    inputs = Inputs.open([path])
    assert inputs.is_lasting
    chunks = source(iter(inputs), again=inputs.again)

    first, second = list(chunks), list(chunks)

    assert first == second
    assert chunks._spool is None
    inputs.close()


def test_large_copy_goes_to_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the process, nothing is left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("producer.chunks.CALL_BYTES", 100)
    once = source(rows(100))

    chunks = list(once)

    assert once._spool is not None
    assert once._spool._rolled  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
    assert list(once) == chunks
    once.close()


def test_chunk_of_too_many_bytes_names_the_limit() -> None:
    large = [*rows(3), *(Row("x" * 400) for _ in range(3))]

    with (
        closing(source(large, most_bytes=1_000)) as chunks,
        pytest.raises(LimitError, match=r"SCOREQUEUE_MAX_CHUNK_BYTES.*rows 4 to 6.*--chunk-rows"),
    ):
        list(chunks)


def test_job_of_too_many_rows_names_the_limit() -> None:
    with closing(source(rows(10), most_rows=10)) as fits, closing(source(rows(11), most_rows=10)) as does_not:
        assert len(list(fits)) == 4
        with pytest.raises(LimitError, match="SCOREQUEUE_MAX_JOB_ROWS"):
            list(does_not)


def test_calls_are_bounded_by_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.chunks.CALL_ROWS", 5)
    monkeypatch.setattr("producer.chunks.CALL_BYTES", 100)
    small = [ChunkUpload(b"x", 2, "d")] * 7
    large = [ChunkUpload(b"x" * 60, 1, "d")] * 3

    assert [len(call) for call in calls(small)] == [3, 3, 1]
    assert [len(call) for call in calls(large)] == [2, 1]


def test_digest_is_that_of_the_payload() -> None:
    with closing(source(rows(7))) as chunks:
        for chunk in [*chunks, *chunks]:
            assert chunk.digest == codec.digest(chunk.payload)
