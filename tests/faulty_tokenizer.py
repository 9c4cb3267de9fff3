"""A child process that tokenises with a tokenizer that some texts kill, hang or fail."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

import worker.tokenizing
from tests.faulty_device import HANGS, KILLS, RAISES
from worker.backends import Encodings
from worker.backends.fake import FakeTokenizer

encode = FakeTokenizer.encode


def encode_or_fail(tokenizer: FakeTokenizer, texts: Sequence[str]) -> Encodings:
    """Take the place of ``FakeTokenizer.encode``."""
    if KILLS in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    if HANGS in texts:
        threading.Event().wait()
    if RAISES in texts:
        raise RuntimeError("the tokenizer says no")
    return encode(tokenizer, texts)


if __name__ == "__main__":
    FakeTokenizer.encode = encode_or_fail  # type: ignore[method-assign]
    worker.tokenizing.main()
