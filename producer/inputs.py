"""Several inputs as the rows of one job, and as the same rows again when results are joined to them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter
from typing import Self

from producer.readers import Reader, ReaderOptions, open_input
from producer.readers.base import Record
from producer.readers.given import GivenTexts
from scorequeue.errors import InputError
from scorequeue.jobs import Row

_FORMATS = "input_formats"
_MOST_DESCRIPTIONS = 3


class Inputs:
    """Inputs in order, open and known to be readable; iterating yields the rows of all of them, once.

    Args:
        readers: One for each input.
        options: What the caller asked for.
        paths: Where the inputs are, if they can be read again from there.

    Raises:
        InputError: One of them has no rows.
        MissingFieldError: One of them lacks the text or id field.
    """

    def __init__(self, readers: Sequence[Reader], options: ReaderOptions, *, paths: Sequence[str] = ()) -> None:
        self.readers = readers
        self.options = options
        self._paths = paths
        try:
            # Each reads its head now: a fault of the last one must show before the first one is uploaded.
            self._streams = [(reader, reader.records()) for reader in readers]
        except BaseException:
            self.close()
            raise

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
            InputError: One of them cannot be read.
        """
        options = options or ReaderOptions()
        readers = _open_all(paths, [options] * len(paths), names=names, only_rows=only_rows)
        return cls(readers, options, paths=_lasting(paths))

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
        readers = _open_all(paths, each, names=names, where=where, only_rows=only_rows)
        return cls(readers, options, paths=_lasting(paths))

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
        return sum(reader.position for reader in self.readers)

    def job_options(self) -> dict[str, str]:
        """Return what a job has to keep so that ``reopen`` yields the same rows."""
        return {**self.options.to_strings(), _FORMATS: ",".join(reader.input_format for reader in self.readers)}

    @property
    def is_lasting(self) -> bool:
        """Whether the rows can be read again: all inputs are files, and none a pipe."""
        return bool(self._paths) or all(isinstance(reader, GivenTexts) for reader in self.readers)

    def again(self) -> Iterator[Row]:
        """Yield the rows once more, read anew.

        Raises:
            InputError: A file cannot be read any more.
        """
        if not self._paths:
            texts = [text for reader in self.readers if isinstance(reader, GivenTexts) for text in reader.texts]
            yield from Inputs.of_texts(texts, self.options)
            return
        with Inputs.reopen(
            self._paths, self.job_options(), names=self.names, where=self.where, only_rows=True
        ) as inputs:
            yield from inputs

    @contextmanager
    def fresh_readers(self) -> Iterator[list[Reader]]:
        """Open the inputs once more, at their starts.

        Raises:
            InputError: One can be read only once, or cannot be read any more.
        """
        if not self._paths:
            raise InputError(f"{', '.join(self.where)}: expected files, which can be read twice, got a pipe; copy it")
        options = [replace(self.options, input_format=reader.input_format) for reader in self.readers]
        readers = _open_all(self._paths, options, names=self.names, where=self.where, only_rows=False)
        try:
            yield readers
        finally:
            for reader in readers:
                reader.close()

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows in order."""
        return (row for _, records in self._streams for row, _ in records)

    def records(self) -> Iterator[tuple[Reader, Row, Record]]:
        """Yield the rows with their reader and the record they were made from."""
        return ((reader, row, record) for reader, records in self._streams for row, record in records)

    def each(self) -> Iterator[tuple[Reader, Iterator[Row]]]:
        """Yield each input's reader with its rows; they are to be used up before the next."""
        return ((reader, map(itemgetter(0), records)) for reader, records in self._streams)

    def close(self) -> None:
        """Close the files."""
        for reader in self.readers:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_all(
    paths: Sequence[str | os.PathLike[str]],
    options: Sequence[ReaderOptions],
    *,
    names: Sequence[str],
    where: Sequence[str] = (),
    only_rows: bool,
) -> list[Reader]:
    readers: list[Reader] = []
    try:
        for index, path in enumerate(paths):
            name, shown = (given[index] if given else None for given in (names, where))
            readers.append(open_input(path, options[index], name=name, where=shown, only_rows=only_rows))
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return readers


def _lasting(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the paths if all of them can be read again."""
    where = [os.fspath(path) for path in paths]
    return where if all(os.path.isfile(path) for path in where) else []


def _names(where: Sequence[str]) -> str:
    # A pattern may have found a name that would tell the terminal what to do.
    shown = [name if name.isprintable() else repr(name) for name in where]
    return ", ".join(shown) if len(shown) <= 2 else f"{shown[0]} and {len(shown) - 1} more inputs"
