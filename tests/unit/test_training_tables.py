"""Files of sentences and labels: texts stay texts, labels stay names, and no row is lost without a word."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorequeue.errors import InputError, MissingFieldError, UsageError
from training import sources
from training.splitting import count_contradictions, find_leaks, is_for_dev, order_labels
from training.table_formats import SUFFIXES
from training.tables import read_table

COLA = Path(__file__).resolve().parents[3] / "shared/data/cola"
ROWS = [("He said no.", "yes"), ("None", "no"), ('A "quoted", one\u2028here', "yes"), ("nan", "no"), ("12", "NA")]


def write(file: Path, rows: list[tuple[Any, ...]], columns: tuple[str, ...] = ("text", "label")) -> Path:
    """Write a table in the format of its name, as its usual writer does."""
    suffix = file.name.partition(".")[2]
    if suffix == "parquet":
        pq.write_table(pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)}), file)
        return file
    out = io.StringIO(newline="")
    if suffix.startswith("jsonl"):
        out.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    elif suffix.startswith("csv"):
        csv.writer(out).writerows([columns, *rows])
    else:
        out.writelines("\t".join(map(str, row)) + "\n" for row in (columns, *rows))
    content = out.getvalue().encode()
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return file


def sentences(count: int, *, labels: tuple[Any, ...] = ("no", "yes")) -> list[tuple[Any, ...]]:
    return [(f"Sentence number {row}.", labels[row % len(labels)]) for row in range(count)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_texts_and_labels_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    """A reader that guesses types makes nothing of the texts None and nan, and a number of 12."""
    table = read_table(write(tmp_path / f"in{suffix}", ROWS))

    assert list(zip(table.texts, table.labels, strict=True)) == ROWS
    assert table.faults == []


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\r\n"), min_size=1).filter(
                str.strip
            ),
            st.text(st.characters(categories=["L", "N"], max_codepoint=0x2FF), min_size=1),
        ),
        min_size=1,
        max_size=8,
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
)
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], suffix: str) -> None:
    table = read_table(write(tmp_path_factory.mktemp("any") / f"in{suffix}", rows))

    assert list(zip(table.texts, table.labels, strict=True)) == rows


def test_quoted_fields_may_hold_line_ends_and_faults_still_name_their_line(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes('\ufefftext,label\r\n"two\nlines",1\r\n\r\n,0\r\nlast,1\r\n'.encode())

    table = read_table(file)

    assert table.texts == ["two\nlines", "last"]
    assert table.faults == [f"{file}:5 has no text"]


@pytest.mark.parametrize(
    ("columns", "options", "chosen"),
    [
        (("text", "label"), {}, ("text", "label")),
        (("label", "sentence"), {}, ("sentence", "label")),
        (("class", "review"), {}, ("review", "class")),
        (("idx", "labels", "review", "source"), {}, ("review", "labels")),
        (("", "text", "verdict"), {}, ("text", "verdict")),
        (("text", "sentence", "label"), {"text_field": "sentence"}, ("sentence", "label")),
        (("text", "label", "class"), {"label_field": "class"}, ("text", "class")),
        (("label", "grade"), {"text_field": "label", "label_field": "grade"}, ("label", "grade")),
    ],
)
def test_columns_are_found_by_name(
    tmp_path: Path, columns: tuple[str, ...], options: dict[str, str], chosen: tuple[str, str]
) -> None:
    rows = [tuple(f"{name} of {row}" for name in columns) for row in range(3)]

    table = read_table(write(tmp_path / "in.csv", rows, columns), **options)

    assert (table.text_field, table.label_field) == chosen
    assert table.texts == [f"{chosen[0]} of {row}" for row in range(3)]
    assert table.labels == [f"{chosen[1]} of {row}" for row in range(3)]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (("a", "b", "c"), {}, r"holds the texts \(.*found 'a', 'b', 'c'; name it with --text-field"),
        (("text", "a", "b"), {}, r"holds the labels \(.*found 'text', 'a', 'b'; name it with --label-field"),
        (("text", "label"), {"text_field": "body"}, r"no column 'body' \(--text-field\); found 'text', 'label'"),
        (("text", "label"), {"label_field": "text"}, r"holds the texts \("),
        (("text", "label"), {"text_field": "label", "label_field": "label"}, "cannot hold both"),
        (("text", "text", "label"), {}, "two columns 'text'"),
    ],
)
def test_columns_that_cannot_be_told_are_named(
    tmp_path: Path, columns: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    file = write(tmp_path / "in.csv", [tuple("x" for _ in columns)], columns)

    with pytest.raises(UsageError, match=message) as caught:
        read_table(file, **options)

    assert isinstance(caught.value, MissingFieldError | InputError)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"", "is empty"),
        ("in.csv", b"text,label\n", "holds no row"),
        ("in.csv", b"text,label\na,\xff\n", "is not UTF-8 .byte 13"),
        ("in.csv", b'text,label\na,1\n"b,0\nc,1\n', ":3 is not csv"),
        ("in.tsv", b"\n\n", "is empty"),
        ("in.jsonl", b"\n", "is empty"),
        ("in.csv", b'text,label\n"' + b"x" * (2**24 + 1) + b'",1\n', ":2 has a field of more than 16,777,216 char"),
        ("in.jsonl", b"text,label\na,1\n", "holds no JSON object"),
        ("in.jsonl", b"[" * 100_000, "holds no JSON object"),
        ("in.parquet", b"PAR1", "not a whole parquet file"),
        ("in.csv.gz", b"text,label\n", "not a whole gzip file"),
        ("in.csv.gz", gzip.compress(b"text,label\na,1\n", mtime=0)[:-6], "not a whole gzip file"),
        ("in.txt", b"text\n", "unknown kind; expected a name that ends with"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=message) as caught:
        sources.load(str(tmp_path / name), seed=0)

    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


FAULTY = [
    ({"text": "", "label": "a"}, "has no text"),
    ({"text": " \n", "label": "a"}, "has an empty text"),
    ({"label": "a"}, "has no text"),
    ({"text": 3, "label": "a"}, "has a text that is of type int"),
    ({"text": "\ud800", "label": "a"}, "has a text that is not Unicode"),
    ({"text": "x", "label": "a\x1b[31m"}, "has a label with control characters"),
    ({"text": "x", "label": "a\nError: b"}, "has a label with control characters"),
    ({"text": "x", "label": "b\ud800"}, "has a label that is not Unicode"),
    ({"text": "x", "label": "a", "source": "\ud800"}, "has a source that is not Unicode"),
    ({"text": "x"}, "has no label"),
    ({"text": "x", "label": " "}, "has no label"),
    ({"text": "x", "label": float("nan")}, "has no label"),
    ({"text": "x", "label": 0.73}, "has the label 0.73; labels are names or whole numbers"),
    ({"text": "x", "label": ["a"]}, "has a label that is of type list"),
]


@pytest.mark.parametrize(("row", "reason"), FAULTY)
def test_a_row_that_cannot_be_used_is_left_out_with_line_and_reason(
    tmp_path: Path, row: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in sentences(200)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines[:6], json.dumps(row), *lines[6:]]))

    with caplog.at_level(logging.WARNING):
        dataset = sources.load(str(tmp_path / "in.jsonl"), seed=0)

    assert len(dataset.train) + len(dataset.dev) == 200
    assert dataset.describe()["left_out"] == {"faulty": 1}
    assert caplog.messages == [f"1 of 201 rows left out: {tmp_path}/in.jsonl:7 {reason}"]


def test_a_long_document_in_csv_is_a_row_as_any_other(tmp_path: Path) -> None:
    """Python's csv module takes 131,072 characters unless told otherwise."""
    text = "One more sentence. " * 50_000

    assert read_table(write(tmp_path / "in.csv", [(text, "yes"), ("Short.", "no")])).texts == [text, "Short."]


def test_labels_that_look_alike_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are two words for one thing more often than not, and nobody sees it in a figure."""
    file = write(tmp_path / "in.csv", sentences(200, labels=("yes", "Yes", "no", " NO", "not  sure", "not sure", "b")))

    with caplog.at_level(logging.WARNING):
        dataset = sources.load(str(file), seed=0)

    assert len(dataset.labels) == 7
    assert caplog.messages == [
        "labels differ only in case or spaces, and are learned as different ones: "
        "'NO', 'no'; 'Yes', 'yes'; 'not  sure', 'not sure'"
    ]


def test_too_many_faulty_rows_are_refused_with_the_first_three(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("text\tlabel\n" + "one\t1\n" * 10 + "two\n" * 4)

    with pytest.raises(InputError, match=r"4 of 14 rows .* more than the 5%") as caught:
        sources.load(str(tmp_path / "in.tsv"), seed=0)

    assert str(caught.value).count("has 1 fields, the header 2") == 3
    assert ":12 " in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("yes", "no"), ("no", "yes")),
        ((10, 9, 2), ("2", "9", "10")),
        ((1, 0, -1), ("-1", "0", "1")),
        ((True, False), ("false", "true")),
        ((1.0, 0.0), ("0", "1")),
        (("b", "1", "a"), ("1", "a", "b")),
    ],
)
def test_labels_have_an_order_that_does_not_depend_on_the_rows(
    tmp_path: Path, labels: tuple[Any, ...], names: tuple[str, ...]
) -> None:
    file = write(tmp_path / "in.jsonl", sentences(120, labels=labels))

    dataset = sources.load(str(file), seed=0)

    assert dataset.labels == names
    assert order_labels(reversed(names)) == names
    assert sum(dataset.describe()["train_labels"].values()) == len(dataset.train)


def test_names_that_datasets_noted_in_a_parquet_file_are_the_labels(tmp_path: Path) -> None:
    """What `push_to_hub` and `to_parquet` write: numbers in the column, names beside it, -1 for no label."""
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["unacceptable", "acceptable"])}
    )
    rows = {"sentence": [f"Row {row}" for row in range(100)], "label": [row % 2 for row in range(99)] + [-1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "in.parquet")

    table = read_table(tmp_path / "in.parquet")

    assert table.labels[:3] == ["unacceptable", "acceptable", "unacceptable"]
    assert table.faults == [f"{tmp_path}/in.parquet:100 has no label"]


def test_nested_columns_of_a_parquet_file_are_not_in_the_way(tmp_path: Path) -> None:
    table = pa.table(
        {"embedding": [[0.1, 0.2]] * 2, "text": ["a", "b"], "label": pa.array(["x", "y"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "in.parquet")

    assert read_table(tmp_path / "in.parquet").labels == ["x", "y"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (sentences(100, labels=("only",)), "only the label 'only' in train; 2 or more"),
        ([(f"Text {row}", f"id {row}") for row in range(100)], "looks like no label; name the column"),
        (sentences(2), "none of them falls into dev"),
    ],
)
def test_data_that_nothing_can_be_learned_from_is_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sources.load(str(write(tmp_path / "in.csv", rows)), seed=0)


def test_a_file_is_split_by_its_texts_alone() -> None:
    """The sides of these texts are for ever: another rule would let a champion be judged on what it learned."""
    texts = [f"Sentence number {row}." for row in range(40)]

    assert [row for row, text in enumerate(texts) if is_for_dev(text)] == [3, 20, 22, 26]


@given(text=st.text())
def test_case_and_spacing_do_not_move_a_text(text: str) -> None:
    assert is_for_dev(f"  {text}\n") == is_for_dev(text)
    assert not text.isascii() or is_for_dev(text.upper()) == is_for_dev(text.lower())


def test_about_a_tenth_of_the_texts_is_for_dev() -> None:
    count = sum(is_for_dev(f"Sentence number {row}.") for row in range(10_000))

    assert 900 < count < 1100  # 3.3 standard deviations of a fair draw


def test_a_row_stays_on_its_side_while_the_file_grows(tmp_path: Path) -> None:
    rows = sentences(400)
    before = sources.load(str(write(tmp_path / "in.csv", rows[:300])), seed=0)

    after = sources.load(str(write(tmp_path / "in.csv", rows[::-1])), seed=1)

    assert set(before.train.texts) <= set(after.train.texts)
    assert set(before.dev.texts) <= set(after.dev.texts)
    assert set(after.train.texts).isdisjoint(after.dev.texts)


def test_a_label_that_only_dev_has_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = sentences(100)
    rare = next(text for text in (f"Rare {row}" for row in range(1000)) if is_for_dev(text))

    with caplog.at_level(logging.WARNING):
        dataset = sources.load(str(write(tmp_path / "in.csv", [*rows, (rare, "maybe")])), seed=0)

    assert dataset.labels == ("no", "yes")
    assert rare not in dataset.dev.texts
    assert caplog.messages == ["1 rows left out of dev: train has no row of their label"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the three parts in three formats; dev holds one text of train in other spacing and case."""
    write(tmp_path / "train.csv", [*sentences(20), ("Of test", "yes")])
    write(tmp_path / "validation.jsonl", [("SENTENCE  number 3.", "no"), ("Of dev", "yes"), ("Other", "no")])
    write(tmp_path / "test.parquet", [("Of test", "yes"), ("Last", "no")])
    return tmp_path


def test_what_is_judged_on_is_taken_out_of_train(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = sources.load(str(folder), seed=0)

    assert (len(dataset.train), len(dataset.dev)) == (19, 3)
    assert {"Sentence number 3.", "Of test"}.isdisjoint(dataset.train.texts)
    assert dataset.describe()["left_out"] == {"leaked": 2}
    assert caplog.messages == ["2 rows left out of train: their texts are in dev or test too"]


def test_leaks_are_positions_in_train() -> None:
    assert find_leaks(["a", "B ", "c", "b"], ["b", "d"]) == {1, 3}


def test_contradictory_rows_are_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*sentences(100), ("Sentence number 3.", "no"), ("Sentence number 5.", "yes")]

    with caplog.at_level(logging.WARNING):
        dataset = sources.load(str(write(tmp_path / "in.csv", rows)), seed=0)

    assert len(dataset.train) + len(dataset.dev) == 102
    assert caplog.messages == ["1 texts come with two labels or more; all are kept"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: write(folder / "dev.csv", sentences(4)), "two files of dev, dev.csv and validation.jsonl"),
        (
            lambda folder: write(folder / "validation.jsonl", [("Of dev", "Yes")]),
            "label 'Yes'; expected one of 'no', 'yes'",
        ),
        (lambda folder: (folder / "train.csv").unlink(), "nothing to train on"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "holds no dataset; expected train.csv"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_refused(folder: Path, spoil: Any, message: str) -> None:
    spoil(folder)

    with pytest.raises(InputError, match=message):
        sources.load(str(folder), seed=0)


def test_a_part_has_the_rows_of_the_fit_under_a_versions_indices(folder: Path) -> None:
    dataset = sources.load(str(folder), seed=0)

    dev = sources.load_split(str(folder), "validation", seed=0, labels=("yes", "maybe", "no"))
    own = sources.load_split(str(folder), "dev", seed=0)

    assert own == dataset.dev
    assert dev.texts == dataset.dev.texts
    assert dev.labels == (2, 0, 2)
    assert dev.fingerprint(("yes", "maybe", "no")) == dataset.describe()["dev_fingerprint"]
    assert sources.load_split(str(folder), "test", seed=0, labels=("no", "yes")).labels == (1, 0)
    assert len(sources.load_split(str(folder), "all", seed=0, labels=("no", "yes"))) == 26


def test_a_split_of_a_file_is_that_of_the_fit(tmp_path: Path) -> None:
    file = str(write(tmp_path / "in.csv", [(*row, "web") for row in sentences(200)], ("text", "label", "source")))
    dataset = sources.load(file, seed=0)

    train, dev, whole = (
        sources.load_split(file, part, seed=7, labels=dataset.labels) for part in ("train", "dev", "all")
    )

    assert (train, dev) == (dataset.train, dataset.dev)
    assert len(whole) == 200
    assert dev.sources == ("web",) * len(dev)


def test_a_file_to_judge_by_may_hold_one_label_only(tmp_path: Path) -> None:
    file = str(write(tmp_path / "golden.csv", sentences(3, labels=("yes",))))

    assert sources.load_split(file, "all", seed=0, labels=("no", "yes")).labels == (1, 1, 1)


def test_whole_numbers_are_places_among_a_versions_words(tmp_path: Path) -> None:
    file = str(write(tmp_path / "in.csv", sentences(4, labels=(0, 1))))

    assert sources.load_split(file, "all", seed=0, labels=("unacceptable", "acceptable")).labels == (0, 1, 0, 1)
    assert sources.load_split(file, "all", seed=0, labels=("1", "0")).labels == (1, 0, 1, 0)
    with pytest.raises(InputError, match="label '1'; expected one of 'only'"):
        sources.load_split(file, "all", seed=0, labels=("only",))


@pytest.mark.parametrize("rows", [(0,), (0, 1)])
def test_whole_numbers_are_no_places_among_other_numbers(tmp_path: Path, rows: tuple[int, ...]) -> None:
    """A file of zeros says nothing of a version that calls its labels 1 and 2: read as places, each row was turned."""
    file = str(write(tmp_path / "in.csv", sentences(4, labels=rows)))

    with pytest.raises(InputError, match="label '0'; expected one of '1', '2'"):
        sources.load_split(file, "all", seed=0, labels=("1", "2"))


def test_named_datasets_are_matched_by_name_or_by_place() -> None:
    own = sources.load("sample", seed=0)

    turned = sources.load_split("sample", "dev", seed=0, labels=("acceptable", "unacceptable"))
    nameless = sources.load_split("sample", "dev", seed=0, labels=("LABEL_0", "LABEL_1"))

    assert turned.labels == tuple(1 - label for label in own.dev.labels)
    assert nameless == own.dev
    with pytest.raises(UsageError, match="the version has good, bad"):
        sources.load_split("sample", "dev", seed=0, labels=("good", "bad"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "test"), "sample has no split test; it has train, dev"),
        (("sample", "holdout"), "no split 'holdout'; expected train, dev, test, all"),
        (("no-such.csv", "dev"), "no dataset 'no-such.csv'; expected sample, cola, a file"),
    ],
)
def test_a_part_that_is_not_there_is_said(arguments: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sources.load_split(*arguments, seed=0)


def test_columns_are_named_for_files_only() -> None:
    with pytest.raises(UsageError, match="--text-field and --label-field are for files"):
        sources.load("sample", seed=0, text_field="sentence")


@pytest.mark.data
@pytest.mark.skipif(not COLA.exists(), reason="the optional real sentences are not beside the repository")
def test_colas_own_files_are_as_the_docs_say(tmp_path: Path) -> None:
    """Its layout is read as it is, leaks and all; the same rows as tables are split by the same words."""
    cola = sources.load(str(COLA), seed=0)
    for name, part in (("train", cola.train), ("dev", cola.dev)):
        rows = [(text, cola.labels[label]) for text, label in zip(part.texts, part.labels, strict=True)]
        write(tmp_path / f"{name}.csv", rows)

    tables = sources.load(str(tmp_path), seed=0)

    assert (len(cola.train), len(cola.dev)) == (8551, 527)
    assert tables.describe()["left_out"] == {"leaked": 6}
    assert tables.dev.fingerprint(tables.labels) == cola.dev.fingerprint(cola.labels)
    assert count_contradictions(cola.train.texts, [str(label) for label in cola.train.labels]) == 11
