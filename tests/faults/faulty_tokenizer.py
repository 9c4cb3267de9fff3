"""A tokenizer that texts can harm, and the worker's tokenizer process with it."""

from __future__ import annotations

import os
import runpy
import signal
import time
from collections.abc import Sequence

import worker.backends.fake
from tests.faults.faulty_worker import (
    ABORT,
    HANGING,
    KILLER,
    POISON,
    TOKEN_HANGING,
    TOKEN_KILLER,
    TOKEN_POISON,
)
from worker.backends import Encodings
from worker.backends.fake import FakeTokenizer

MARKS = {KILLER: 1, POISON: 2, HANGING: 3, ABORT: 4}
"""First token of a row that harms the device."""


class FaultyTokenizer(FakeTokenizer):
    """Comes to harm itself, or marks the rows that harm the device."""

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Make up tokens for texts."""
        encodings = super().encode(texts)
        for row, text in enumerate(texts):
            if text == TOKEN_KILLER:
                os.kill(os.getpid(), signal.SIGKILL)
            if text == TOKEN_HANGING:
                time.sleep(3600)
            if text == TOKEN_POISON:
                raise ValueError("the tokenizer cannot read this")
            if text in MARKS:
                encodings.token_ids[encodings.starts[row]] = MARKS[text]
        return encodings


def make_tokenizers_faulty() -> None:
    """Give this process the faulty tokenizer."""
    worker.backends.fake.FakeTokenizer = FaultyTokenizer  # type: ignore[misc]


if __name__ == "__main__":
    make_tokenizers_faulty()
    runpy.run_module("worker.tokenizing", run_name="__main__", alter_sys=True)  # as `python -m` does
