"""From a chunk's scores to the bytes that are committed: good rows get scores, faulty ones keep their place."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scorequeue.codec import decode_result, encode_chunk, encode_result
from scorequeue.columns import Chunk, ChunkResult, origin, part_of
from scorequeue.jobs import RETRYABLE, ErrorCode, RowError
from scorequeue.logs import fields
from scorequeue.records import Commit, Lease, LeasedChunk
from worker.windows import ChunkScores

OUR_FAULT = RowError(ErrorCode.SCORING_FAILED, "the worker could not score this row; its log says why")

log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A scored chunk; both functions encode results, in the committer's thread.

    Attributes:
        lease: The right to commit it.
        commit: Makes its results.
        fail: Makes results in which all its rows have failed, for when the first ones cannot be made or are refused.
    """

    lease: Lease
    commit: Callable[[], Commit]
    fail: Callable[[], Commit]

    def made(self) -> Commit:
        """Make a chunk's results; rows whose results cannot be made fail, instead of ending worker after worker."""
        try:
            return self.commit()
        except Exception:
            facts = fields("results_failed", job_id=self.lease.job_id, chunk=self.lease.chunk)
            log.exception("results could not be put together; the chunk's rows fail", extra=facts)
            return self.fail()


def good_rows(chunk: Chunk) -> list[int]:
    """Return the positions of rows that can be scored."""
    return [position for position in range(len(chunk)) if position not in chunk.errors]


def commit_of(leased: LeasedChunk, chunk: Chunk, *, labels: tuple[str, ...], done: ChunkScores | None) -> Commit:
    """Put a chunk's results together.

    Args:
        leased: What was claimed.
        chunk: Its rows, decoded: a whole chunk, or the part of one that is tried again.
        labels: The model's labels, in the order of its scores.
        done: What became of its good rows, by position among them; None when there was none.
    """
    errors = dict(chunk.errors)
    table = np.zeros((len(chunk), len(labels)), np.float32)
    cut: set[int] = set()
    if done is not None:
        good = np.asarray(good_rows(chunk), dtype=np.int64)
        errors.update({int(good[position]): error for position, error in done.failed.items()})
        table[good] = done.scores
        table[list(errors)] = 0
        cut = set(good[np.flatnonzero(done.truncated)].tolist()) - errors.keys()
    result = ChunkResult(
        first_row=chunk.first_row,
        rows=len(chunk),
        labels=labels,
        scores=array("f", table.tobytes()),
        model_version=leased.model_version,
        ids=chunk.ids,
        truncated=frozenset(cut),
        errors=errors,
        origins={position: origin(chunk.runs, position) for position in errors},
    )
    if chunk.offsets is not None:
        result = _put_into(decode_result(leased.before), result, chunk.offsets)
    kept = [position for position in sorted(errors) if errors[position].code in RETRYABLE]
    return Commit(
        leased.lease,
        scored=len(chunk) - len(errors),
        failed=len(errors),
        truncated=len(cut),
        payload=encode_result(result),
        kept=len(kept),
        kept_texts=encode_chunk(part_of(chunk, kept)) if kept else b"",
    )


def failed_commit(leased: LeasedChunk, *, labels: tuple[str, ...], error: RowError = OUR_FAULT) -> Commit:
    """Return a commit that fails all rows of a chunk whose bytes, or whose results, are of no use.

    Args:
        leased: What was claimed. Its rows cannot be tried again: they cannot be read.
        labels: The model's labels.
        error: Why.
    """
    payload = leased.before  # rows that were tried again keep the reason that they had
    if not payload:
        result = ChunkResult(
            first_row=leased.first_row,
            rows=leased.pending,
            labels=labels,
            scores=array("f", bytes(4 * leased.pending * len(labels))),
            model_version=leased.model_version,
            errors=dict.fromkeys(range(leased.pending), error),
        )
        payload = encode_result(result)
    return Commit(leased.lease, scored=0, failed=leased.pending, truncated=0, payload=payload)


def _put_into(whole: ChunkResult, part: ChunkResult, offsets: tuple[int, ...]) -> ChunkResult:
    """Return a chunk's results with those of some of its rows in place of what they had."""
    width = len(whole.labels)
    scores = whole.scores[:]
    for position, offset in enumerate(offsets):
        scores[offset * width : (offset + 1) * width] = part.scores[position * width : (position + 1) * width]
    again = set(offsets)
    return replace(
        whole,
        scores=scores,
        truncated=(whole.truncated - again) | {offsets[position] for position in part.truncated},
        errors={at: error for at, error in whole.errors.items() if at not in again}
        | {offsets[position]: error for position, error in part.errors.items()},
        origins={at: place for at, place in whole.origins.items() if at not in again}
        | {offsets[position]: place for position, place in part.origins.items()},
    )
