"""Keeps the row that runs alone, and is noted for it, apart from all else that could end the process.

A death is blamed on the noted row. So while one is noted, nothing else of anybody's rows is decoded, tokenised or run:
a text that crashes the tokenizer would have its death put on an innocent row, and go on uncounted itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Apart:
    """One thread runs a row alone, others work beside each other, and neither keeps the other waiting for long.

    ``beside`` waits for one row at most, the one that runs or was asked for before. ``begin_alone`` waits for those
    that work by now, and for those that a row has kept waiting.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_alone = False
        self._is_wanted = False
        self._beside = 0
        self._rows = 0  # that have run alone so far
        self._waiting: list[int] = []  # how many those were when each waiting thread came

    @property
    def is_alone(self) -> bool:
        """Whether a row runs alone."""
        return self._is_alone

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work that must not go on while a row runs alone; any thread."""
        with self._changed:
            came = self._rows
            self._waiting.append(came)
            self._changed.wait_for(lambda: not self._is_alone and (not self._is_wanted or self._rows > came))
            self._waiting.remove(came)
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    def begin_alone(self) -> None:
        """Wait until nothing works beside. One thread; ``end_alone`` must follow."""
        with self._changed:
            self._is_wanted = True
            self._changed.wait_for(lambda: not self._beside and not any(came < self._rows for came in self._waiting))
            self._is_wanted, self._is_alone = False, True

    def end_alone(self) -> None:
        """Let the others go on."""
        with self._changed:
            self._is_alone = False
            self._rows += 1
            self._changed.notify_all()
