"""producer watch, as people run it: it follows a job to its end and judges it."""

from __future__ import annotations

import json
import signal

import pytest

from tests.integration.scoring import FAILS, score_waiting, scoring


def test_watch_prints_the_final_status_of_a_job_that_runs(sh, settings):
    job_id = sh("submit", *["--text", "Who did you see?"] * 3, "--quiet").stdout.strip()

    with scoring(settings):
        shown = sh("watch", job_id)

    assert "completed" in shown.stdout
    assert "3 = 3 scored" in shown.stdout
    assert "completed: 3 of 3 rows" in shown.stderr


def test_watch_with_json_prints_one_line_for_programs(sh, ledger):
    job_id = sh("submit", "--text", "a", "--quiet").stdout.strip()
    score_waiting(ledger)

    (line,) = sh("watch", job_id, "--json").stdout.splitlines()

    assert (json.loads(line)["id"], json.loads(line)["state"]) == (job_id, "completed")


def test_job_that_nobody_scores_is_said_to_have_no_worker_and_ends_the_watch_at_its_timeout(sh):
    job_id = sh("submit", "--text", "a", "--lane", "bulk", "--quiet").stdout.strip()

    watched = sh("watch", job_id, "--timeout", "0.3s", code=4)

    assert watched.stdout == ""
    assert watched.stderr.count("no live worker listens on lane bulk") == 1
    assert "it goes on" in watched.stderr.splitlines()[-1]


def test_submit_that_waits_says_at_once_that_nobody_scores(sh):
    """Off a terminal too, and though it gives up before a first plain line is due."""
    waited = sh("submit", "--text", "a", "--wait", "--timeout", "0.3s", code=4)

    assert waited.stderr.count("no live worker listens on lane express; start one with: worker start") == 1


@pytest.mark.parametrize(("max_failed", "code"), [("0", 8), ("50%", 0), ("1", 0)])
def test_failed_rows_decide_the_exit_code_of_a_watch(sh, ledger, max_failed, code):
    job_id = sh("submit", "--text", "a", "--text", FAILS, "--quiet").stdout.strip()
    score_waiting(ledger)

    watched = sh("watch", job_id, "--max-failed", max_failed, code=code)

    assert "2 = 1 scored + 1 failed" in watched.stdout


def test_job_that_did_not_complete_is_exit_8(sh):
    job_id = sh("submit", "--text", "a", "--quiet").stdout.strip()
    sh("cancel", job_id)

    watched = sh("watch", job_id, code=8)

    assert "cancelled" in watched.stdout
    assert f"job {job_id} ended as cancelled" in watched.stderr


def test_job_that_is_not_there_is_exit_5(sh):
    assert "no job" in sh.error("watch", "0" * 32, code=5)
    assert "32 hex digits" in sh.error("watch", "x", code=5)


def test_interrupted_watch_leaves_the_job_and_says_how_to_come_back(sh, ledger):
    job_id = sh("submit", "--text", "a", "--quiet").stdout.strip()
    with sh.start("watch", job_id) as process:
        assert process.stderr is not None
        assert "no live worker" in process.stderr.readline()

        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=30)

    assert (process.returncode, out) == (130, "")
    assert f"Interrupted. Job {job_id} goes on; see: producer watch {job_id}" in rest
    assert ledger.status(job_id).pending == 1
