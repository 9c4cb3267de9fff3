"""Sentences as padded batches: tokenised once, grouped by length, shuffled by seed and epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from training import sources
from training.sources import LabelledSentences, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP_BATCHES = 50
"""Batches that are sorted together: enough for nearly equal lengths, few enough for a good shuffle."""

CUDA_WIDTH_STEP = 8
"""On a GPU batches are padded to a multiple of so many tokens: few shapes to record, and tensor cores like them."""

Batch = dict[str, torch.Tensor]


class TokenRows(Dataset[Batch]):
    """Tokenised rows; indexing with a list of rows gives a batch padded to its own longest row.

    Args:
        split: Sentences and labels.
        tokenizer: A fast tokenizer.
        max_length: Most tokens of a row, special tokens included.
        width_step: Batches are as wide as a multiple of it, but never wider than ``max_length``.
    """

    def __init__(
        self, split: Split, *, tokenizer: PreTrainedTokenizerBase, max_length: int, width_step: int = 1
    ) -> None:
        # The tokenizers object itself: no Python object per row, and truncation keeps the special tokens.
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(max_length)
        try:
            encodings = backend.encode_batch_fast(list(split.texts))
        finally:
            backend.no_truncation()
        self.lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._ids = np.concatenate([np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings])
        self._labels = np.array(split.labels, dtype=np.int64)
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._max_length = max_length
        self._width_step = width_step

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, rows: Sequence[int] | Share) -> Batch:
        """A batch: ``input_ids`` and ``attention_mask`` (rows, width), ``labels`` (rows,), all int64.

        That of a `Share` has its ``weight`` (), float32, too.
        """
        if isinstance(rows, Share):
            return self[rows.rows] | {"weight": torch.tensor(rows.weight)}
        chosen = np.asarray(rows)
        lengths = self.lengths[chosen, None]  # (rows, 1)
        longest = int(lengths.max())
        width = max(longest, min(-(-longest // self._width_step) * self._width_step, self._max_length))
        columns = np.arange(width)  # (width,)
        mask = columns < lengths  # (rows, width)
        ids = np.full(mask.shape, self._pad_id)
        ids[mask] = self._ids[(self._starts[chosen, None] + columns)[mask]]
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "labels": torch.from_numpy(self._labels[chosen]),
        }


class Share(NamedTuple):
    """A process's part of a batch.

    Attributes:
        rows: Row indices. A process that gets none takes one all the same, since all have to be in step.
        weight: What the mean loss of these rows is multiplied with, so that the mean over processes is the mean over
            the batch's rows; 0 for a row that is another's.
    """

    rows: list[int]
    weight: float


def take_share(batch: list[int], *, rank: int, world_size: int) -> Share:
    """Every so-many-th row: of rows in order of length each process gets short and long ones."""
    rows = batch[rank::world_size]
    return Share(rows, len(rows) * world_size / len(batch)) if rows else Share(batch[:1], 0.0)


class LengthGroupedBatches(Sampler["list[int] | Share"]):
    """Batches of rows of like length in a random order; each row once an epoch.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in each batch but the last.
        seed: With the epoch it fixes the order; None keeps rows sorted by length, for validation.
        rank: This process among those that share each batch.
        world_size: How many they are; where they are several, a batch is a `Share`.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, seed: int | None, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__()
        self._rank = rank
        self._world_size = world_size
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Lightning calls it."""
        if epoch != self._epoch:
            self.start_at(epoch, batch=0)

    def start_at(self, epoch: int, *, batch: int) -> None:
        """Choose the epoch's order, and leave out its first batches in the next pass: a resumed fit had them."""
        self._epoch, self._skipped = epoch, batch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._batch_size)

    def __iter__(self) -> Iterator[list[int] | Share]:
        skipped, self._skipped = self._skipped, 0
        batches = self._order()[skipped:]
        if self._world_size == 1:
            return iter(batches)
        return (take_share(batch, rank=self._rank, world_size=self._world_size) for batch in batches)

    def _order(self) -> list[list[int]]:
        rows = list(range(len(self._lengths)))
        if self._seed is None:
            return self._cut(sorted(rows, key=lambda row: self._lengths[row]))
        random_order = random.Random(f"{self._seed}/{self._epoch}")
        random_order.shuffle(rows)
        group = self._batch_size * GROUP_BATCHES
        batches = []
        for start in range(0, len(rows), group):
            batches += self._cut(sorted(rows[start : start + group], key=lambda row: self._lengths[row]))
        random_order.shuffle(batches)
        return batches

    def _cut(self, rows: list[int]) -> list[list[int]]:
        return [rows[start : start + self._batch_size] for start in range(0, len(rows), self._batch_size)]


class SentenceData(pl.LightningDataModule):
    """Training and validation batches of a named dataset.

    Args:
        dataset: ``sample``, ``cola`` or a folder; or sentences that are loaded already.
        tokenizer: The model's tokenizer.
        max_length: Most tokens of a row.
        batch_size: Rows in a training batch; validation takes four times as many, as it keeps no gradients.
        seed: Seed of the order, and of the made sentences.
    """

    def __init__(
        self,
        dataset: str | LabelledSentences,
        *,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 128,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._dataset = dataset
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._batch_size = batch_size
        self._seed = seed
        self._train: TokenRows | None = None
        self._dev: TokenRows | None = None
        self._start = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch is, for Lightning's checkpoints: its epoch, and how many batches of that came before."""
        # Lightning 2.6 has a protocol for this in the loader, but forgets it where a module asks for
        # `estimated_stepping_batches`, as schedules by steps do: the loader is then made before the state is read.
        assert self.trainer is not None
        epoch, batch = self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1
        if batch >= self.trainer.num_training_batches:
            epoch, batch = epoch + 1, 0
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where `state_dict` was."""
        self._start = (state_dict["epoch"], state_dict["batch"])

    def prepare_data(self) -> None:
        """Download once per machine; `setup` then finds the files in the cache of `datasets`."""
        if self._dataset == "cola":
            sources.load("cola", seed=self._seed)

    def setup(self, stage: str | None = None) -> None:
        """Load and tokenise, once per process.

        Raises:
            UsageError: As `sources.load`.
        """
        if self._train is not None:
            return
        if isinstance(self._dataset, str):
            self._dataset = sources.load(self._dataset, seed=self._seed)
        width_step = CUDA_WIDTH_STEP if torch.cuda.is_available() else 1
        self._train, self._dev = (
            TokenRows(split, tokenizer=self._tokenizer, max_length=self._max_length, width_step=width_step)
            for split in (self._dataset.train, self._dataset.dev)
        )

    @property
    def train_rows(self) -> TokenRows:
        """The tokenised training rows."""
        self.setup()
        assert self._train is not None
        return self._train

    @property
    def dev_rows(self) -> TokenRows:
        """The tokenised validation rows."""
        self.setup()
        assert self._dev is not None
        return self._dev

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches in this epoch's order."""
        loader = self._make_loader(self.train_rows, batch_size=self._batch_size, seed=self._seed)
        epoch, batch = self._start
        loader.sampler.start_at(epoch, batch=batch)
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches from the shortest rows to the longest."""
        return self._make_loader(self.dev_rows, batch_size=4 * self._batch_size, seed=None)

    def _make_loader(self, rows: TokenRows, *, batch_size: int, seed: int | None) -> DataLoader[Batch]:
        # batch_size=None: the sampler's "index" is a whole batch, so rows are padded in one pass and nothing is
        # collated. No worker processes: a batch takes 0.1 ms to build, far less than to hand over.
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(
            rows,
            batch_size=None,
            sampler=LengthGroupedBatches(
                rows.lengths.tolist(), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
            ),
            pin_memory=torch.cuda.is_available(),
        )
