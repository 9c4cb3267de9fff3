"""What the scorer needs of a device: padded token ids in, probabilities out.

Two steps, so that a device that works by itself is given its next batch before the last one is done::

    wait = backend.begin(batch)     queued, runs by itself
    scores = wait()                 float32 (rows, labels)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scorequeue.jobs import RowError

Scores = npt.NDArray[np.float32]


Running = Callable[[], Scores]
"""Waits for a batch and returns its probabilities, float32 (rows, labels). Called once, in the order of ``begin``."""


class DeviceFullError(Exception):
    """The device has no memory for this batch; a smaller one may go."""


class DeviceLostError(Exception):
    """This process can use the device no more, whatever it is given: after a CUDA assert, say."""


@dataclass(frozen=True)
class Encodings:
    """Tokenised rows, end to end.

    Attributes:
        failed: Why rows have no tokens, by position. Each holds one token of padding, so that it can ride along; its
            scores mean nothing.
    """

    token_ids: npt.NDArray[np.int32]  # (tokens,), special tokens included
    lengths: npt.NDArray[np.int32]  # (rows,), at least 1
    truncated: npt.NDArray[np.bool_]  # (rows,): whether the text was longer than the model reads
    failed: Mapping[int, RowError] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each row begins in ``token_ids``: int64 (rows,)."""
        return np.cumsum(self.lengths, dtype=np.int64) - self.lengths


@dataclass(frozen=True)
class PaddedBatch:
    """Rows padded on the right to one width.

    There are no token types: one text per row is all zeros, which is what models take them for when left out.
    """

    input_ids: npt.NDArray[np.int32]  # (rows, tokens)
    lengths: npt.NDArray[np.int32]  # (rows,), without padding

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.input_ids)

    @property
    def width(self) -> int:
        """Tokens to which each row is padded."""
        return int(self.input_ids.shape[1])

    @property
    def is_full(self) -> bool:
        """Whether no row is padded, so that a model needs no mask."""
        return bool((self.lengths == self.width).all())

    @property
    def attention_mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens are not padding: bool (rows, tokens)."""
        mask: npt.NDArray[np.bool_] = np.arange(self.width) < self.lengths[:, None]
        return mask


def pad_rows(
    token_ids: npt.NDArray[np.integer],
    starts: npt.NDArray[np.integer],
    lengths: npt.NDArray[np.integer],
    *,
    pad_id: int,
    width: int | None = None,
) -> PaddedBatch:
    """Gather rows into one padded batch, without a Python step per row or token.

    Args:
        token_ids: Tokens of many rows, end to end.
        starts: (rows,): where each wanted row begins in ``token_ids``.
        lengths: (rows,): its tokens.
        pad_id: What stands behind a row's last token.
        width: Tokens to which rows are padded; None means those of the longest.
    """
    columns = np.arange(int(lengths.max()) if width is None else width)
    sources = starts[:, None] + columns  # (rows, tokens)
    sizes: npt.NDArray[np.int32] = lengths.astype(np.int32)
    # Behind the very last row there is nothing to gather: clipped there, and overwritten like all padding.
    input_ids: npt.NDArray[np.int32] = token_ids.take(sources, mode="clip").astype(np.int32, copy=False)
    if int(sizes.min()) < len(columns):
        input_ids[columns >= sizes[:, None]] = pad_id
    return PaddedBatch(input_ids, sizes)


class Backend(Protocol):
    """A model on a device. Used by one thread at a time."""

    name: str  # torch, openvino or fake
    device: str  # what it runs on, in words
    dtype: str  # of its weights: float32, bfloat16 or float16
    depth: int  # batches that may be begun before the first one's scores are waited for
    is_fast: bool  # whether it takes more rows than one process can tokenise: a GPU

    def begin(self, batch: PaddedBatch) -> Running:
        """Give a batch to the device, and return what waits for its scores.

        Raises:
            DeviceFullError: The device has no memory for it; waiting may raise that too.
            DeviceLostError: This process can use the device no more; likewise.
            Exception: Whatever the model raised; likewise.
        """
        ...
