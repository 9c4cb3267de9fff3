"""The producer command as people run it, against a real Redis."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scorequeue.jobs import Lane
from tests.integration.scoring import VERSION, WORKER, score_waiting, scoring

CSV = 'id,text,note\na,Who did you see?,"x, y"\nb,,z\nc,Who you did see?,\n'


# --- submit, status, results, audit ---


def test_a_file_goes_in_and_its_scores_come_back_by_job_id(sh, ledger):
    sh.write("in.csv", CSV)

    job_id = sh("submit", "in.csv").stdout.strip()
    assert len(job_id) == 32
    score_waiting(ledger)

    status = json.loads(sh("status", job_id, "--json").stdout)
    assert status["state"] == "completed"
    assert (status["total"], status["scored"], status["failed"], status["pending"]) == (3, 2, 1, 0)
    assert status["source"] == ["in.csv"]

    rows = [json.loads(line) for line in sh("results", job_id).stdout.splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[1]["error"]["code"] == "empty_text"
    assert (rows[1]["source"], rows[1]["line"]) == ("in.csv", 3)
    assert rows[0]["model_version"] == VERSION

    assert "every row is accounted for once" in sh("audit", job_id).stdout


def test_status_has_every_field_of_the_documentation(sh, ledger):
    job_id = sh("submit", "--text", "a", "--metadata", "team=x").stdout.strip()

    status = json.loads(sh("status", job_id, "--json").stdout)

    fields = (
        "id state lane source metadata total scored failed cancelled pending truncated chunks model_version "
        "idempotency_key error created_at started_at finished_at deadline_at results_expire_at rows_per_second "
        "eta_seconds live_workers"
    )
    assert " ".join(status) == fields
    assert status["created_at"].endswith("Z")
    assert status["metadata"] == {"team": "x"}
    assert "queued" in sh("status", job_id).stdout


def test_the_weekly_one_liner_writes_the_input_with_predictions(sh, settings):
    sh.write("in.csv", CSV)
    with scoring(settings):
        sh("submit", "in.csv", "--wait", "--join", "--output", "scored.csv", "--max-failed", "1")

    assert (sh.folder / "scored.csv").read_text() == (
        "id,text,note,pred_label,pred_score,pred_error\n"
        'a,Who did you see?,"x, y",unacceptable,0.750000,\n'
        "b,,z,,,empty_text\n"
        "c,Who you did see?,,unacceptable,0.750000,\n"
    )


@pytest.mark.parametrize(("max_failed", "code"), [("0", 8), ("1", 0), ("33%", 8), ("34%", 0), ("100%", 0)])
def test_max_failed_decides_the_exit_code(sh, settings, max_failed, code):
    sh.write("in.csv", CSV)
    with scoring(settings):
        done = sh("submit", "in.csv", "--wait", "--max-failed", max_failed, code=code)

    assert len(done.stdout.splitlines()) == 3
    if code:
        assert f"1 of 3 rows failed, more than --max-failed {max_failed}" in done.stderr


def test_json_with_wait_prints_the_final_status(sh, settings):
    with scoring(settings):
        status = json.loads(sh("submit", "--text", "One.", "--text", "Two.", "--wait", "--json").stdout)

    assert (status["state"], status["total"]) == ("completed", 2)


def test_texts_can_be_joined_and_shown_as_a_table(sh, settings):
    with scoring(settings):
        table = sh("submit", "--text", "Who did you see?", "--wait", "--format", "table").stdout
        joined = sh("submit", "--text", "Who did you see?", "--wait", "--join", "--format", "jsonl").stdout

    assert "unacceptable   0.7500   Who did you see?" in table
    assert json.loads(joined)["text"] == "Who did you see?"


@pytest.mark.parametrize("join", [[], ["--join"]])
def test_standard_input_is_read_as_txt_and_can_be_joined(sh, settings, join):
    with scoring(settings):
        done = sh("submit", "-", "--wait", "--format", "csv", *join, stdin=b"One.\nTwo.\n\n")

    header = "text,pred_label" if join else "row,id,label"
    assert done.stdout.startswith(header)
    assert len(done.stdout.splitlines()) == 3


def test_several_inputs_are_one_job_and_join_in_order(sh, settings):
    sh.write("a.csv", "text\nOne.\n")
    sh.write("b.csv.gz", gzip.compress(b"text\nTwo.\nThree.\n"))
    with scoring(settings):
        done = sh("submit", "a.csv", "b.csv.gz", "--wait", "--join")

    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["text", "One.", "Two.", "Three."]


def test_results_join_an_input_under_another_path(sh, ledger):
    """The input may have moved; its content may not have changed."""
    sh.write("in.csv", CSV)
    job_id = sh("submit", "in.csv").stdout.strip()
    score_waiting(ledger)
    shutil.move(sh.folder / "in.csv", sh.folder / "moved.dat")

    lines = sh("results", job_id, "--join", "moved.dat").stdout.splitlines()

    assert lines[0] == "id,text,note,pred_label,pred_score,pred_error"


@pytest.mark.parametrize(
    "changed",
    [CSV.replace("Who did", "Who do"), CSV.replace("z", "zz").replace("b,", ""), CSV + "d,More.,\n", "text\nx\n"],
)
def test_a_changed_input_is_refused(sh, ledger, changed):
    sh.write("in.csv", CSV)
    job_id = sh("submit", "in.csv").stdout.strip()
    score_waiting(ledger)
    sh.write("in.csv", changed)

    assert "expected the input that was submitted" in sh.error(
        "results", job_id, "--join", "in.csv", "--output", "out.csv", code=2
    )
    assert not (sh.folder / "out.csv").exists()


def test_a_join_needs_the_inputs_that_the_job_has(sh, ledger):
    sh.write("in.csv", CSV)
    from_text, from_file = (sh("submit", *args).stdout.strip() for args in (["--text", "a"], ["in.csv"]))
    score_waiting(ledger)

    assert "rows came from Python or --text" in sh.error("results", from_text, "--join", "in.csv", code=2)
    assert "1 inputs" in sh.error("results", from_file, "--join", "in.csv", "--join", "in.csv", code=2)


def test_only_the_failed_rows_can_be_asked_for(sh, ledger):
    sh.write("in.csv", CSV)
    job_id = sh("submit", "in.csv").stdout.strip()
    score_waiting(ledger)

    assert [json.loads(line)["row"] for line in sh("results", job_id, "--errors").stdout.splitlines()] == [2]


def test_the_same_key_is_the_same_job_and_other_content_is_refused(sh):
    sh.write("in.csv", CSV)
    first, second = (sh("submit", "in.csv", "--idempotency-key", "k").stdout for _ in range(2))
    sh.write("in.csv", CSV.replace("did", "do"))

    assert first == second
    assert "another key" in sh.error("--quiet", "submit", "in.csv", "--idempotency-key", "k", code=2)


def test_columns_go_by_number_without_a_header(sh, ledger):
    sh.write("in.tsv", "gj04\t1\t\tOne more.\ngj04\t0\t*\tOne mores.\n")
    job_id = sh("submit", "in.tsv", "--no-header", "--text-field", "4", "--id-field", "1").stdout.strip()
    score_waiting(ledger)

    assert sh("results", job_id, "--join", "in.tsv").stdout.splitlines() == [
        "gj04\t1\t\tOne more.\tunacceptable\t0.859375\t",
        "gj04\t0\t*\tOne mores.\tunacceptable\t0.843750\t",
    ]


# --- talk ---


def test_a_missing_worker_is_told_on_stderr_unless_quiet(sh, ledger):
    done = sh("submit", "--text", "a")
    job_id = done.stdout.strip()
    assert "no live worker listens on lane express" in done.stderr
    assert "no live worker listens on lane express" in sh("status", job_id).stderr
    assert sh("submit", "--text", "a", "--quiet").stderr == ""
    assert sh("--quiet", "status", job_id).stderr == ""

    ledger.renew(WORKER, {}, list(Lane), [])
    assert "no live worker" not in sh("status", job_id).stderr


def test_progress_is_plain_lines_without_a_terminal(sh, settings):
    with scoring(settings):
        done = sh("submit", "--text", "a", "--wait")

    assert "uploaded 1 rows" in done.stderr
    assert "completed: 1 of 1 rows" in done.stderr
    assert "\x1b" not in done.stderr


def test_an_interrupted_wait_leaves_the_job_and_says_how_to_come_back(sh, ledger):
    with sh.start("submit", "--text", "a", "--wait") as process:
        assert process.stderr is not None
        head = ""
        while not head.startswith("job "):
            head = process.stderr.readline()
        job_id = head.split()[1]
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)

    assert process.returncode == 130
    assert f"Interrupted. Job {job_id} goes on; see: producer status {job_id}" in rest
    assert ledger.status(job_id).pending == 1


def test_a_reader_that_goes_away_is_no_error(sh, ledger):
    """``producer results JOB | head -1`` must end quietly."""
    sh.write("in.txt", "A sentence.\n" * 50_000)
    job_id = sh("submit", "in.txt").stdout.strip()
    score_waiting(ledger)

    with subprocess.Popen(
        sh.command("results", job_id), env=sh.env, cwd=sh.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (141, b"")


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "no rows"),
        ("header.csv", b"text\n", "no rows"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
        ("noise.csv", bytes(range(256)) * 50, "binary"),
        ("other.csv", b"a,b\n1,2\n", "'a', 'b'"),
        ("fake.txt.gz", b"not gzip at all, is it?", "gzip"),
    ],
)
def test_an_input_that_cannot_be_read_is_one_line_and_exit_2(sh, name, content, message):
    sh.write(name, content)

    assert message in sh.error("submit", name, code=2)


@pytest.mark.parametrize("second", ["a,b\n1,2\n", "text\n", ""])
def test_a_fault_of_the_last_input_shows_before_the_first_is_uploaded(sh, ledger, second):
    sh.write("a.csv", "text\n" + "A sentence.\n" * 100)
    sh.write("b.csv", second)

    assert sh.error("submit", "a.csv", "b.csv", code=2).startswith("Error: b.csv: ")
    assert ledger.pressure(Lane.BULK).backlog_rows == 0


def test_missing_files_and_directories_are_one_line_and_exit_2(sh):
    assert "no such file" in sh.error("submit", "none.csv", code=2)
    assert "directory" in sh.error("submit", ".", code=2)


def test_redis_that_is_down_is_one_line_and_exit_3(sh):
    error = sh.error("submit", "--text", "a", "--redis-url", "redis://127.0.0.1:1/0", code=3)

    assert "127.0.0.1:1" in error
    assert "--redis-url" in error


@pytest.mark.parametrize("command", ["status", "results", "audit"])
def test_a_job_that_is_not_there_is_exit_5(sh, command):
    assert "no job" in sh.error(command, "0" * 32, code=5)
    assert "32 hex digits" in sh.error(command, "x", code=5)


def test_waiting_too_long_is_exit_4(sh):
    done = sh("submit", "--text", "a", "--wait", "--timeout", "0.5s", code=4)

    assert "1 rows pending and 0 live workers; it goes on" in done.stderr


def test_results_before_the_end_are_exit_4(sh):
    job_id = sh("submit", "--text", "a").stdout.strip()

    assert "--partial" in sh.error("results", job_id, code=4)
    assert sh("results", job_id, "--partial").stdout == ""


def test_an_audit_that_differs_is_exit_8(sh, ledger, redis_url):
    import redis

    job_id = sh("submit", "--text", "a").stdout.strip()
    score_waiting(ledger)
    with redis.Redis.from_url(redis_url) as server:
        server.hset(ledger.keys.job(job_id), "scored", 2)

    found = json.loads(sh("audit", job_id, "--json", code=8).stdout)
    assert found["is_clean"] is False
    assert any("2 scored" in difference for difference in found["differences"])


def test_an_audit_says_how_many_differences_there_are_and_what_to_do(sh, ledger, redis_url):
    import redis

    sh.write("in.txt", "a sentence\n" * 60)
    job_id = sh("submit", "in.txt", "--chunk-rows", "2").stdout.strip()
    score_waiting(ledger)
    with redis.Redis.from_url(redis_url) as server:
        server.delete(ledger.keys.results(job_id))

    done = sh("audit", job_id, code=8)

    assert "found 31 differences" in done.stderr
    assert "submit its input again" in done.stderr
    assert done.stdout.splitlines()[-1] == "and 11 more differences"


@pytest.mark.parametrize(
    "args",
    [
        ["bogus"],
        ["submit", "--bogus"],
        ["submit", "in.csv", "--text", "a"],
        ["submit", "-", "-"],
        ["submit", "in.csv", "--join"],
        ["submit", "in.csv", "--output", "x.csv"],
        ["submit", "in.csv", "--wait", "--output", "x.what"],
        ["submit", "in.csv", "--wait", "--output", "none/x.csv"],
        ["submit", "in.csv", "--timeout", "soon"],
        ["submit", "in.csv", "--timeout", "-1s"],
        ["submit", "in.csv", "--max-failed", "some"],
        ["submit", "in.csv", "--max-failed", "101%"],
        ["submit", "in.csv", "--metadata", "novalue"],
        ["submit", "in.csv", "--delimiter", "::"],
        ["submit", "in.csv", "--encoding", "klingon"],
        ["submit", "in.csv", "--chunk-rows", "0"],
        ["--namespace", "a b", "status", "0" * 32],
        ["status"],
        ["results", "0" * 32, "--join", "in.csv", "--errors"],
        ["submit", "in.csv", "--metadata", "a=1", "--metadata", "a=2"],
        ["submit", "in.csv", "--wait", "--json", "--join"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_2(sh, args):
    sh.write("in.csv", CSV)

    sh.error(*args, code=2)


def test_an_unexpected_error_is_one_line_and_its_trace_is_in_the_log_on_request(sh):
    """Broken on purpose from outside: a module of that name in the current folder shadows a real one."""
    sh.write("sitecustomize.py", "import producer.cli.status as s\ns.start = lambda ctx: 1 / 0\n")
    sh.env["PYTHONPATH"] = str(sh.folder)

    assert "unexpected ZeroDivisionError" in sh.error("status", "0" * 32, code=1)


# --- start-up ---


@pytest.mark.parametrize(
    "args", [["--help"], ["submit", "--help"], ["status", "-h"], ["results", "-h"], ["audit", "-h"]]
)
def test_help_is_there_at_once_with_an_example(args):
    """The installed script, as a whole process; the best of three, since other things run here too."""
    script = Path(sys.executable).with_name("producer")
    took = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([script, *args], capture_output=True, text=True, check=True)
        took.append(time.perf_counter() - started)

    assert "Example: producer " in done.stdout
    assert "SCOREQUEUE_REDIS_URL" in done.stdout
    assert min(took) < 0.3


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from producer.cli import producer\n"
        "try: producer(['submit', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pydantic', 'redis', 'rich', 'transformers', 'prometheus_client'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package(sh):
    from importlib.metadata import version

    assert sh("--version").stdout == f"producer {version('scorequeue')}\n"
