"""From a chunk's scores to the bytes that are committed: good rows get scores, faulty ones keep their place."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

from scorequeue.codec import Chunk, ChunkResult, encode_result, origin
from scorequeue.jobs import RowError
from scorequeue.records import Commit, Lease
from worker.backends import Encodings, Scores


def good_rows(chunk: Chunk) -> list[int]:
    """Return the offsets of rows that can be scored."""
    return [offset for offset in range(len(chunk)) if offset not in chunk.errors]


def commit_of(
    lease: Lease,
    chunk: Chunk,
    *,
    labels: tuple[str, ...],
    model_version: str,
    encodings: Encodings | None,
    scores: Scores | None,
    failed: Mapping[int, RowError],
) -> Commit:
    """Put a chunk's results together.

    Args:
        lease: The right to commit.
        chunk: The chunk as it was uploaded.
        labels: The model's labels, in the order of its scores.
        model_version: The version that scored it.
        encodings: The good rows as they were scored; None when there was none.
        scores: float32 (good rows, labels); None when there was none.
        failed: Rows that could not be scored, by position among the good rows.
    """
    good = np.asarray(good_rows(chunk), dtype=np.int64)
    errors = dict(chunk.errors)
    errors.update({int(good[position]): error for position, error in failed.items()})
    table = np.zeros((len(chunk), len(labels)), np.float32)
    truncated: frozenset[int] = frozenset()
    if scores is not None and encodings is not None:
        table[good] = scores
        table[list(errors)] = 0
        truncated = frozenset(good[np.flatnonzero(encodings.truncated)].tolist()) - errors.keys()
    columns = array("f")
    columns.frombytes(table.tobytes())
    result = ChunkResult(
        first_row=chunk.first_row,
        rows=len(chunk),
        labels=labels,
        scores=columns,
        model_version=model_version,
        ids=chunk.ids,
        truncated=truncated,
        errors=errors,
        origins={offset: origin(chunk.runs, offset) for offset in errors},
    )
    return Commit(
        lease,
        scored=len(chunk) - len(errors),
        failed=len(errors),
        truncated=len(truncated),
        payload=encode_result(result),
    )
