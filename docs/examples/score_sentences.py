"""Score a list of sentences and a file, read the results as rows, and meet errors as classes.

Run it where a worker runs (worker start --local):

    python docs/examples/score_sentences.py sentences.txt
"""

from __future__ import annotations

import sys

from producer import Client, Inputs, RowResult, read_report
from scorequeue.errors import InputError, NotFinishedError, RedisUnavailableError, ScorequeueError


def score_list(client: Client) -> None:
    """Submit sentences with ids of our own, wait for the end, and read the rows."""
    job = client.submit(
        [("first", "The cat sat on the mat."), ("second", "Cat the mat on sat."), ("third", "   ")],
        metadata={"example": "list"},
    )
    status = job.wait(timeout_s=60)
    print(f"{status.state}: {status.scored} scored, {status.failed} failed")
    for row in job.results():
        print(line(row))


def score_file(client: Client, path: str) -> None:
    """Look into a file first, submit it, and read its rows while they come."""
    with Inputs.open([path]) as inputs:
        report = read_report(inputs)
    print(f"{path}: {report.good} good rows, {report.faulty} faulty ones, {report.chunks} chunks")
    with Inputs.open([path]) as inputs:
        # The same file under the same key is one job, however often this runs.
        job = client.submit(inputs, idempotency_key=f"example {path}")
    for row in job.follow(timeout_s=60):
        print(line(row))


def line(row: RowResult) -> str:
    """Return what became of a row; a failed one says why, and where it came from."""
    if row.error is not None:
        where = f" ({row.source}, line {row.line})" if row.source else ""
        return f"{row.id}: {row.error.code}: {row.error.message}{where}"
    return f"{row.id}: {row.label} {row.score:.4f}, by {row.model_version}"


def main() -> int:
    """Return the exit code that the producer command would end with."""
    try:
        with Client() as client:
            score_list(client)
            for path in sys.argv[1:]:
                score_file(client, path)
    except InputError as exc:
        print(f"the file: {exc}", file=sys.stderr)
        return exc.exit_code
    except RedisUnavailableError as exc:
        print(f"Redis: {exc}", file=sys.stderr)
        return exc.exit_code
    except NotFinishedError as exc:
        print(f"no worker, or a slow one: {exc}", file=sys.stderr)
        return exc.exit_code
    except ScorequeueError as exc:  # all that is raised on purpose
        print(exc, file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
