"""Inputs become rows; whatever is wrong with a line stays with that line."""

from __future__ import annotations

import contextlib
import encodings.aliases
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.readers import ReaderOptions, delimited, open_input
from producer.readers.streams import BLOCK_BYTES, MAX_LINE_CHARACTERS
from scorequeue.errors import InputError, MissingFieldError, UsageError
from scorequeue.jobs import ErrorCode, Row

FORMATS = ("txt", "csv", "tsv", "jsonl")
"""Those of lines; parquet has a module of its own."""

SUFFIXES = {"txt": ".txt", "csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl"}


@pytest.fixture
def read(tmp_path: Path):
    """Write content to a file of a name and read it back as rows."""

    def read(content: bytes | str, name: str = "in.txt", **options) -> list[Row]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with open_input(path, ReaderOptions(**options), name=name) as reader:
            return list(reader)

    return read


def texts(rows: list[Row]) -> list[str]:
    return [row.text for row in rows]


def faults(rows: list[Row]) -> list[tuple[int | None, str]]:
    return [(row.line, row.error.code.value) for row in rows if row.error is not None]


# --- txt ---


def test_every_line_of_a_txt_is_a_row_with_its_place(read):
    rows = read('Who did you see?\nA "quote", a\ttab.\n')

    assert rows == [
        Row("Who did you see?", None, "in.txt", 1),
        Row('A "quote", a\ttab.', None, "in.txt", 2),
    ]


def test_inner_blank_lines_are_failed_rows_and_last_ones_are_none(read):
    rows = read("one\n\n   \ntwo\n\n \n\n")

    assert texts(rows) == ["one", "", "", "two"]
    assert faults(rows) == [(2, "empty_text"), (3, "empty_text")]


def test_blank_lines_across_blocks_keep_the_numbers(read):
    """Blank lines are held back until it is known whether they are the last ones; a block may end among them."""
    blanks = BLOCK_BYTES + 10
    rows = read("one\n" + "\n" * blanks + "two\n")

    assert len(rows) == blanks + 2
    assert rows[-1].line == blanks + 2


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_ends_of_either_kind_are_no_part_of_the_text(read, end, last):
    last_end = end if last else ""
    assert texts(read(f"one{end}two{last_end}")) == ["one", "two"]


def test_a_carriage_return_split_from_its_newline_is_dropped(read):
    """Blocks are decoded one at a time, and a block may end between the two."""
    line = "x" * (BLOCK_BYTES - 17)
    rows = read(line + "\r\n" + "y" * 40 + "\r\nz\r\n", max_text_bytes=10**7)

    assert texts(rows) == [line, "y" * 40, "z"]


def test_odd_line_separators_stay_in_the_text(read):
    assert texts(read("a\u2028b\x0bc\x85d\n")) == ["a\u2028b\x0bc\x85d"]


def test_nul_bytes_are_kept(read):
    assert texts(read(b"A sentence with a \x00 in it.\n")) == ["A sentence with a \x00 in it."]


def test_invalid_utf8_costs_its_own_line_only(read):
    rows = read(b"A good sentence stands first.\nThen one caf\xe9 in latin-1.\nAnd a good one again.\n")

    assert faults(rows) == [(2, "invalid_utf8")]
    assert texts(rows)[2] == "And a good one again."


def test_text_over_the_limit_fails_by_bytes(read):
    rows = read("é" * 10 + "\n" + "é" * 11 + "\n" + "e" * 21 + "\n", max_text_bytes=20)

    assert faults(rows) == [(2, "text_too_long"), (3, "text_too_long")]
    assert "20 bytes" in rows[1].error.message


def test_a_line_that_would_fill_the_memory_is_cut_and_fails(tmp_path):
    """A file without line breaks must not take the producer down."""
    path = tmp_path / "in.txt"
    with path.open("wb") as file:
        file.write(b"first\n")
        for _ in range(6):
            file.write(b"x" * (MAX_LINE_CHARACTERS // 2))
        file.write(b"\nlast\n")

    tracemalloc.start()
    with open_input(path) as reader:
        rows = list(reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert faults(rows) == [(2, "text_too_long")]
    assert (rows[2].text, rows[2].line) == ("last", 3)
    assert peak < 4 * MAX_LINE_CHARACTERS


@pytest.mark.parametrize("last", ["", "two\n"], ids=["at-the-end", "inside"])
def test_blank_lines_of_different_kinds_take_no_memory(tmp_path, last):
    """Whether they are rows shows with the next line that is not blank; until then they wait."""
    path = tmp_path / "in.txt"
    path.write_text("one\n" + " \n\n\t\r\n" * 100_000 + last)
    tracemalloc.start()
    with open_input(path) as reader:
        lines = [row.line for row in reader if row.error is None or row.line % 100_000 == 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert lines == ([1, *range(100_000, 300_001, 100_000), 300_002] if last else [1])
    assert peak < 16_000_000


def test_blank_lines_stay_as_they_are(tmp_path):
    """A join writes them again."""
    blanks = ["", " ", "\t", "\u3000", " " * 300_000, "", "\x0b"] * 3
    path = tmp_path / "in.txt"
    path.write_bytes("\n".join(["one", *blanks, "two"]).encode())
    with open_input(path) as reader:
        assert [record for _, (record,) in reader.records()] == ["one", *blanks, "two"]


# --- csv ---


def test_csv_fields_may_hold_delimiters_quotes_and_newlines(read):
    rows = read('id,text\n7,"He said ""no"", and\nleft."\n8,Fine.\n', "in.csv")

    assert rows == [
        Row('He said "no", and\nleft.', "7", "in.csv", 2),
        Row("Fine.", "8", "in.csv", 4),
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1,one", "2", "3,three"], [(3, "invalid_csv")]),
        (["1,one", "2,two,too many", "3,three"], [(3, "invalid_csv")]),
        (["1,one", '2,"two" stray', "3,three"], [(3, "invalid_csv")]),
        (["1,one", '2,"never closed', "3,three"], [(3, "invalid_csv")]),
        (["1,one", "2,", "3,three"], [(3, "empty_text")]),
        (["1,one", "", "3,three"], [(3, "empty_text")]),
        (["1,one", "2,t\rwo", "3,three"], [(3, "invalid_csv")]),
    ],
    ids=["short", "long", "stray-quote", "open-quote", "empty", "blank", "carriage-return"],
)
def test_a_bad_csv_record_costs_its_own_line_only(read, lines, expected):
    rows = read("\n".join(["id,text", *lines]) + "\n", "in.csv")

    assert faults(rows) == expected
    assert texts(rows) == ["one", "", "three"]


def test_an_open_quote_does_not_swallow_a_large_file(read):
    good = "".join(f"{n},sentence number {n}\n" for n in range(20_000))
    rows = read('id,text\n0,"open\n' + good, "in.csv")

    assert faults(rows) == [(2, "invalid_csv")]
    assert len(rows) == 20_001
    assert rows[-1] == Row("sentence number 19999", "19999", "in.csv", 20_002)


def test_a_huge_csv_field_is_too_long_and_not_bad_csv(read):
    rows = read("text\n" + "x" * 200_000 + "\nshort\n", "in.csv")

    assert faults(rows) == [(2, "text_too_long")]
    assert rows[1].text == "short"


def test_a_quoted_field_of_thousands_of_lines_is_one_field(read):
    """Taken for an open quote, its lines would be scored as sentences with ids of their own."""
    body = "A line of a long body, with commas, and more of them than columns.\n" * 4_000

    rows = read(f'id,text,body\n1,One.,"{body}"\n2,Two.,short\n', "in.csv")

    assert rows == [Row("One.", "1", "in.csv", 2), Row("Two.", "2", "in.csv", 4_003)]


def test_only_the_length_of_the_text_counts(read):
    """A row of a short sentence beside a long comment can be scored."""
    rows = read("text,body\nOne.," + "x" * 200_000 + "\n" + "x" * 200_000 + ",Two.\n", "in.csv")

    assert texts(rows)[0] == "One."
    assert faults(rows) == [(3, "text_too_long")]


def test_a_file_of_broken_quotes_is_read_in_proportion_to_its_size(read, monkeypatch):
    """Where each line closes one quote and opens the next, each would have the rest of the file read again."""
    fed = 0

    def counted(*args):
        nonlocal fed
        for line in feed(*args):
            fed += 1
            yield line

    feed = delimited._feed
    monkeypatch.setattr(delimited, "_feed", counted)

    rows = read("a,b,text\n" + 'x",y,"z\n' * 8_000, "in.csv")

    assert faults(rows) == [(line, "invalid_csv") for line in range(2, 8_002)]
    assert fed < 8_000 * 500


@pytest.mark.parametrize(("name", "content"), [("in.csv", "1;hello\n2;bye\n"), ("in.tsv", "1,hello\n2,bye\n")])
def test_another_delimiter_shows_without_a_header_too(read, name, content):
    """Whole records would be scored as sentences."""
    with pytest.raises(InputError, match=r"got a first line with '[;,]' in it: '1[;,]hello'; say --delimiter"):
        read(content, name, has_header=False)

    assert len(read(content, name, has_header=False, text_field="1")) == 2


def test_punctuation_is_no_delimiter(read):
    assert len(read("Well, well; who knows?\n", "in.tsv", has_header=False)) == 1


def test_an_unquoted_field_may_hold_a_quote(read):
    assert texts(read('text\n5" pipe\n', "in.csv")) == ['5" pipe']


def test_csv_delimiter_can_be_named(read):
    assert texts(read("a;text\n1;x, y\n", "in.csv", delimiter=";")) == ["x, y"]


# --- tsv ---


def test_tsv_has_no_quoting(read):
    assert texts(read('text\tlabel\n"Quoted" he said\t1\n"open\t0\n', "in.tsv")) == ['"Quoted" he said', '"open']


def test_tsv_without_header_goes_by_number(read):
    rows = read("gj04\t1\t\tOne more.\ngj04\t0\t*\tOne mores.\n", "in.tsv", has_header=False, text_field="4")

    assert texts(rows) == ["One more.", "One mores."]
    assert rows[0].line == 1


def test_tsv_record_with_other_width_fails_alone(read):
    rows = read("id\ttext\n1\tone\n2\ttwo\tstray\n3\tthree\n", "in.tsv")

    assert faults(rows) == [(3, "invalid_csv")]
    assert "expected 2 tab-separated fields, got 3" in rows[1].error.message


# --- columns ---


@pytest.mark.parametrize("header", ["text", "sentence", "id,text", "sentence,text", "anything"])
def test_text_column_is_found_by_its_usual_name_or_by_being_the_only_one(read, header):
    width = header.count(",")
    fields = ["x"] * width + ["the sentence"] if not header.startswith("sentence,") else ["x", "the sentence"]
    assert texts(read(f"{header}\n{','.join(fields)}\n", "in.csv")) == ["the sentence"]


@pytest.mark.parametrize("field", ["b", "2"])
def test_text_column_can_be_named_or_numbered(read, field):
    assert texts(read("a,b\n1,here\n", "in.csv", text_field=field)) == ["here"]


@pytest.mark.parametrize("options", [{}, {"text_field": "c"}, {"text_field": "3"}, {"text_field": "0"}])
def test_a_missing_text_column_names_those_that_are_there(read, options):
    with pytest.raises(MissingFieldError, match=r"in\.csv.*'a', 'b'.*--text-field"):
        read("a,b\n1,2\n", "in.csv", **options)


def test_a_missing_id_column_names_those_that_are_there(read):
    with pytest.raises(MissingFieldError, match=r"'k'.*'text'.*--id-field"):
        read("text\nx\n", "in.csv", id_field="k")


def test_without_header_several_columns_need_a_number(read):
    with pytest.raises(MissingFieldError, match="--text-field NUMBER"):
        read("a,b\n1,2\n", "in.csv", has_header=False)


def test_byte_order_mark_is_no_part_of_the_header(read):
    assert texts(read("\ufefftext,x\na,b\n", "in.csv")) == ["a"]


@pytest.mark.parametrize("options", [{}, {"text_field": "text"}])
def test_a_text_column_that_is_there_twice_has_to_be_numbered(read, options):
    """Nobody knows which one is meant, and half of the scores would be of the wrong sentences."""
    with pytest.raises(MissingFieldError, match=r"expected one column 'text', found 2; say --text-field NUMBER"):
        read("text,text\na,b\n", "in.csv", **options)

    assert texts(read("text,text\na,b\n", "in.csv", text_field="2")) == ["b"]


@pytest.mark.parametrize(
    ("name", "content", "options", "advice"),
    [
        ("in.csv", "a,b\n1,2\n", {}, "NAME or NUMBER (and --no-header if the first line is no header)"),
        ("in.csv", "a,b\n1,2\n", {"has_header": False, "text_field": "3"}, "NUMBER"),
        ("in.jsonl", '{"a": 1, "b": 2}\n', {}, "NAME"),
    ],
)
def test_a_missing_column_is_answered_with_what_the_format_has(read, name, content, options, advice):
    """jsonl has no header and no numbers; advice that does nothing costs a try."""
    with pytest.raises(MissingFieldError) as caught:
        read(content, name, **options)

    assert str(caught.value).endswith(f"; say --text-field {advice}")


# --- jsonl ---


def test_jsonl_takes_text_and_id(read):
    rows = read(
        '{"custom_id": "a", "text": "One."}\n{"text": "Two.", "custom_id": 7}\n{"text": "Three."}\n', "in.jsonl"
    )

    assert [(row.id, row.text, row.line) for row in rows] == [("a", "One.", 1), ("7", "Two.", 2), (None, "Three.", 3)]


@pytest.mark.parametrize("value", ["{}", "true", "1.5", "[1]"])
def test_a_json_id_of_another_type_is_a_fault_only_if_it_was_asked_for(read, value):
    """A field that happens to be called id costs no row its score."""
    line = f'{{"text": "One.", "id": {value}}}\n'

    assert read(line, "in.jsonl") == [Row("One.", None, "in.jsonl", 1)]
    assert faults(read(line, "in.jsonl", id_field="id")) == [(1, "wrong_type")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", "id,text\n,One.\n,\u00e9\n"),
        ("in.tsv", "id\ttext\n\tOne.\n\t\u00e9\n"),
        ("in.jsonl", '{"id": "", "text": "One."}\n{"id": "", "text": "\u00e9"}\n'),
    ],
)
def test_an_empty_id_is_the_position(read, name, content):
    """Nobody finds a row by an empty id."""
    assert [(row.id, row.text) for row in read(content, name)] == [(None, "One."), (None, "\u00e9")]


def test_an_id_that_comes_after_the_first_object_is_told(tmp_path):
    """The note said that positions are the ids, and ids were used."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "One."}\n{"text": "Two.", "id": 2.0}\n')
    with open_input(path) as reader:
        rows = reader.records()
        before, ids = reader.description, [row.id for row, _ in rows]

        assert before == "jsonl, text field 'text', id field 'id' or 'custom_id' where an object has one"
        assert ids == [None, "2"]
        assert reader.description == "jsonl, text field 'text', id field 'id'"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"text": 5}', "wrong_type"),
        ('{"text": null}', "wrong_type"),
        ('{"text": ["a"]}', "wrong_type"),
        ('"just a text"', "wrong_type"),
        ("5", "wrong_type"),
        ("null", "wrong_type"),
        ('{"text": "a", "id": "' + "i" * 2000 + '"}', "wrong_type"),
        ('{"text": "  "}', "empty_text"),
        ("", "empty_text"),
        ('{"text": "a"', "invalid_json"),
        ("{'text': 'a'}", "invalid_json"),
        ('{"text": "a"} x', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("9" * 5000, "invalid_json"),
        ('{"label": "a"}', "missing_field"),
        ("{}", "missing_field"),
        ('{"text": "\\ud800"}', "invalid_utf8"),
        ('{"text": "a", "id": "\\ud800"}', "invalid_utf8"),
        ('{"text": "' + "x" * 20_000 + '"}', "text_too_long"),
    ],
)
def test_a_bad_json_line_costs_its_own_line_only(read, line, code):
    rows = read('{"text": "one"}\n' + line + '\n{"text": "three"}\n', "in.jsonl")

    assert faults(rows) == [(2, code)]
    assert texts(rows) == ["one", "", "three"]


def test_bytes_that_are_no_utf8_in_json_are_told_apart_from_bad_json(read):
    rows = read(b'{"text": "one and a good deal more"}\n{"text": "caf\xe9"}\n{"te\xe9xt\n', "in.jsonl")

    assert faults(rows) == [(2, "invalid_utf8"), (3, "invalid_utf8")]


def test_json_fields_that_are_missing_are_listed(read):
    with pytest.raises(MissingFieldError, match=r"'a', 'b'.*--text-field"):
        read('{"a": "x", "b": "y"}\n', "in.jsonl")


@pytest.mark.parametrize("content", ['{"text": "One."}\n{"text": "Two."}\n', '\ufeff\n {"text": "One."}\n{"text": 5}'])
def test_a_json_file_of_lines_is_jsonl(read, content):
    assert "One." in texts(read(content, "in.json"))


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ('[ "One.", "Two."]', r"jq -c '\.\[\] \| {text: \.}'"),
        ('\n [\n  {"text": "One."}\n]\n', r"jq -c '\.\[\]'"),
        ('{\n  "text": "One."\n}\n', r"jq -c \."),
        ("One.\nTwo.\n", "--input-format"),
    ],
)
def test_any_other_json_file_says_what_to_do(read, content, advice):
    """As txt, every line of it would be scored as a sentence."""
    with pytest.raises(InputError, match=f"expected one JSON object a line.*{advice}"):
        read(content, "in.json")


@pytest.mark.parametrize(
    ("content", "name", "options", "description"),
    [
        ("a\n", "in.txt", {}, "txt"),
        ("id,sentence\n1,a\n", "in.csv", {}, "csv, text column 'sentence', id column 'id'"),
        ("a\tb\n", "in.tsv", {"has_header": False, "text_field": "2"}, "tsv, text column 2"),
        ('{"q": "a"}\n', "in.json", {}, "jsonl, text field 'q', id field 'id' or 'custom_id' where an object has one"),
        ('{"text": "a", "custom_id": 1}\n', "in.jsonl", {}, "jsonl, text field 'text', id field 'custom_id'"),
    ],
)
def test_a_reader_says_what_it_chose(tmp_path, content, name, options, description):
    path = tmp_path / name
    path.write_text(content)

    with open_input(path, ReaderOptions(**options)) as reader:
        list(reader)
        assert reader.description == description


# --- streams ---


@pytest.mark.parametrize("input_format", FORMATS)
def test_gzip_reads_like_the_plain_file(read, input_format):
    line = json.dumps({"text": "A sentence."}) if input_format == "jsonl" else "A sentence."
    header = "text\n" if input_format in ("csv", "tsv") else ""
    content = (header + f"{line}\n" * 1000).encode()
    name = f"in{SUFFIXES[input_format]}"

    plain, zipped = read(content, name), read(gzip.compress(content), f"{name}.gz")

    assert [row[:2] for row in plain] == [row[:2] for row in zipped]
    assert len(zipped) == 1000


def test_concatenated_gzip_members_are_one_file(read):
    assert texts(read(gzip.compress(b"one\n") + gzip.compress(b"two\n"), "in.txt.gz")) == ["one", "two"]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_gzip_is_refused(read, damage):
    data = gzip.compress(b"".join(b"%d sentences\n" % n for n in range(90_000)))
    data = data[:-20] if damage == "cut" else data[:-6] + bytes([data[-6] ^ 255]) + data[-5:]

    with pytest.raises(InputError, match="gzip data is damaged"):
        read(data, "in.txt.gz")


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "café"), ("utf-16", "naïve"), ("cp1252", "“so”")])
def test_encoding_can_be_named(read, encoding, text):
    assert texts(read(f"{text}\nmore\n".encode(encoding), encoding=encoding)) == [text, "more"]


@pytest.mark.parametrize(
    "encoding", ["nonsense", "base64", "rot13", "idna", "punycode", "undefined", "a\0b", "x" * 500]
)
def test_an_unusable_encoding_is_refused(read, encoding):
    """Some codecs raise oddly, and only once there is something to decode: it is tried before the file is opened."""
    with pytest.raises(InputError, match="expected an encoding"):
        read("x\n", encoding=encoding)


@pytest.mark.parametrize("encoding", sorted(set(encodings.aliases.aliases.values())))
def test_every_codec_of_python_reads_or_is_refused(read, encoding):
    """Whatever is named with --encoding, nobody sees a trace."""
    for content in (b"A sentence.\nAnother one.\n", b"\xff\xfe\x00\x81 \n" * 20):
        with contextlib.suppress(InputError):
            assert all(row.text or row.error for row in read(content, encoding=encoding))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
        (b"PK\x03\x04\x14\x00\x06\x00" + b"\x00" * 40, "zip"),
        (b"PAR1\x15\x04\x15\x00\x00", "parquet"),
        (bytes(range(256)) * 40, "binary"),
        ("Hello there.\n".encode("utf-16"), "--encoding utf-16"),
        ("Hello there.\n".encode("utf-16-le"), "--encoding utf-16-le"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
    ],
)
@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.jsonl"])
def test_what_is_no_text_is_named(read, content, kind, name):
    with pytest.raises(InputError, match=kind):
        read(content, name)


@pytest.mark.parametrize("content", ["PAR1 is a magic word.\n", "GIF8 is not one.\n", "BZh\n"])
def test_a_sentence_may_begin_like_a_file_of_another_kind(read, content):
    assert texts(read(content)) == [content.strip()]


@pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff"])
@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.tsv", "in.jsonl"])
def test_an_input_without_rows_is_refused(read, content, name):
    with pytest.raises(InputError, match="no rows"):
        read(content, name)


def test_a_csv_with_nothing_but_a_header_has_no_rows(read):
    with pytest.raises(InputError, match="no rows"):
        read("id,text\n", "in.csv")


@pytest.mark.parametrize(("path", "reason"), [("missing.txt", "no such file"), (".", "directory"), ("a\0b", "opened")])
def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path, path, reason):
    with pytest.raises(InputError, match=reason):
        open_input(str(tmp_path / path) if path != "." else tmp_path)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    """Root may read everything, so that the system's answer is given here instead."""
    path = tmp_path / "in.txt"
    path.write_text("x\n")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match="permission"):
        open_input(path)


def test_stdin_is_read_as_txt_unless_named(monkeypatch):
    for options, expected in ((ReaderOptions(), ["text", "x"]), (ReaderOptions(input_format="csv"), ["x"])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text\nx\n")))
        reader = open_input("-", options)
        rows = list(reader)
        assert texts(rows) == expected
        assert rows[0].source == "stdin"


@pytest.mark.parametrize("delimiter", ["", "::", '"', "\n"])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(UsageError, match="delimiter"):
        ReaderOptions(delimiter=delimiter)


@pytest.mark.parametrize(
    "options",
    [ReaderOptions(), ReaderOptions("csv", "2", "k", False, "\t", "latin-1", 99), ReaderOptions(delimiter="tab")],
)
def test_options_survive_the_ledger(options):
    assert ReaderOptions.from_strings(options.to_strings()) == options


# --- anything at all ---

ANYTHING = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(
        st.sampled_from([b"text", b'"', b",", b"\n", b"\r\n", b"\t", b"{", b"}", b":", b"\xff", b"a", b"\x00"])
    ).map(b"".join),
)


def rows_or_clean_error(reader_of: Path, options: ReaderOptions) -> None:
    try:
        with open_input(reader_of, options) as reader:
            rows = list(reader)
    except (InputError, MissingFieldError):
        return
    lines = [row.line for row in rows]
    assert lines == sorted(lines)
    for row in rows:
        assert (row.text == "") == (row.error is not None)
        assert len(row.text.encode()) <= options.max_text_bytes
        if row.id is not None:
            row.id.encode()


@pytest.mark.parametrize("input_format", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_any_bytes_give_rows_or_a_clean_error(tmp_path_factory, input_format, encoding):
    path = tmp_path_factory.mktemp("any") / "in"

    @settings(max_examples=120, deadline=None)
    @given(content=ANYTHING, header=st.sampled_from([b"", b"text\n", b"id,text\n", b'{"text": "a"}\n']))
    def check(content, header):
        path.write_bytes(header + content)
        rows_or_clean_error(path, ReaderOptions(input_format, encoding=encoding, max_text_bytes=64))

    check()


GOOD = {
    "txt": "One sentence.\r\n\r\nZwölf Sätze.\nThree.\n" * 20,
    "csv": 'id,text,n\n1,"One, ""two""\nand three.",x\n2,Zwölf.,\r\n,,\n' * 20,
    "tsv": 'id\ttext\n1\t"One\n2\tZwölf.\n\t\n' * 20,
    "jsonl": '{"id": 1, "text": "One."}\n{"text": "Zw\\u00f6lf."}\n{"text": null}\n\n' * 20,
}


@pytest.mark.parametrize("suffix", [*SUFFIXES.values(), ".json"])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_any_damage_to_a_good_file_gives_rows_or_a_clean_error(tmp_path_factory, suffix, is_zipped):
    """A few bytes that are others, here in the text and there in the gzip around it."""
    good = GOOD.get(suffix[1:], GOOD["jsonl"]).encode()
    good = gzip.compress(good, mtime=0) if is_zipped else good
    path = tmp_path_factory.mktemp("damage") / f"in{suffix}{'.gz' if is_zipped else ''}"

    @settings(max_examples=120, deadline=None)
    @given(
        changes=st.lists(st.tuples(st.integers(0, len(good) - 1), st.binary(max_size=3)), max_size=5),
        length=st.one_of(st.just(len(good)), st.integers(0, len(good))),
    )
    def check(changes, length):
        content = bytearray(good)
        for at, new in changes:
            content[at : at + 1] = new
        path.write_bytes(content[:length])
        rows_or_clean_error(path, ReaderOptions(max_text_bytes=64))

    check()


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
            lambda text: not text.isspace()
        ),
        min_size=1,
        max_size=20,
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_sentence_survives_csv(tmp_path_factory, records, line_end):
    import csv

    path = tmp_path_factory.mktemp("csv") / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=line_end)
        writer.writerows([["id", "text"], *([str(n), text] for n, text in enumerate(records))])

    with open_input(path) as reader:
        rows = list(reader)

    assert texts(rows) == records
    assert [row.error for row in rows] == [None] * len(records)


def test_every_error_code_of_inputs_is_reached():
    """The codes that readers give are the ones that the documentation lists."""
    reached = {
        "empty_text",
        "wrong_type",
        "invalid_utf8",
        "invalid_json",
        "invalid_csv",
        "missing_field",
        "text_too_long",
    }
    assert reached == {code.value for code in ErrorCode} - {"scoring_failed", "worker_lost"}
