"""A checkpoint version on a device, and the way there.

A version becomes ready in this order, and nothing is claimed for it before the end::

    verified against its manifest -> loaded -> warmed up -> its golden sentences give their known scores
        -> its token budget is found -> warmed up with batches as large as that
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scorequeue.errors import DeviceSickError, ScoreCountError
from scorequeue.logs import fields
from scorequeue.manifest import GoldenSentence
from scorequeue.registry import Registry
from worker.backends import Backend, DeviceFullError, Encodings, PaddedBatch, Scores, pad_rows
from worker.backends.fake import FakeBackend
from worker.budget import SMALLEST_BUDGET
from worker.device.choosing import open_backend
from worker.settings import CACHE_DIR
from worker.tokenizing import Tokenizer, TokenizerFiles

log = logging.getLogger(__name__)

GOLDEN_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of a golden score from the manifest's float32 one, by the dtype that computed it."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A version on a device, ready to score; for one thread alone."""

    version: str
    labels: tuple[str, ...]  # in the order of the scores
    backend: Backend
    tokenizer: Tokenizer  # for the sentences that it is tried on
    golden: tuple[GoldenSentence, ...] = ()  # with their float32 scores; none where scores mean nothing (the fake)

    def score_now(self, texts: Sequence[str]) -> Scores:
        """Score a few texts as one batch: float32 (rows, labels). Raises what ``checked`` and the backend raise."""
        rows = self.tokenizer.encode(texts)
        batch = pad_rows(rows.token_ids, rows.starts, rows.lengths, pad_id=self.tokenizer.pad_id)
        return self.checked(self.backend.begin(batch)(), rows=batch.rows)

    def checked(self, scores: Scores, *, rows: int) -> Scores:
        """Return the scores if there is one per row and label, else raise ``ScoreCountError``."""
        if scores.shape != (rows, len(self.labels)):
            raise ScoreCountError(
                f"backend {self.backend.name} should return scores of shape {(rows, len(self.labels))} for version "
                f"{self.version} but returned {scores.shape}"
            )
        return scores

    def check_golden(self) -> None:
        """Score the golden sentences; raise ``DeviceSickError`` if that fails or the scores are not the known ones."""
        if not self.golden:
            return
        where = f"version {self.version} on {self.backend.device} in {self.backend.dtype}"
        try:
            scores = self.score_now([sentence.text for sentence in self.golden])
        except Exception as error:
            raise DeviceSickError(f"golden sentences of {where} should be scored but raised {error!r}") from error
        wanted = np.array([sentence.scores for sentence in self.golden], np.float32)  # (rows, labels)
        tolerance = GOLDEN_TOLERANCE[self.backend.dtype]
        # Scores this close have the same label too, except where two labels are within twice the tolerance of a tie.
        difference = float(np.abs(scores - wanted).max())
        if not difference <= tolerance:  # nor where it is NaN
            other_dtype = "" if self.backend.dtype == "float32" else "--dtype float32, else "
            raise DeviceSickError(
                f"golden scores of {where} should be within {tolerance:g} of the manifest's but differ by "
                f"{difference:.4g}; try {other_dtype}another device"
            )

    def warm_up(self, token_budget: int = SMALLEST_BUDGET) -> tuple[int, float]:
        """Run batches of one row and full ones on all that works at once, so that no job pays for first allocations.

        Args:
            token_budget: Padded tokens of a full batch; less where the device has no memory for so many.

        Returns:
            The budget that fits, and the seconds of such a batch.

        Raises:
            DeviceSickError: The device cannot run them.
        """
        row = self.tokenizer.encode(["A sentence to warm up with."])
        try:
            self._run_copies(row, 1)
            while True:
                rows = max(1, token_budget // int(row.lengths[0]))
                try:
                    self._run_copies(row, rows)
                    return token_budget, self._run_copies(row, rows) / self.backend.depth
                except DeviceFullError as error:
                    if token_budget <= SMALLEST_BUDGET:
                        raise
                    token_budget //= 2
                    facts = fields("out_of_memory", rows=rows, token_budget=token_budget, error=str(error))
                    log.warning("device has no memory to warm up with such batches", extra=facts)
        except Exception as error:
            raise DeviceSickError(f"{self.backend.device} cannot run version {self.version}: {error!r}") from error

    def _run_copies(self, row: Encodings, rows: int) -> float:
        input_ids = np.repeat(row.token_ids[None, :], rows, axis=0)  # (rows, tokens)
        batch = PaddedBatch(input_ids, np.repeat(row.lengths, rows))
        began = time.monotonic()
        for wait in [self.backend.begin(batch) for _ in range(self.backend.depth)]:
            wait()
        return time.monotonic() - began


def load_model(
    registry: Registry,
    version: str,
    *,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    cache_dir: Path = CACHE_DIR,
) -> LoadedModel:
    """Verify, load, warm up and try a version.

    Args:
        registry: Where it is.
        version: Its name.
        backend: ``fake`` (the version's labels, made-up scores), or see ``choose_backend``.
        device: See ``choose_backend``.
        dtype: See ``choose_backend``.
        cache_dir: Where models that openvino converted are kept.

    Raises:
        VersionNotFoundError: There is no such version.
        VerificationError: It does not match its manifest, or does not load.
        UsageError: No such backend, device or dtype.
        DeviceSickError: The device does not give the golden scores.
    """
    manifest = registry.verify(version)
    if backend == "fake":
        return make_fake_model(version=version, labels=manifest.labels)
    folder = registry.path(version)
    opened = open_backend(
        folder, backend=backend, device=device, dtype=dtype, cache_dir=cache_dir, max_length=manifest.max_length
    )
    tokenizer = TokenizerFiles(folder, manifest.max_length).open()
    model = LoadedModel(version, manifest.labels, opened, tokenizer, manifest.golden)
    model.warm_up()
    model.check_golden()
    facts = fields("version_ready", version=version, backend=opened.name, device=opened.device, dtype=opened.dtype)
    log.info("version is ready", extra=facts)
    return model


def make_fake_model(
    *,
    version: str = "fake",
    labels: Sequence[str] = ("unacceptable", "acceptable"),
) -> LoadedModel:
    """Return a model that needs no checkpoint, for tests of the queue and for measuring it alone."""
    return LoadedModel(version, tuple(labels), FakeBackend(label_count=len(labels)), TokenizerFiles().open())
