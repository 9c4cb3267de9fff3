"""Several inputs as the rows of one job, and as the same rows again when results are joined to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Self

from producer.readers import Reader, ReaderOptions, open_input
from producer.readers.base import Record
from producer.readers.given import GivenTexts
from scorequeue.errors import InputError
from scorequeue.jobs import Row

_FORMATS = "input_formats"
_MOST_DESCRIPTIONS = 3


@dataclass(frozen=True, slots=True)
class _Opening:
    """How an input is opened: a path, and what ``open_input`` takes beside it."""

    path: str
    options: ReaderOptions
    name: str | None
    where: str | None
    only_rows: bool

    @property
    def is_lasting(self) -> bool:
        """Whether the input can be opened again: it is a file, no pipe."""
        return os.path.isfile(self.path)

    def open(self) -> Reader:
        """Open it; raises what ``open_input`` raises."""
        return open_input(self.path, self.options, name=self.name, where=self.where, only_rows=self.only_rows)

    def again(self, reader: Reader, *, only_rows: bool) -> _Opening:
        """Return how to open it the way a reader of it did."""
        options = replace(self.options, input_format=reader.input_format)
        return _Opening(self.path, options, reader.name, reader.where, only_rows)


class Inputs:
    """Inputs in order, known to be readable; iterating yields the rows of all of them, once.

    The head of every input is read at first: a fault of the last one must show before the first one is uploaded. But
    only the first and those that can be read only once (pipes) stay open. The others are opened again when their turn
    comes, and closed after it, so that any number of inputs takes few file descriptors and little memory.

    Args:
        readers: One for each input, each opened when it is asked for.
        options: What the caller asked for.
        openings: How the readers are opened; none for texts that come from no input.

    Attributes:
        readers: What is known of each input: its name, format and columns. They are not for reading.

    Raises:
        InputError: One of them cannot be read, or has no rows.
        MissingFieldError: One of them lacks the text or id field.
    """

    def __init__(self, readers: Iterable[Reader], options: ReaderOptions, *, openings: Sequence[_Opening] = ()) -> None:
        self.readers: list[Reader] = []
        self.options = options
        self._openings = openings
        self._begun: dict[int, Iterator[tuple[Row, Record]]] = {}
        self._current: Reader | None = None
        self._bytes_before = 0
        try:
            for index, reader in enumerate(readers):
                self.readers.append(reader)
                records = reader.records()
                if index and openings[index].is_lasting:
                    reader.close()
                else:
                    self._begun[index] = records
        except BaseException:
            self.close()
            raise
        self._streams = self._opened()

    @classmethod
    def open(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        options: ReaderOptions | None = None,
        *,
        names: Sequence[str] = (),
        only_rows: bool = False,
    ) -> Self:
        """Open inputs.

        Args:
            paths: Files, or ``-`` for standard input.
            options: How to read them all.
            names: What rows and messages call them; their paths unless given.
            only_rows: Whether ``records`` will not be asked for, so that columns that make no row need not be read.

        Raises:
            InputError: One of them cannot be read, or is read as txt while the options speak of columns.
        """
        options = options or ReaderOptions()
        openings = _openings(paths, [options] * len(paths), names=names, only_rows=only_rows)
        return cls((_with_columns(opening.open(), options) for opening in openings), options, openings=openings)

    @classmethod
    def of_texts(cls, texts: Sequence[str], options: ReaderOptions | None = None) -> Self:
        """Take texts as they are, one a row."""
        options = options or ReaderOptions()
        return cls([GivenTexts(texts, options)], options)

    @classmethod
    def reopen(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        reader_options: Mapping[str, str],
        *,
        names: Sequence[str],
        where: Sequence[str] = (),
        only_rows: bool = False,
    ) -> Self:
        """Open inputs the way a job's inputs were opened.

        Args:
            paths: Where the inputs are now, in the job's order.
            reader_options: The job's.
            names: The job's sources, which its rows name.
            where: What messages call the inputs; the job's names unless given.
            only_rows: Whether ``records`` will not be asked for.

        Raises:
            InputError: There are more or fewer of them than the job has, or one cannot be read.
        """
        if not names:
            raise InputError("expected a job made from files; this one's rows came from Python or --text")
        if len(paths) != len(names):
            listed = ", ".join(names)
            raise InputError(f"expected the job's {len(names)} inputs in their order ({listed}), got {len(paths)}")
        options = ReaderOptions.from_strings(reader_options)
        formats = reader_options.get(_FORMATS, options.input_format).split(",")
        each = [replace(options, input_format=name) for name in formats]
        openings = _openings(paths, each, names=names, where=where, only_rows=only_rows)
        return cls((opening.open() for opening in openings), options, openings=openings)

    @property
    def names(self) -> tuple[str, ...]:
        """What the inputs are called; texts from the command line come from nowhere."""
        return tuple(reader.name for reader in self.readers if not isinstance(reader, GivenTexts))

    @property
    def where(self) -> tuple[str, ...]:
        """What messages call the inputs."""
        return tuple(reader.where for reader in self.readers)

    def descriptions(self) -> list[str]:
        """Say how the inputs are read: a line for those that are read alike, a few lines at most."""
        alike: dict[str, list[str]] = {}
        for reader in self.readers:
            if not isinstance(reader, GivenTexts):
                alike.setdefault(reader.description, []).append(reader.where)
        lines = [f"{_names(where)}: {description}" for description, where in alike.items()]
        more = len(lines) - _MOST_DESCRIPTIONS
        return lines if more <= 0 else [*lines[:_MOST_DESCRIPTIONS], f"and inputs of {more} more kinds"]

    @property
    def size(self) -> int | None:
        """Bytes of all the files; None when one of them is a pipe."""
        sizes = [reader.size for reader in self.readers]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._bytes_before + (0 if self._current is None else self._current.position)

    def job_options(self) -> dict[str, str]:
        """Return what a job has to keep so that ``reopen`` yields the same rows."""
        return {**self.options.to_strings(), _FORMATS: ",".join(reader.input_format for reader in self.readers)}

    @property
    def is_lasting(self) -> bool:
        """Whether the rows can be read again: all inputs are files, and none a pipe."""
        return all(opening.is_lasting for opening in self._openings)

    def again(self) -> Iterator[Row]:
        """Yield the rows once more, read anew.

        Raises:
            InputError: A file cannot be read any more.
        """
        if not self._openings:
            texts = [text for reader in self.readers if isinstance(reader, GivenTexts) for text in reader.texts]
            yield from Inputs.of_texts(texts, self.options)
            return
        openings = self._again(only_rows=True)
        with Inputs((opening.open() for opening in openings), self.options, openings=openings) as inputs:
            yield from inputs

    def fresh_readers(self) -> Iterator[Reader]:
        """Yield a new reader of each input, at its start, closed when the next one is asked for.

        Raises:
            InputError: One can be read only once, or cannot be read any more.
        """
        if not self._openings or not self.is_lasting:
            raise InputError(f"{', '.join(self.where)}: expected files, which can be read twice, got a pipe; copy it")
        for opening in self._again(only_rows=False):
            with opening.open() as reader:
                yield reader

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in order."""
        return (row for _, records in self._streams for row, _ in records)

    def records(self) -> Iterator[tuple[Reader, Row, Record]]:
        """Yield the rows with their reader and the record they were made from."""
        return ((reader, row, record) for reader, records in self._streams for row, record in records)

    def each(self) -> Iterator[tuple[Reader, Iterator[Row]]]:
        """Yield each input's reader with its rows; they are to be used up before the next."""
        return ((reader, map(itemgetter(0), records)) for reader, records in self._streams)

    def _again(self, *, only_rows: bool) -> list[_Opening]:
        pairs = zip(self._openings, self.readers, strict=True)
        return [opening.again(reader, only_rows=only_rows) for opening, reader in pairs]

    def _opened(self) -> Iterator[tuple[Reader, Iterator[tuple[Row, Record]]]]:
        """Yield each input's reader and records, opened for it and closed after it where that can be done again."""
        for index, reader in enumerate(self.readers):
            begun = self._begun.pop(index, None)
            if begun is None:
                opening = self._openings[index]
                reader = opening.again(reader, only_rows=opening.only_rows).open()
            self._current = reader
            yield reader, reader.records() if begun is None else begun
            self._bytes_before += reader.position
            self._current = None
            reader.close()

    def close(self) -> None:
        """Close the files."""
        for reader in self.readers if self._current is None else (*self.readers, self._current):
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _openings(
    paths: Sequence[str | os.PathLike[str]],
    options: Sequence[ReaderOptions],
    *,
    names: Sequence[str],
    where: Sequence[str] = (),
    only_rows: bool,
) -> list[_Opening]:
    nothing: list[str | None] = [None] * len(paths)
    given = zip(paths, options, names or nothing, where or nothing, strict=True)
    return [_Opening(os.fspath(path), each, name, shown, only_rows) for path, each, name, shown in given]


def _with_columns(reader: Reader, options: ReaderOptions) -> Reader:
    """Pass a reader on; refuse one of txt if an option speaks of columns, or a table would be scored line by line."""
    wanted = {
        "--text-field": options.text_field is not None,
        "--id-field": options.id_field is not None,
        "--delimiter": options.delimiter is not None,
        "--no-header": not options.has_header,
    }
    flag = next((flag for flag, is_given in wanted.items() if is_given), None)
    if flag is not None and reader.input_format == "txt":
        reader.close()
        raise InputError(
            f"{flag} needs columns, {reader.where} is read as txt; say --input-format csv (or tsv, jsonl, parquet)"
        )
    return reader


def _names(where: Sequence[str]) -> str:
    return ", ".join(where) if len(where) <= 2 else f"{where[0]} and {len(where) - 1} more inputs"
