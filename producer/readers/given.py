"""Texts that were given as they are, on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from producer.readers.base import Reader, Record
from producer.readers.options import ReaderOptions
from producer.rows import RowRules
from scorequeue.jobs import Row


class GivenTexts(Reader):
    """Every text is a row that came from no file."""

    input_format = "txt"

    def __init__(self, texts: Sequence[str], options: ReaderOptions) -> None:
        self.name = self.where = "--text"
        self.options = options
        self.rules = RowRules(options.max_text_bytes)
        self.texts = texts

    @property
    def columns(self) -> Sequence[str]:
        """The one column that a join writes."""
        return ("text",)

    @property
    def size(self) -> int | None:
        """Not measured in bytes."""
        return None

    @property
    def position(self) -> int:
        """Not measured in bytes."""
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def _records(self) -> Iterator[tuple[Row, Record]]:
        for text in self.texts:
            yield self.rules.row(text), [text]
