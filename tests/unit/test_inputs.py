"""Many inputs are one job, and cost no more than a few."""

from __future__ import annotations

import os
import resource
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest

from producer import Inputs, ReaderOptions, read_report
from producer.joinable import check_join
from scorequeue.errors import InputError, MissingFieldError


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Let this process open sixteen files more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = islice((number for number in count() if number not in taken), 16, None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(free), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def write(folder: Path, suffix: str, contents: list[str]) -> list[Path]:
    paths = [folder / f"{number:04}{suffix}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return paths


def texts(inputs: Inputs) -> list[str]:
    return [row.text for row in inputs]


def test_there_may_be_more_inputs_than_file_descriptors(tmp_path: Path, few_descriptors: None) -> None:
    """A folder of thousands of small files is a usual thing to submit."""
    paths = write(tmp_path, ".jsonl", [f'{{"text": "Sentence {number}."}}\n' for number in range(60)])
    wanted = [f"Sentence {number}." for number in range(60)]
    with Inputs.open(paths) as inputs:
        names, job_options = inputs.names, inputs.job_options()

        assert check_join(inputs, "csv") is not None
        assert texts(inputs) == wanted
        assert [row.text for row in inputs.again()] == wanted

    with Inputs.reopen(paths, job_options, names=names) as inputs:
        assert [row.text for _, row, _ in inputs.records()] == wanted


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_memory_is_that_of_one_input(tmp_path: Path, suffix: str) -> None:
    """The head of each was kept, a few hundred kilobytes for every file of a job."""
    paths = write(tmp_path, suffix, ["text\n" + "A sentence of this file.\n" * 12_000] * 40)
    with Inputs.open(paths[:2]) as inputs:
        read_report(inputs)  # what is loaded and kept for good

    tracemalloc.start()
    with Inputs.open(paths) as inputs:
        report = read_report(inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(report.inputs) == 40
    assert {facts.bytes for facts in report.inputs} == {300_005}
    assert peak < 10_000_000


def test_a_fault_of_the_last_input_shows_before_the_first_is_read(tmp_path: Path) -> None:
    """Half of a job on the queue would be worse than none."""
    paths = write(tmp_path, ".csv", ["text\nOne.\n", "text\nTwo.\n", "a,b\n1,2\n"])

    with pytest.raises(MissingFieldError, match=r"0002\.csv"):
        Inputs.open(paths)


def test_a_pipe_between_files_is_read_in_its_place(tmp_path: Path) -> None:
    """It cannot be opened a second time, so it stays open from the start."""
    paths = write(tmp_path, ".txt", ["One.\n", "", "Three.\n"])
    paths[1].unlink()
    os.mkfifo(paths[1])
    feeder = threading.Thread(target=paths[1].write_text, args=("Two.\n",))
    feeder.start()

    with Inputs.open(paths) as inputs:
        assert not inputs.is_lasting
        assert texts(inputs) == ["One.", "Two.", "Three."]
        with pytest.raises(InputError, match="read twice"):
            next(inputs.fresh_readers())
    feeder.join()


def test_bytes_read_add_up_to_the_size(tmp_path: Path) -> None:
    """The progress bar ends where the inputs end, however many there are."""
    paths = write(tmp_path, ".txt", ["One.\nTwo.\n", "Three.\n", "Four.\n"])
    with Inputs.open(paths, ReaderOptions()) as inputs:
        seen = [inputs.position for _ in inputs]

        assert seen == sorted(seen)
        assert inputs.position == inputs.size == sum(path.stat().st_size for path in paths)
        assert texts(inputs) == []


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (ReaderOptions(text_field="text"), "--text-field"),
        (ReaderOptions(id_field="id"), "--id-field"),
        (ReaderOptions(delimiter=";"), "--delimiter"),
        (ReaderOptions(has_header=False), "--no-header"),
    ],
)
def test_options_about_columns_are_refused_where_there_are_none(
    tmp_path: Path, options: ReaderOptions, flag: str
) -> None:
    """A csv file from a pipe is read as txt: its header and whole lines would be scored."""
    paths = write(tmp_path, ".txt", ["id,text\n1,One.\n"])

    with pytest.raises(InputError, match=rf"{flag} needs columns, .*0000.txt is read as txt; say --input-format csv"):
        Inputs.open(paths, options)
