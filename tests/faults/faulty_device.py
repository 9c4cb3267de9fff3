"""The device process with a fake model that rows can harm; see ``faulty_worker`` for what it reads."""

from __future__ import annotations

import os
import runpy
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import worker.device.loading
from scorequeue.manifest import GoldenSentence
from tests.faults.faulty_tokenizer import MARKS, make_tokenizers_faulty
from tests.faults.faulty_worker import ABORT, HANGING, KILLER, POISON
from worker.backends import PaddedBatch, Running, Scores
from worker.backends.fake import FakeBackend
from worker.budget import SMALLEST_BUDGET
from worker.device.loading import LoadedModel, make_fake_model


class FaultyBackend(FakeBackend):
    """A device that rows can harm, of a speed that can be set."""

    rows_per_s: float | None = None

    def begin(self, batch: PaddedBatch) -> Running:
        """Begin a batch, or come to harm."""
        marks = batch.input_ids[:, 0]
        sick = Path(os.environ.get("FAULTS_SICK", "missing"))
        harm = sick.read_text() if sick.exists() else ""
        if np.any(marks == MARKS[KILLER]) or harm == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if np.any(marks == MARKS[HANGING]) or harm == "hangs":
            time.sleep(3600)
        if np.any(marks == MARKS[POISON]) or harm == "raises":
            raise RuntimeError("the device is told to raise")
        done_at = time.monotonic() + (batch.rows / self.rows_per_s if self.rows_per_s else 0)
        return partial(finish, super().begin(batch), done_at, aborts=bool(np.any(marks == MARKS[ABORT])))


def finish(running: Running, done_at: float, *, aborts: bool) -> Scores:
    """Wait out a batch's pretended time; may then end the process, as a failed CUDA assert does."""
    time.sleep(max(0, done_at - time.monotonic()))
    if aborts:
        os.abort()
    return running()


class FaultyModel(LoadedModel):
    """A model on a device that rows can harm."""

    def warm_up(self, token_budget: int = SMALLEST_BUDGET) -> tuple[int, float]:
        """Warm up at full speed: each scenario with a slow device would wait for it."""
        warm = super().warm_up(token_budget)
        speed = os.environ.get("FAULTS_ROWS_PER_S")
        assert isinstance(self.backend, FaultyBackend)
        self.backend.rows_per_s = float(speed) if speed else None
        return warm


def make_faulty_model(*, version: str = "fake", labels: Sequence[str] = ("unacceptable", "acceptable")) -> LoadedModel:
    """Take the place of ``make_fake_model``."""
    if loads := os.environ.get("FAULTS_LOADS"):
        with Path(loads).open("a") as file:
            file.write(f"{version}\n")
    time.sleep(float(os.environ.get("FAULTS_LOAD_S", "0")))
    if version == os.environ.get("FAULTS_KILLS_LOADING"):
        os.kill(os.getpid(), signal.SIGKILL)
    model = make_fake_model(version=version, labels=labels)
    golden = GoldenSentence(text="golden", scores=tuple(model.score_now(["golden"])[0].tolist()))
    backend = FaultyBackend(label_count=len(labels))
    backend.depth = int(os.environ.get("FAULTS_DEPTH", "1"))
    backend.is_fast = "FAULTS_FAST" in os.environ
    return FaultyModel(version, model.labels, backend, model.tokenizer, (golden,))


if __name__ == "__main__":
    make_tokenizers_faulty()
    worker.device.loading.make_fake_model = make_faulty_model
    runpy.run_module("worker.device", run_name="__main__", alter_sys=True)  # as `python -m` does
