"""Malformed inputs, and what has to become of each; ``python -m tests.bad_inputs`` writes them to ``tests/data/bad``.

They are made and not committed: half of them would be changed by an editor, and all of them are shorter here.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data" / "bad"


@dataclass(frozen=True, slots=True)
class Fault:
    """Rows that fail alike.

    Attributes:
        lines: Where they are, in order.
        message: Part of what is said of each.
    """

    lines: tuple[int, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Bad:
    """One input.

    Attributes:
        name: Its file, or what stands for it on the command line.
        content: Its bytes, or what makes them; None for nothing at all.
        refused: Part of the error of an input that is refused as a whole; None for one that is read.
        rows: Rows of one that is read.
        faults: Its failed rows by error code.
        options: Further options of ``submit``.
    """

    name: str
    content: bytes | Callable[[], bytes] | None
    refused: str | None = None
    rows: int = 0
    faults: Mapping[str, Fault] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def refused(name: str, content: bytes | Callable[[], bytes] | None, message: str, *options: str) -> Bad:
    """An input that ends the command with 2, before anything is scored."""
    return Bad(name, content, message, options=options)


def read(
    name: str, content: bytes | Callable[[], bytes], rows: int, *options: str, **faults: tuple[list[int], str]
) -> Bad:
    """An input of so many rows, of which some fail: code -> lines, part of the message."""
    found = {code: Fault(tuple(lines), message) for code, (lines, message) in faults.items()}
    return Bad(name, content, None, rows, found, options)


def write_all(folder: Path = FOLDER) -> Path:
    """Write every input, where it is not there already as it should be; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "directory.csv").mkdir(exist_ok=True)
    for bad in BAD:
        if bad.content is not None:
            content = bad.content if isinstance(bad.content, bytes) else bad.content()
            path = folder / bad.name
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
    return folder


def _parquet(**columns: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, write_page_checksum=True)
    return out.getvalue()


def _good_parquet() -> bytes:
    return _parquet(id=list(range(500)), text=[f"Sentence number {n}." for n in range(500)])


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def _gzip() -> bytes:
    return gzip.compress(b"".join(b"Sentence number %d of this file.\n" % n for n in range(20_000)), mtime=0)


def _lines(*values: Any) -> bytes:
    return "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values).encode()


ONE = {"text": "One."}
TWO = {"text": "Two."}

BAD: tuple[Bad, ...] = (
    # --- nothing to score ---
    refused("empty.txt", b"", "no rows; the input is empty"),
    refused("empty.txt.gz", lambda: gzip.compress(b"", mtime=0), "no rows; the input is empty"),
    refused("mark-only.csv", b"\xef\xbb\xbf", "no rows"),
    refused("blank-lines-only.txt", b"\n  \n\t\n\r\n", "no rows"),
    refused("header-only.csv", b"id,text\n", "no rows"),
    refused("header-only.tsv", b"id\ttext\n\n\n", "no rows"),
    refused("no-rows.parquet", lambda: _parquet(text=[""][:0]), "no rows; expected at least one row in the file"),
    # --- not there ---
    refused("missing.csv", None, "no such file"),
    refused("directory.csv", None, "expected a file, got a directory"),
    refused("none-*.csv", None, "found none that matches"),
    # --- something else than text ---
    refused("picture.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "what looks like a PNG image"),
    refused("sheet.csv", b"PK\x03\x04\x14\x00\x06\x00\x08\x00" + b"\x00" * 20, "zip archive (or an Excel"),
    refused("page.txt", b"%PDF-1.7\nOne.\n", "a PDF document"),
    refused("table.csv", _good_parquet, "a parquet file; say --input-format parquet"),
    refused("noise.txt", bytes(range(256)) * 40, "binary data"),
    refused("utf-16.txt", "One.\nTwo.\n".encode("utf-16"), "say --encoding utf-16"),
    refused("utf-16-unmarked.txt", "One.\nTwo.\n".encode("utf-16-le"), "say --encoding utf-16-le"),
    refused("odd-encoding.txt", b"One.\n", "expected an encoding like utf-8", "--encoding", "idna"),
    # --- damaged ---
    refused("damaged-middle.txt.gz", lambda: _flipped(_gzip(), len(_gzip()) // 2), "gzip data is damaged"),
    refused("cut-off.txt.gz", lambda: _gzip()[:-500], "gzip data is damaged or cut off"),
    refused("no-gzip.csv.gz", b"text\nA sentence that is not gzipped.\n", "expected gzip, as its suffix says"),
    refused("cut-off.parquet", lambda: _good_parquet()[:-20], "the parquet data is damaged"),
    refused("flipped.parquet", lambda: _flipped(_good_parquet(), 700), "the parquet data is damaged"),
    refused("no-parquet.parquet", b"a b\nOne.\n", "expected PAR1 at the start, got 'a b'; check --input-format"),
    # --- columns ---
    refused("other-columns.csv", b"a,b\n1,2\n", "found 2 columns: 'a', 'b'"),
    refused("other-columns.parquet", lambda: _parquet(a=["x"], b=["y"]), "'a', 'b'; say --text-field NAME or NUMBER"),
    refused("other-fields.jsonl", _lines({"a": 1, "b": 2}), "found 2 columns: 'a', 'b'; say --text-field NAME"),
    refused("two-texts.csv", b"text,text\na,b\n", "expected one column 'text', found 2; say --text-field NUMBER"),
    refused("semicolons.csv", b"id;text\n1;One.\n", "got a header with ';' in it"),
    refused("semicolons-without-header.csv", b"1;One.\n2;Two.\n", "got a first line with ';' in it", "--no-header"),
    refused("table.txt", b"id,text\n1,One.\n", "--text-field needs columns, table.txt is read", "--text-field", "text"),
    refused("open-quote-in-header.csv", b'"id,text\n1,One.\n', "the header cannot be read as csv"),
    refused("old-mac.csv", b"text\rOne.\rTwo.\r", "a carriage return stands outside of quotes"),
    refused("array.json", _lines([ONE, TWO]), "got a JSON array; make lines of it: jq -c '.[]'"),
    refused("document.json", json.dumps(ONE, indent=2).encode() + b"\n", "got an object over several lines"),
    # --- lines ---
    read("blank-in-the-middle.txt", b"One.\n\n  \nTwo.\n", 4, empty_text=([2, 3], "nothing but blanks")),
    read("blank-at-the-end.txt", b"One.\nTwo.\n\n \n\n", 2),
    read("no-break-space.txt", "One.\n\u00a0\nThree.\n".encode(), 3, empty_text=([2], "nothing but blanks")),
    read("nul.txt", b"A sentence with a \x00 in it.\nOne without.\n", 2),
    read("windows.txt", b"One.\r\nTwo.\r\n", 2),
    read("mixed-line-ends.txt", b"One.\r\nTwo.\nThree.\r\n\nFive.", 5, empty_text=([4], "blanks")),
    read("old-mac.txt", b"One.\rTwo.\r", 1),
    read(
        "latin-1-in-one-row.txt",
        b"A good sentence.\nA caf\xe9.\nGood.\n",
        3,
        invalid_utf8=([2], "is not valid Unicode"),
    ),
    read(
        "line-of-megabytes.txt",
        lambda: b"One.\n" + b"x" * 9_000_000 + b"\nThree.\n",
        3,
        text_too_long=([2], "a line of over 8,388,608 characters"),
    ),
    # --- csv and tsv ---
    read("marked.csv", b"\xef\xbb\xbftext\nOne.\n", 1),
    read("open-quote.csv", b'text\nOne.\n"Two.\nThree.\n', 3, invalid_csv=([3], "a quote is opened and never closed")),
    read("after-the-quote.csv", b'text\n"One." or not\nTwo.\n', 2, invalid_csv=([2], "after a closing quote")),
    read("too-many-fields.csv", b"id,text\n1,One.\n2,Two, too.\n", 2, invalid_csv=([3], "expected 2 comma-separated")),
    read("too-few-fields.csv", b"id,text\n1\n2,Two.\n", 2, invalid_csv=([2], "fields, got 1")),
    read("carriage-return.csv", b"text\nO\rne.\nTwo.\n", 2, invalid_csv=([2], "carriage return stands outside")),
    read("quoted-line-end.csv", b'id,text\n1,"One\nhalf."\n2,\n', 2, empty_text=([4], "nothing but blanks")),
    read("long-field.csv", b"text\n" + b"x" * 200_000 + b"\nTwo.\n", 2, text_too_long=([2], "got 200,000 bytes")),
    read(
        "line-of-megabytes.csv",
        lambda: b"text,body\nOne.," + b"x" * 9_000_000 + b"\nTwo.,b\n",
        2,
        text_too_long=([2], "a line of over 8,388,608 characters"),
    ),
    read("long-field-beside-the-text.csv", b"text,body\nOne.," + b"x" * 200_000 + b"\nTwo.,b\n", 2),
    read(
        "field-of-many-lines.csv",
        lambda: (
            b'id,text,body\n1,One.,"'
            + b"A line of it, that has commas, and words enough to be long.\n" * 4_000
            + b'"\n2,,b\n'
        ),
        2,
        empty_text=([4003], "nothing but blanks"),
    ),
    read("long-text.csv", b"text\n" + b"x" * 20_000 + b"\nTwo.\n", 2, text_too_long=([2], "got 20,000 bytes")),
    read("latin-1-in-one-row.csv", b"text\nA caf\xe9.\nTwo.\n", 2, invalid_utf8=([2], "is not valid Unicode")),
    read("blank-in-the-middle.csv", b"id,text\n1,One.\n\n2,\n", 3, empty_text=([3, 4], "nothing but blanks")),
    read("quotes.tsv", b'text\tn\n"Open.\t1\nA "word".\t2\n', 2),
    read(
        "too-many-fields.tsv", b"text\tn\nOne.\t1\t2\n", 1, invalid_csv=([2], "expected 2 tab-separated fields, got 3")
    ),
    # --- jsonl ---
    read("broken-line.jsonl", _lines(ONE, '{"text": "T', TWO), 3, invalid_json=([2], "expected a JSON object")),
    read("single-quotes.jsonl", _lines(ONE, "{'text': 'Two.'}"), 2, invalid_json=([2], "expected a JSON object")),
    read("number.jsonl", _lines(ONE, {"text": 5}), 2, wrong_type=([2], "expected a text, got a number")),
    read("null.jsonl", _lines(ONE, {"text": None}), 2, wrong_type=([2], "expected a text, got null")),
    read("nested.jsonl", _lines(ONE, {"text": {"a": "b"}}), 2, wrong_type=([2], "expected a text, got an object")),
    read("list.jsonl", _lines(ONE, ["Two."]), 2, wrong_type=([2], "got a list")),
    read(
        "missing-field.jsonl", _lines(ONE, {"txt": "a"}), 2, missing_field=([2], "expected a field 'text', got 'txt'")
    ),
    read("twice-the-key.jsonl", _lines('{"text": "", "text": "One."}'), 1),
    read("huge-id.jsonl", _lines({"id": 10**40, "text": "One."}), 1),
    read("endless-id.jsonl", _lines(ONE, '{"id": ' + "9" * 5000 + ', "text": "a"}'), 2, invalid_json=([2], "digits")),
    read(
        "boolean-id.jsonl",
        _lines(ONE | {"id": 1}, {"id": True, "text": "a"}),
        2,
        "--id-field",
        "id",
        wrong_type=([2], "whole number, got a boolean"),
    ),
    read("boolean-called-id.jsonl", _lines(ONE, {"id": True, "text": "a"}), 2),
    read("surrogate.jsonl", _lines(ONE, '{"text": "\\ud800"}'), 2, invalid_utf8=([2], "not valid Unicode")),
    read("deep.jsonl", _lines(ONE, "[" * 100_000), 2, invalid_json=([2], "nested too deep")),
    read(
        "latin-1-in-one-row.jsonl", _lines(ONE) + b'{"text": "caf\xe9"}\n', 2, invalid_utf8=([2], "not valid Unicode")
    ),
    # --- parquet ---
    read(
        "nulls.parquet",
        lambda: _parquet(text=["One.", None, "", "Four."]),
        4,
        wrong_type=([2], "expected a text, got null"),
        empty_text=([3], "nothing but blanks"),
    ),
    read("numbers.parquet", lambda: _parquet(text=[1, 2]), 2, wrong_type=([1, 2], "expected a text, got a number")),
    read("bytes.parquet", lambda: _parquet(text=[b"One.", b"caf\xe9"]), 2, invalid_utf8=([2], "not valid Unicode")),
)

if __name__ == "__main__":
    print(f"{len(BAD)} inputs in {write_all()}")
