"""Counts rows before they are submitted, a batch at a time; what is kept of them does not grow with them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from scorequeue.jobs import FIRST_ROW, ErrorCode, Row

FIRST_PLACES = 5
"""Places that are named for each kind of fault."""

LONGEST = 5
"""Texts that are kept because none is longer."""

MOST_IDS = 1_000_000
"""Ids that are compared with each other: their fingerprints take about 70 MB."""


class PlacedRow(NamedTuple):
    """A row and its position in the job, from 1."""

    number: int
    row: Row


class Tally:
    """Sums over rows. Most of the work is done by C loops over a batch: it takes about as long as reading txt does.

    Attributes:
        rows: All rows so far.
        text_bytes: UTF-8 bytes of the good ones.
        faults: Faulty rows by code.
        places: The first rows of each code.
        characters: Good rows by their length in characters.
        words: Good rows by their length in words.
        ids_compared: Ids that were compared.
        duplicate_ids: Those of them that were there before.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.text_bytes = 0
        self.faults: Counter[ErrorCode] = Counter()
        self.places: dict[ErrorCode, list[PlacedRow]] = {}
        self.characters: Counter[int] = Counter()
        self.words: Counter[int] = Counter()
        self.ids_compared = 0
        self.duplicate_ids = 0
        self._ids: set[int] = set()
        self._longest: list[tuple[int, int, Row]] = []  # a heap: the shortest of them first, then the last one

    def add(self, batch: Sequence[Row]) -> None:
        """Count some rows."""
        first = self.rows + FIRST_ROW
        self.rows += len(batch)
        texts, ids, _, _, errors = zip(*batch, strict=True)
        if self.ids_compared < MOST_IDS and ids.count(None) < len(ids):
            self._compare_ids([row_id for row_id in ids if row_id is not None])
        numbers: Sequence[int] = range(first, first + len(batch))
        if errors.count(None) < len(errors):
            good = [(number, row) for number, row in enumerate(batch, first) if not self._is_faulty(number, row)]
            numbers, batch = [number for number, _ in good], [row for _, row in good]
            texts = tuple(row.text for row in batch)
        lengths = list(map(len, texts))
        self.characters.update(lengths)
        self.words.update(map(len, map(str.split, texts)))
        joined = "".join(texts)
        self.text_bytes += len(joined) if joined.isascii() else len(joined.encode())
        if lengths and (len(self._longest) < LONGEST or max(lengths) > self._longest[0][0]):
            self._keep_longest(batch, lengths, numbers)

    def longest(self) -> list[PlacedRow]:
        """Return the longest good rows, the longest first, then by position."""
        return [PlacedRow(-place, row) for _, place, row in sorted(self._longest, reverse=True)]

    def _is_faulty(self, number: int, row: Row) -> bool:
        if row.error is None:
            return False
        self.faults[row.error.code] += 1
        places = self.places.setdefault(row.error.code, [])
        if len(places) < FIRST_PLACES:
            places.append(PlacedRow(number, row))
        return True

    def _keep_longest(self, batch: Sequence[Row], lengths: Sequence[int], numbers: Sequence[int]) -> None:
        for row, length, number in zip(batch, lengths, numbers, strict=True):
            if len(self._longest) < LONGEST:
                heapq.heappush(self._longest, (length, -number, row))
            elif length > self._longest[0][0]:
                heapq.heapreplace(self._longest, (length, -number, row))

    def _compare_ids(self, ids: Sequence[str]) -> None:
        """Count ids that were there before, by 64-bit fingerprints, which are as good as the ids up to a million."""
        ids = ids[: MOST_IDS - self.ids_compared]
        known = len(self._ids)
        self._ids.update(map(hash, ids))
        self.ids_compared += len(ids)
        self.duplicate_ids += len(ids) - (len(self._ids) - known)
        if self.ids_compared >= MOST_IDS:
            self._ids.clear()
