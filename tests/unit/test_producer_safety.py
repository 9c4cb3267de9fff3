"""What must not be destroyed or silently wrong: outputs over inputs, links, and headers that are not what they seem."""

from __future__ import annotations

import csv
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from producer.output import check_output, write_output
from producer.readers import ReaderOptions, open_input
from producer.writers import choose_format
from producer.writers.flat import csv_lines
from scorequeue.errors import InputError, UsageError


def rows_of(path: Path, **options: object) -> list[str]:
    with closing(open_input(path, ReaderOptions(**options))) as reader:
        return [row.text for row, _ in reader.records()]


def test_results_never_take_the_place_of_their_input(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("text\nFine.\n")
    (tmp_path / "link.csv").symlink_to(file)

    for output in (file, tmp_path / "link.csv"):
        with pytest.raises(InputError, match="another file than the input"):
            check_output(str(output), inputs=[str(file)])


def test_link_stays_a_link_and_mode_stays(tmp_path: Path) -> None:
    target = tmp_path / "secret.csv"
    target.write_text("old")
    target.chmod(0o600)
    link = tmp_path / "link.csv"
    link.symlink_to(target)

    write_output(["new"], str(link))

    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_named_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()

    write_output(["one\n", "two\n"], str(pipe))

    reader.join(timeout=10)
    assert got == ["one\ntwo\n"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("header", ["id;text", "id\ttext", "id|text"])
def test_other_delimiter_is_said_instead_of_scoring_whole_lines(tmp_path: Path, header: str) -> None:
    file = tmp_path / "excel.csv"
    file.write_text(f"{header}\n1{header[2]}Hello there.\n")

    with pytest.raises(InputError, match="say --delimiter"):
        rows_of(file)
    assert rows_of(file, delimiter=header[2]) == ["Hello there."]
    assert rows_of(file, text_field="1") == [f"1{header[2]}Hello there."]


def test_broken_header_costs_no_sentence(tmp_path: Path) -> None:
    """Reading on would take the first sentence for the header."""
    file = tmp_path / "broken.csv"
    file.write_text('"text" x\nHello\nWorld\n')

    with pytest.raises(InputError, match="header cannot be read"):
        rows_of(file)


def test_lone_carriage_return_is_quoted() -> None:
    row = ["a\rb", "plain", 'q"uote', "new\nline"]

    text = csv_lines([row])

    assert text.startswith('"a\rb",plain,')
    assert text.endswith('"\n')
    assert next(csv.reader(iter([text]), strict=True)) == row


def test_unknown_suffix_is_refused_joined_or_not() -> None:
    for joined in (None, "csv"):
        with pytest.raises(UsageError, match="--format"):
            choose_format(None, "scored.xlsx", is_terminal=False, joined=joined)
