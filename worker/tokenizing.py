"""Texts to token ids with the ``tokenizers`` library directly: it works on many rows at once and lets go of the GIL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from scorequeue.errors import VerificationError
from worker.backends import Encodings

FEW = 4
"""Texts that go one by one: waking the library's threads for them costs twice as much as it saves."""


class TokenizingError(Exception):
    """The tokenizer failed on some texts."""


class Tokenizer(Protocol):
    """What turns texts into rows of token ids.

    Attributes:
        pad_id: The id that fills rows up; positions that hold it are masked as well.
        max_length: Most tokens in a row, special tokens and padding included.
    """

    @property
    def pad_id(self) -> int: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenise texts, special tokens included, cut to what the model reads."""
        ...


class FolderTokenizer:
    """The tokenizer of a checkpoint folder.

    Padding and truncation are ours, whatever tokenizer.json says: MiniLM's own pads every row to 128 tokens.

    Args:
        folder: A checkpoint folder with tokenizer.json and config.json.
        max_length: Most tokens in a row, special tokens included.

    Raises:
        VerificationError: The folder has no tokenizer.json or config.json that can be read.
    """

    def __init__(self, folder: Path, *, max_length: int) -> None:
        self.max_length = max_length
        try:
            self._tokenizer = RustTokenizer.from_file(str(folder / "tokenizer.json"))
            pad_id = json.loads((folder / "config.json").read_bytes()).get("pad_token_id")
        # `tokenizers` raises bare Exception for a file that it cannot read.
        except Exception as error:
            raise VerificationError(f"{folder} has no usable tokenizer.json and config.json: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.pad_id = int(pad_id) if pad_id is not None else 0

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenise texts, special tokens included; one that is too long loses its end, not its last special token."""
        if len(texts) <= FEW:
            encoded = [self._tokenizer.encode(text) for text in texts]
        else:
            encoded = self._tokenizer.encode_batch_fast(list(texts))
        rows = [encoding.ids for encoding in encoded]
        # Only where the tokenizer adds no special tokens, and its normalizer leaves nothing of a text.
        unread = () if all(rows) else tuple(at for at, ids in enumerate(rows) if not ids)
        for at in unread:
            rows[at] = [self.pad_id]
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        token_ids = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        truncated = np.zeros(len(rows), np.bool_)
        # Only a row of exactly the greatest length can have lost something; asking every row would cost a list each.
        for row in np.flatnonzero(lengths >= self.max_length):
            truncated[row] = bool(encoded[row].overflowing)
        return Encodings(token_ids, lengths, truncated, unread)
