"""Rows for ``make bench-gpu``: short, mixed and long, made of sentences; and their token ids.

Loads no torch: the processes that tokenise beside the bare loop import this module.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, cycle
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from training.cola import DEV_FILE, TRAIN_FILE

MIXES = {"short": (0, 0), "mixed": (10, 200), "long": (200, 500)}
"""Fewest and most tokens of a row, evenly spread; short rows are sentences as they are."""

SPECIAL_TOKENS = 2
SAMPLE_PAIRS = 4_000


class Tokens(NamedTuple):
    """Token ids of rows.

    Attributes:
        ids: (tokens,) those of all rows, one row after the other.
        lengths: (rows,) tokens per row, special tokens included.
    """

    ids: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]


def find_dataset(folder: Path, *, scratch: Path) -> tuple[Path, str]:
    """Return a folder of labelled sentences in CoLA's layout, and what they are.

    Args:
        folder: It, if it is there.
        scratch: Where sentences of the project's own grammar are written if it is not.
    """
    if (folder / TRAIN_FILE).is_file():
        return folder, "CoLA"
    from training import sample

    made = scratch / "sample"
    made.mkdir()
    parts = sample.make(seed=0, train_pairs=SAMPLE_PAIRS)
    for name, rows in zip((TRAIN_FILE, DEV_FILE), parts, strict=True):
        lines = (f"sample\t{label}\t\t{text}\n" for text, label in rows)
        (made / name).write_text("".join(lines), "utf-8")
    return made, "made sentences (training/sample.py)"


def read_sentences(dataset: Path) -> list[str]:
    """Return the distinct training sentences of a folder in CoLA's layout, in its order."""
    lines = (dataset / TRAIN_FILE).read_text("utf-8").splitlines()
    return list(dict.fromkeys(line.split("\t")[3] for line in lines))


def make_rows(mix: str, sentences: Sequence[str], *, count: int, tokenizer: Tokenizer) -> list[str]:
    """Join sentences to rows of a mix's lengths; the same ones each time.

    Args:
        mix: A name in ``MIXES``.
        sentences: What to join.
        count: Rows.
        tokenizer: Counts the tokens.
    """
    fewest, most = MIXES[mix]
    order = random.Random(0)
    if not most:
        return order.choices(sentences, k=count)
    encodings = tokenizer.encode_batch_fast(list(sentences), add_special_tokens=False)
    lengths = [len(encoding.ids) for encoding in encodings]
    rows = []
    for _ in range(count):
        target = order.randint(fewest, most) - SPECIAL_TOKENS
        picked: list[str] = []
        tokens = 0
        while not picked or tokens < target - 5:  # ends on average where it should
            at = order.randrange(len(sentences))
            picked.append(sentences[at])
            tokens += lengths[at]
        rows.append(" ".join(picked))
    return rows


def load_tokenizer(folder: Path, *, max_length: int) -> Tokenizer:
    """Load a checkpoint folder's tokenizer as a worker does: it pads nothing, and cuts long rows."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Return the token ids of texts, special tokens included."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return Tokens(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths)


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Return the rows of all parts, in order."""
    ids = np.concatenate([part.ids for part in parts])
    return Tokens(ids, np.concatenate([part.lengths for part in parts]))


class TokeniserPool:
    """Processes that tokenise beside the device, as a user without a queue would have them.

    Args:
        folder: A checkpoint folder.
        max_length: Most tokens of a row.
        processes: How many.
    """

    def __init__(self, folder: Path, *, max_length: int, processes: int) -> None:
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),  # a fork of a process that uses CUDA cannot be relied on
            initializer=_start_tokenising,
            initargs=(folder, max_length),
        )

    def stream(self, blocks: Sequence[Sequence[str]], *, ahead: int) -> Iterator[Tokens]:
        """Yield the token ids of each block, in order and over and over.

        Args:
            blocks: Texts.
            ahead: Blocks that are tokenised before they are asked for.
        """
        waiting: deque[Future[Tokens]] = deque()
        for block in cycle(blocks):
            waiting.append(self._pool.submit(_tokenise_block, block))
            if len(waiting) > ahead:
                yield waiting.popleft().result()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _start_tokenising(folder: Path, max_length: int) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for each process
    _tokenizer = load_tokenizer(folder, max_length=max_length)


def _tokenise_block(texts: Sequence[str]) -> Tokens:
    return tokenise(_tokenizer, texts)


_tokenizer: Tokenizer
"""The tokeniser process's own."""
