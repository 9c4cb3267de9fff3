"""txt: one sentence per line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from producer.readers.base import Reader, Record, new_row
from scorequeue.jobs import Row


class TextReader(Reader):
    """Every line is a row, as it stands; quotes and tabs mean nothing."""

    input_format = "txt"

    @property
    def columns(self) -> Sequence[str]:
        """The one column that a join writes."""
        return ("text",)

    def _records(self) -> Iterator[tuple[Row, Record]]:
        name, rules, most = self.name, self.rules, self.rules.max_text_bytes
        for first, lines in self._line_blocks():
            for number, line in enumerate(lines, first):
                if line.isascii() and len(line) <= most and line and not line.isspace():
                    yield new_row(Row, (line, None, name, number, None)), [line]
                else:
                    yield self._overlong(line, number) or rules.row(line, None, name, number), [line]
