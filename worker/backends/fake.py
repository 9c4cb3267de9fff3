"""A model that is none: scores made from the text itself, for tests of the queue and for measuring it alone.

It needs no torch, no checkpoint and no tokenizer, gives the same scores in every process, and costs the worker under a
microsecond a row.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from worker.backends import Encodings, PaddedBatch, Running, Scores

CHARACTERS_PER_TOKEN = 4
"""About what WordPiece makes of English."""


class FakeTokenizer:
    """Rows of one token per four characters; the first is the text's checksum, the others are zero.

    Args:
        max_length: Most tokens in a row.
    """

    pad_id = 0

    def __init__(self, max_length: int = 128) -> None:
        self.max_length = max_length

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Make up tokens for texts."""
        wanted = 1 + np.fromiter(map(len, texts), np.int32, len(texts)) // CHARACTERS_PER_TOKEN
        lengths = np.minimum(wanted, self.max_length).astype(np.int32)
        token_ids = np.zeros(int(lengths.sum()), np.int32)
        checksums = np.fromiter((zlib.crc32(text.encode("utf-8", "replace")) for text in texts), np.int64, len(texts))
        encodings = Encodings(token_ids, lengths, wanted > self.max_length)
        token_ids[encodings.starts] = checksums & 0x7FFFFFFF
        return encodings


class FakeBackend:
    """Deterministic scores from each row's first token, at once: ``label_count`` a row."""

    name = "fake"
    device = "none"
    dtype = "float32"
    depth = 1
    is_fast = False

    def __init__(self, *, label_count: int = 2) -> None:
        self.label_count = label_count

    def begin(self, batch: PaddedBatch) -> Running:
        """Begin a batch; there is nothing to wait for."""
        return partial(fake_scores, batch.input_ids[:, 0], self.label_count)


def fake_scores(checksums: npt.NDArray[np.integer], label_count: int) -> Scores:
    """Spread checksums over probabilities that sum to 1: float32 (rows, labels)."""
    mixed = checksums[:, None] * (2 * np.arange(label_count) + 3) % 1_009 + 1  # (rows, labels)
    scores: Scores = (mixed / mixed.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores
