"""How an input is read, as the caller asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from scorequeue.errors import UsageError

FORMATS = ("txt", "csv", "tsv", "jsonl", "parquet")
AUTO = "auto"

DEFAULT_MAX_TEXT_BYTES = 16 * 1024

_DELIMITER_NAMES = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """What decides which rows an input has; the job keeps it, so that the input can be read the same way again.

    Attributes:
        input_format: ``txt``, ``csv``, ``tsv``, ``jsonl`` or ``parquet``; ``auto`` goes by the file's suffix.
        text_field: Name or 1-based number of the sentence's column; None: ``text``, ``sentence`` or the only one.
        id_field: The same for the id's; None: ``id`` or ``custom_id`` if there is one, else the row's position.
        has_header: Whether the first line of csv and tsv names the columns.
        delimiter: Between fields; None: a comma in csv, a tab in tsv.
        encoding: Python's name of the input's encoding; parquet knows its own. A byte order mark is dropped.
        max_text_bytes: Most UTF-8 bytes of a sentence.
    """

    input_format: str = AUTO
    text_field: str | None = None
    id_field: str | None = None
    has_header: bool = True
    delimiter: str | None = None
    encoding: str = "utf-8"
    max_text_bytes: int = DEFAULT_MAX_TEXT_BYTES

    def __post_init__(self) -> None:
        if self.input_format not in (AUTO, *FORMATS):
            raise UsageError(f"expected an input format of {AUTO}, {', '.join(FORMATS)}, got {self.input_format!r}")
        if self.delimiter is not None:
            character = _DELIMITER_NAMES.get(self.delimiter.lower(), self.delimiter)
            if len(character) != 1 or character in '"\r\n':
                raise UsageError(f"expected a delimiter of one character (or tab), got {self.delimiter!r}")
            object.__setattr__(self, "delimiter", character)

    def to_strings(self) -> dict[str, str]:
        """Return the options that are set, as the ledger keeps them."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> Self:
        """Read what ``to_strings`` wrote; what is not there gets its default, what is not known is left alone."""
        known = {item.name: strings[item.name] for item in fields(cls) if item.name in strings}
        has_header = known.pop("has_header", "True") == "True"
        max_text_bytes = int(known.pop("max_text_bytes", DEFAULT_MAX_TEXT_BYTES))
        return cls(has_header=has_header, max_text_bytes=max_text_bytes, **known)
