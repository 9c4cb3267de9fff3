"""``worker start`` with a fake device that does harm: rows that kill the process, raise or hang, a sick device.

    python -m tests.faults.faulty_worker start

Everything but the device is the real worker. What a row does is in its text; the rest comes from the environment:

    FAULTS_ROWS_PER_S   speed of the device
    FAULTS_SICK         a file: while it is there, the device raises at everything, golden sentences too
    FAULTS_KILLS_LOADING  a version that kills the process while it is loaded
    FAULTS_LOAD_AFTER   seconds that a job waits before its version is loaded, instead of 30
    FAULTS_HASTY        seconds after which the watchdog calls a batch stuck, instead of a minute
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import worker.loading
import worker.watchdog
from worker.loading import LoadedModel, make_fake_model

import worker.tasks
from scorequeue.manifest import GoldenSentence
from worker.backends import Encodings, PaddedBatch
from worker.backends.fake import FakeBackend, FakeRunning, FakeTokenizer

KILLER = "this row kills"
POISON = "this row raises"
HANGING = "this row hangs"
TOKEN_KILLER = "this row kills the tokenizer"
TOKEN_HANGING = "this row hangs the tokenizer"

_MARKS = {KILLER: 1, POISON: 2, HANGING: 3}


class FaultyTokenizer(FakeTokenizer):
    """Marks the rows that do harm, by their first token."""

    def encode(self, texts: Sequence[str]) -> Encodings:
        encodings = super().encode(texts)
        for row, text in enumerate(texts):
            if text == TOKEN_KILLER:
                os.kill(os.getpid(), signal.SIGKILL)
            if text == TOKEN_HANGING:
                time.sleep(3600)
            if text in _MARKS:
                encodings.token_ids[encodings.starts[row]] = _MARKS[text]
        return encodings


class FaultyBackend(FakeBackend):
    """A device that rows can harm."""

    def begin(self, batch: PaddedBatch) -> FakeRunning:
        marks = batch.input_ids[:, 0]
        sick = os.environ.get("FAULTS_SICK")
        if sick is not None and Path(sick).exists():
            raise RuntimeError("the device is sick")
        if np.any(marks == _MARKS[KILLER]):
            os.kill(os.getpid(), signal.SIGKILL)
        if np.any(marks == _MARKS[HANGING]):
            time.sleep(3600)
        if np.any(marks == _MARKS[POISON]):
            raise RuntimeError("the row raises")
        return super().begin(batch)


def make_faulty_model(
    *, version: str = "fake", labels: Sequence[str] = ("unacceptable", "acceptable"), rows_per_s: float | None = None
) -> LoadedModel:
    """Take the place of ``make_fake_model``."""
    if version == os.environ.get("FAULTS_KILLS_LOADING"):
        os.kill(os.getpid(), signal.SIGKILL)
    speed = os.environ.get("FAULTS_ROWS_PER_S")
    backend = FaultyBackend(label_count=len(labels), rows_per_s=float(speed) if speed else rows_per_s)
    model = make_fake_model(version=version, labels=labels)
    golden = GoldenSentence(text="golden", scores=tuple(model.score_now(["golden"])[0].tolist()))
    return replace(model, backend=backend, tokenizer=FaultyTokenizer(), golden=(golden,))


def main() -> None:
    """Put the faults in their places, and run the command."""
    worker.loading.make_fake_model = make_faulty_model
    if load_after := os.environ.get("FAULTS_LOAD_AFTER"):
        worker.tasks.LOAD_AFTER_S = float(load_after)
    if hasty := os.environ.get("FAULTS_HASTY"):
        worker.watchdog.LOOK_EVERY_S = 0.2
        worker.watchdog.STUCK_AFTER_S = float(hasty)
    from worker.cli import main as worker_main

    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
