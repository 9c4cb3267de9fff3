"""Producers are killed and run again: promise 7 of docs/reliability.md."""

from __future__ import annotations

import pytest

from scorequeue.errors import ExitCode
from scorequeue.jobs import JobState
from tests.faults.stage import Stage, check_rows, recovery, sentences
from tests.faults.submit import Submit
from tests.processes import until
from tests.shell import Shell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_producer_is_killed_in_mid_upload_and_run_again(stage: Stage) -> None:
    """Promise 7: with the same key it goes on where it stopped, and it is one job."""
    texts = sentences(60_000)
    stage.start_worker(rows_per_s=30_000)
    first = Submit(stage, "--idempotency-key", "nightly")
    first.send(texts[:40_000])
    until(lambda: any(job.chunks >= 96 for job in stage.client.jobs()), what="half of the upload")

    first.kill()
    stage.account.kills += 1
    with recovery(stage):
        second = Submit(stage, "--idempotency-key", "nightly", "--wait", "--format", "jsonl", "--output", "out.jsonl")
        second.send(texts)
        status = second.finish()

    assert status == 0, second.said
    (job,) = stage.client.jobs()
    check_rows(stage, stage.client.job(job.id), texts)


def test_other_content_under_the_same_key(stage: Stage) -> None:
    """Promise 7: refused, wherever the difference is, and the first job is what it was."""
    texts = sentences(2_000)
    shell = Shell(stage.folder, stage.settings)
    shell.write("in.txt", "\n".join(texts) + "\n")
    shell.write("early.txt", "\n".join(["Another sentence.", *texts[1:]]) + "\n")
    shell.write("late.txt", "\n".join([*texts[:-1], "Another sentence."]) + "\n")
    shell.write("more.txt", "\n".join([*texts, "One more sentence."]) + "\n")
    shell.write("fewer.txt", "\n".join(texts[:-1]) + "\n")
    key = ("--idempotency-key", "nightly")
    job_id = shell("submit", "in.txt", *key).stdout.strip()

    for name in ("early.txt", "late.txt", "more.txt", "fewer.txt"):
        shell.error("submit", "--quiet", name, *key, code=ExitCode.USAGE)
    shell.error("submit", "--quiet", "in.txt", *key, "--model-version", "20260101T000000-aaaaaa", code=ExitCode.USAGE)
    shell.error("submit", "--quiet", "in.txt", *key, "--chunk-rows", "100", code=ExitCode.USAGE)
    stage.start_worker()
    job = stage.client.job(job_id)
    job.wait(timeout_s=30)

    assert shell("submit", "in.txt", *key).stdout.strip() == job_id
    assert len(stage.client.jobs()) == 1
    check_rows(stage, job, texts)


def test_upload_that_nobody_goes_on_with_expires(stage: Stage) -> None:
    """A producer that was killed for good must not leave a job that never ends."""
    producer = Submit(stage)
    producer.send(sentences(40_000))
    until(lambda: any(job.chunks >= 96 for job in stage.client.jobs()), what="half of the upload")
    producer.kill()
    stage.account.kills += 1
    (job,) = stage.client.jobs()

    # An hour passes.
    stage.redis().zadd(f"{stage.ledger.keys.prefix}deadlines", {job.id: 1})
    stage.start_worker()
    until(lambda: stage.client.job(job.id).status().state is JobState.EXPIRED, what="an expired upload")

    status = stage.client.job(job.id).status()
    assert (status.pending, status.scored + status.cancelled) == (0, status.total)
    assert stage.client.job(job.id).audit().is_clean
    stage.account.rows, stage.account.scored = status.total, status.scored
