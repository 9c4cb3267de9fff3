"""What a dry run says of its inputs, against counts made the slow way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

import producer.tally
from producer import Inputs, ReaderOptions, Report, read_report
from scorequeue.errors import LimitError, UsageError
from scorequeue.jobs import ErrorCode, Lane


def report_on(folder: Path, name: str, content: str | bytes, **options: object) -> Report:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with Inputs.open([path], ReaderOptions(**options), names=[name]) as inputs:  # type: ignore[arg-type]
        return read_report(inputs)


def test_rows_faults_and_places_are_counted(tmp_path: Path) -> None:
    """The point of it: what is wrong, how often, and where to look first."""
    report = report_on(tmp_path, "in.csv", "id,text\na,One.\n,\nc,Three words here.\nd,  \ne,x,y\nf,\n" + "g,\n" * 9)

    assert (report.rows, report.good, report.faulty, report.blank) == (15, 2, 13, 12)
    assert [(fault.code, fault.count) for fault in report.faults] == [
        (ErrorCode.EMPTY_TEXT, 12),
        (ErrorCode.INVALID_CSV, 1),
    ]
    assert [(place.row, place.source, place.line) for place in report.faults[0].first] == [
        (2, "in.csv", 3),
        (4, "in.csv", 5),
        (6, "in.csv", 7),
        (7, "in.csv", 8),
        (8, "in.csv", 9),
    ]
    assert report.text_bytes == len("One.Three words here.")
    assert (report.duplicate_ids, report.ids_compared) == (8, 13)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=700))
def test_lengths_are_those_of_a_count_by_hand(texts: list[str]) -> None:
    with Inputs.of_texts(texts) as inputs:
        report = read_report(inputs)
    good = [text for text in texts if text and not text.isspace()]
    lengths = sorted(map(len, good))

    assert (report.rows, report.good) == (len(texts), len(good))
    if not good:
        assert report.characters.histogram == ()
        return
    assert (report.characters.least, report.characters.most) == (lengths[0], lengths[-1])
    assert report.characters.median == lengths[(len(lengths) - 1) // 2]
    assert report.characters.mean == round(fmean(lengths), 1)
    assert sum(length <= report.characters.p95 for length in lengths) * 100 >= 95 * len(lengths)
    for bin in report.characters.histogram:
        assert bin.rows == sum(bin.least <= length <= bin.most for length in lengths)
    assert sum(bin.rows for bin in report.words.histogram) == len(good)
    assert report.words.most == max(len(text.split()) for text in good)
    assert report.text_bytes == sum(len(text.encode()) for text in good)
    order = sorted(range(len(texts)), key=lambda at: (-len(texts[at]), at))
    expected = [at + 1 for at in order if texts[at] and not texts[at].isspace()]
    assert [text.row for text in report.longest] == expected[:5]


def test_each_input_says_its_format_and_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"custom_id": "x", "sentence": "One."}\n{"sentence": "Two."}\n')
    (tmp_path / "b.txt").write_text("Three.\n")
    with Inputs.open([tmp_path / "a.jsonl", tmp_path / "b.txt"], names=["a", "b"]) as inputs:
        report = read_report(inputs)

    assert [(f.name, f.format, f.text_field, f.id_field, f.rows) for f in report.inputs] == [
        ("a", "jsonl", "sentence", "custom_id", 2),
        ("b", "txt", None, None, 1),
    ]
    assert report.inputs[1].bytes == 7

    numbered = report_on(tmp_path, "c.tsv", "1\tOne.\n", has_header=False, text_field="2")
    assert (numbered.inputs[0].text_field, numbered.inputs[0].id_field) == ("2", None)


@pytest.mark.parametrize(("rows", "lane", "chunks"), [(64, Lane.EXPRESS, 7), (65, Lane.BULK, 7), (71, Lane.BULK, 8)])
def test_lane_and_chunks_are_those_of_the_submit(rows: int, lane: Lane, chunks: int) -> None:
    with Inputs.of_texts(["A sentence."] * rows) as inputs:
        report = read_report(inputs, chunk_rows=10)
    with Inputs.of_texts(["A sentence."] * rows) as inputs:
        named = read_report(inputs, lane="express")

    assert (report.lane, report.chunks) == (lane, chunks)
    assert named.lane is Lane.EXPRESS


def test_limits_and_lanes_are_checked_as_a_submit_does() -> None:
    with Inputs.of_texts(["A sentence."] * 11) as inputs, pytest.raises(LimitError, match="SCOREQUEUE_MAX_JOB_ROWS"):
        read_report(inputs, max_rows=10)
    with Inputs.of_texts(["A sentence."]) as inputs, pytest.raises(UsageError, match="lane"):
        read_report(inputs, lane="slow")


def test_ids_are_compared_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays flat: the report says how many were compared."""
    monkeypatch.setattr(producer.tally, "MOST_IDS", 1000)
    ids = [n % 700 for n in range(5000)]

    report = report_on(tmp_path, "in.csv", "id,text\n" + "".join(f"{n},One.\n" for n in ids))

    repeats = sum(count - 1 for count in Counter(ids[:1000]).values())
    assert (report.ids_compared, report.duplicate_ids) == (1000, repeats)
