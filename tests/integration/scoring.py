"""Scores chunks through the real ledger, as a worker would, with scores that follow from the text."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from scorequeue import codec
from scorequeue.codec import ChunkResult
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.records import Commit, LaneRoom, LeasedChunk
from scorequeue.settings import Settings

VERSION = "20261123T101500-1f3c9a"
LABELS = ("unacceptable", "acceptable")
WORKER = "scored-in-the-test"


def score_of(text: str) -> float:
    """Return the probability of ``acceptable`` that these tests expect for a text; exact in float32."""
    return (len(text) % 64) / 64


def score_chunk(leased: LeasedChunk) -> Commit:
    """Score a chunk: faulty rows fail, texts over 60 characters count as truncated."""
    chunk = codec.decode_chunk(leased.payload)
    scores = array("f")
    for offset, text in enumerate(chunk.texts):
        share = score_of(text)
        scores.extend([0.0, 0.0] if offset in chunk.errors else [1 - share, share])
    truncated = frozenset(offset for offset, text in enumerate(chunk.texts) if len(text) > 60)
    result = ChunkResult(
        first_row=chunk.first_row,
        rows=len(chunk),
        labels=LABELS,
        scores=scores,
        model_version=leased.model_version,
        ids=chunk.ids,
        truncated=truncated,
        errors=chunk.errors,
        origins={offset: codec.origin(chunk.runs, offset) for offset in chunk.errors},
    )
    failed = len(chunk.errors)
    return Commit(leased.lease, len(chunk) - failed, failed, len(truncated), codec.encode_result(result))


def score_waiting(ledger: Ledger, *, most_chunks: int = 1_000_000) -> int:
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
        ledger.commit([score_chunk(leased) for leased in claim.chunks])
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
