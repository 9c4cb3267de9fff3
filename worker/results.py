"""From a chunk's scores to the bytes that are committed: good rows get scores, faulty ones keep their place."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from scorequeue.codec import decode_result, encode_chunk, encode_result
from scorequeue.columns import Chunk, ChunkResult, origin, part_of
from scorequeue.jobs import RETRYABLE, ErrorCode, RowError
from scorequeue.records import Commit, LeasedChunk
from worker.backends import Scores

OUR_FAULT = RowError(ErrorCode.SCORING_FAILED, "the worker could not score this row; its log says why")


def good_rows(chunk: Chunk) -> list[int]:
    """Return the positions of rows that can be scored."""
    return [position for position in range(len(chunk)) if position not in chunk.errors]


def commit_of(
    leased: LeasedChunk,
    chunk: Chunk,
    *,
    labels: tuple[str, ...],
    scores: Scores | None,
    truncated: npt.NDArray[np.bool_] | None,
    failed: Mapping[int, RowError],
) -> Commit:
    """Put a chunk's results together.

    Args:
        leased: What was claimed.
        chunk: Its rows, decoded: a whole chunk, or the part of one that is tried again.
        labels: The model's labels, in the order of its scores.
        scores: float32 (good rows, labels); None when there was none.
        truncated: bool (good rows,): whether the text was longer than the model reads; None when there was none.
        failed: Rows that could not be scored, by position among the good rows.
    """
    good = np.asarray(good_rows(chunk), dtype=np.int64)
    errors = dict(chunk.errors)
    errors.update({int(good[position]): error for position, error in failed.items()})
    table = np.zeros((len(chunk), len(labels)), np.float32)
    cut: set[int] = set()
    if scores is not None and truncated is not None:
        table[good] = scores
        table[list(errors)] = 0
        cut = set(good[np.flatnonzero(truncated)].tolist()) - errors.keys()
    columns = array("f")
    columns.frombytes(table.tobytes())
    result = ChunkResult(
        first_row=chunk.first_row,
        rows=len(chunk),
        labels=labels,
        scores=columns,
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
        leased: What was claimed. Its rows cannot be tried again, for nobody can read them here.
        labels: The model's labels.
        error: Why.
    """
    payload = leased.before  # rows that were tried again keep the reason that they had
    if not payload:
        everything = dict.fromkeys(range(leased.pending), error)
        payload = encode_result(
            ChunkResult(
                first_row=leased.first_row,
                rows=leased.pending,
                labels=labels,
                scores=array("f", bytes(4 * leased.pending * len(labels))),
                model_version=leased.model_version,
                errors=everything,
            )
        )
    return Commit(leased.lease, scored=0, failed=leased.pending, truncated=0, payload=payload)


def _put_into(whole: ChunkResult, part: ChunkResult, offsets: tuple[int, ...]) -> ChunkResult:
    """Return a chunk's results with those of some of its rows in place of what they had."""
    width = len(whole.labels)
    scores = whole.scores[:]
    for position, offset in enumerate(offsets):
        scores[offset * width : (offset + 1) * width] = part.scores[position * width : (position + 1) * width]
    again = set(offsets)
    return ChunkResult(
        first_row=whole.first_row,
        rows=whole.rows,
        labels=whole.labels,
        scores=scores,
        model_version=whole.model_version,
        ids=whole.ids,
        truncated=(whole.truncated - again) | {offsets[position] for position in part.truncated},
        errors={at: error for at, error in whole.errors.items() if at not in again}
        | {offsets[position]: error for position, error in part.errors.items()},
        origins={at: place for at, place in whole.origins.items() if at not in again}
        | {offsets[position]: place for position, place in part.origins.items()},
    )
