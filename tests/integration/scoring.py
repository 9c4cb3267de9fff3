"""Scores chunks through the real ledger, as a worker would, with scores that follow from the text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from scorequeue import codec
from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.ledger import Ledger
from scorequeue.records import Commit, LaneRoom, LeasedChunk
from scorequeue.settings import Settings
from worker.results import commit_of, good_rows
from worker.windows import ChunkScores

VERSION = "20261123T101500-1f3c9a"
LABELS = ("unacceptable", "acceptable")
WORKER = "scored-in-the-test"


def score_of(text: str) -> float:
    """Return the probability of ``acceptable`` that these tests expect for a text; exact in float32."""
    return (len(text) % 64) / 64


FAILS = "fails in the model"
"""A text with these words fails as the model would fail it, until ``score_waiting`` is told to heal."""


def score_chunk(leased: LeasedChunk, *, heal: bool = False) -> Commit:
    """Score a chunk: faulty rows fail, texts over 60 characters count as truncated."""
    chunk = codec.decode_chunk(leased.payload)
    texts = [chunk.texts[position] for position in good_rows(chunk)]
    shares = np.array([score_of(text) for text in texts], np.float32)
    reason = RowError(ErrorCode.SCORING_FAILED, "the model could not score this row (RuntimeError)")
    done = ChunkScores(
        scores=np.stack([1 - shares, shares], axis=1),
        truncated=np.array([len(text) > 60 for text in texts]),
        failed={} if heal else {at: reason for at, text in enumerate(texts) if FAILS in text},
    )
    return commit_of(leased, chunk, labels=LABELS, done=done if texts else None)


def score_waiting(ledger: Ledger, *, most_chunks: int = 1_000_000, heal: bool = False) -> int:
    """Score what waits, up to ``most_chunks``; return how many chunks that was."""
    done = 0
    while done < most_chunks:
        room = min(64, most_chunks - done)
        for lane in Lane:
            claim = ledger.claim(
                WORKER, [LaneRoom(lane, 10_000_000, room)], versions=[VERSION], default_version=VERSION
            )
            if claim.chunks:
                break
        else:
            return done
        ledger.commit([score_chunk(leased, heal=heal) for leased in claim.chunks])
        done += len(claim.chunks)
    return done


@contextmanager
def scoring(settings: Settings) -> Iterator[None]:
    """Score whatever comes, in a thread, and be counted as a live worker."""
    ledger = Ledger.connect(settings)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            ledger.renew(WORKER, {}, list(Lane), [])
            if not score_waiting(ledger):
                stop.wait(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        ledger.close()
