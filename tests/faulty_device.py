"""A device process whose device has faults: rows that do harm, little memory, a gate, a note of each batch.

Its test controls it by files in a folder, which it gets as the request's ``cache_dir``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scorequeue.errors import VerificationError
from scorequeue.manifest import GoldenSentence
from worker.backends import DeviceFullError, DeviceLostError, PaddedBatch, Running, Scores
from worker.backends.fake import FakeBackend, FakeTokenizer
from worker.device import __main__ as device
from worker.device.loading import LoadedModel, make_fake_model

RAISES, BAD_NUMBERS, RUINS, KILLS = "raises", "bad numbers", "ruins the device", "kills"
HANGS, STUCK = "hangs", "stuck with the GIL"
BAD_VERSION, KILLER_VERSION, STUCK_VERSION = "bad version", "killer version", "stuck version"


def hold_gil(seconds: int) -> None:
    """Sleep as a library does that never lets go of the interpreter."""
    ctypes.PyDLL(None).sleep(seconds)


def checksum(text: str) -> int:
    """A text's first token."""
    return int(FakeTokenizer().encode([text]).token_ids[0])


class Control:
    """What a test asks of the device, and what the device notes.

    Files: ``gate`` holds batches up while it is there, ``sick`` makes every batch raise, ``slow`` has the seconds of a
    batch of several rows, ``memory`` the most tokens of one and for how many failures, ``extra`` how many scores there
    are too many, ``batches`` the rows, width and first tokens of each batch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, name: str, *values: float) -> None:
        aside = self.folder / f"{name}.new"
        aside.write_text(json.dumps(values))
        aside.rename(self.folder / name)

    def clear(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def get(self, name: str) -> list[float] | None:
        try:
            found: list[float] = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None
        return found

    def batches(self) -> list[dict[str, Any]]:
        path = self.folder / "batches"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class FaultyBackend(FakeBackend):
    """See ``Control``. What warms the device up never fails, and golden sentences only where it is sick."""

    depth = 2

    def __init__(self, control: Control) -> None:
        super().__init__()
        self.control = control

    def begin(self, batch: PaddedBatch) -> Running:
        return partial(self.finish, batch, super().begin(batch)())

    def finish(self, batch: PaddedBatch, scores: Scores) -> Scores:
        """What goes wrong goes wrong when the scores are waited for, with the next batch begun already."""
        control = self.control
        firsts = batch.input_ids[:, 0].tolist()
        if firsts == [GOLDEN] and control.get("sick") is not None:
            raise RuntimeError("the device says no")
        if firsts == [GOLDEN] or WARM_UP in firsts:
            return self.with_extra_rows(scores)
        with (control.folder / "batches").open("a") as file:
            file.write(json.dumps({"rows": batch.rows, "width": batch.width, "firsts": firsts}) + "\n")
        while control.get("gate") is not None:
            time.sleep(0.005)
        if (slow := control.get("slow")) and batch.rows > 1:
            time.sleep(slow[0])
        if memory := control.get("memory"):
            most, failures = memory
            if failures and batch.input_ids.size > most:
                control.set("memory", most, failures - 1)
                raise DeviceFullError("too large")
        if checksum(KILLS) in firsts:
            os.kill(os.getpid(), signal.SIGKILL)
        if checksum(RUINS) in firsts:
            raise DeviceLostError("CUDA error: device-side assert triggered")
        if checksum(HANGS) in firsts:
            threading.Event().wait()
        if checksum(STUCK) in firsts:
            hold_gil(3_600)
        if checksum(RAISES) in firsts or control.get("sick") is not None:
            raise RuntimeError("the device says no")
        scores = self.with_extra_rows(scores)
        scores[: batch.rows][batch.input_ids[:, 0] == checksum(BAD_NUMBERS)] = np.nan
        return scores

    def with_extra_rows(self, scores: Scores) -> Scores:
        extra = int((self.control.get("extra") or [0])[0])
        return np.concatenate([scores, scores[:extra]])


WARM_UP, GOLDEN = checksum("A sentence to warm up with."), checksum("golden")


def load(registry: object, version: str, *, cache_dir: Path, **options: object) -> LoadedModel:
    """Take the place of ``load_model``."""
    match version:
        case "bad version":
            raise VerificationError("the version is damaged")
        case "killer version":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stuck version":
            hold_gil(3_600)
    model = make_fake_model(version=version)
    golden = GoldenSentence(text="golden", scores=tuple(model.score_now(["golden"])[0].tolist()))
    model = replace(model, backend=FaultyBackend(Control(cache_dir)), golden=(golden,))
    model.check_golden()
    return model


if __name__ == "__main__":
    device.load_model = load  # type: ignore[attr-defined]
    device.main()
