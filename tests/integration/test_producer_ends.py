"""How submits end that do not go as planned, and what they leave and say: real processes, a real Redis."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.integration.scoring import score_waiting, scoring
from tests.processes import until
from tests.servers import RedisServer
from tests.shell import Shell


@pytest.fixture
def sh(tmp_path: Path, settings: Settings) -> Shell:
    shell = Shell(tmp_path, settings)
    (tmp_path / "tmp").mkdir()
    shell.env["TMPDIR"] = str(tmp_path / "tmp")
    return shell


# --- the same key with other options ---


def test_how_a_job_is_treated_is_settled_by_the_first_submit(sh, ledger):
    """Whoever believes that a second submit changed the lane, or keeps results longer, must be told."""
    first = sh("submit", "--text", "One.", "--idempotency-key", "k", "--metadata", "a=1", "--deadline", "2h")
    job_id = first.stdout.strip()
    other = ["--lane", "bulk", "--metadata", "a=2", "--ttl", "1h", "--deadline", "1h"]
    again = sh("submit", "--text", "One.", "--idempotency-key", "k", *other)

    assert again.stdout.strip() == job_id
    assert (
        f"job {job_id} was there under this idempotency key already, and keeps its lane (express), metadata (a=1),"
        " deadline (7,200 s), time to live (604,800 s)" in again.stderr
    )
    status = ledger.status(job_id)
    assert (status.lane, status.metadata) == (Lane.EXPRESS, {"a": "1"})
    quiet = sh("submit", "--text", "One.", "--idempotency-key", "k", *other, "--quiet")
    assert (quiet.stdout.strip(), quiet.stderr) == (job_id, "")


def test_the_same_options_under_the_same_key_need_no_word(sh):
    line = ["submit", "--text", "One.", "--idempotency-key", "k", "--metadata", "a=1", "--deadline", "90m", "--ttl"]
    sh(*line, "1.5h")

    assert "keeps its" not in sh(*line, "1.5h").stderr


@pytest.mark.parametrize("other", [["--model-version", "v2"], ["--chunk-rows", "7"], ["--encoding", "latin-1"]])
def test_what_makes_other_content_is_refused_under_the_same_key(sh, other):
    sh.write("in.txt", "One.\n")
    sh("submit", "in.txt", "--idempotency-key", "k")

    assert "or another key" in sh.error("submit", "in.txt", "--idempotency-key", "k", "-q", *other, code=2)


def test_a_key_with_other_reader_options_names_what_differs(sh):
    """Two whole lists of options are a riddle."""
    sh.write("in.txt", "One.\n")
    job_id = sh("submit", "in.txt", "--idempotency-key", "reader").stdout.strip()

    said = sh.error("submit", "in.txt", "--idempotency-key", "reader", "--encoding", "latin-1", "--quiet", code=2)

    assert f"job {job_id} has this idempotency key with reader options encoding=utf-8, got encoding=latin-1;" in said


def test_an_empty_key_is_refused_instead_of_meaning_none(sh):
    """``--idempotency-key "$DAY"`` with DAY unset must not make a new job each time."""
    error = sh.error("submit", "--text", "One.", "--idempotency-key", "", code=2)

    assert "expected an --idempotency-key of at least one character" in error


# --- what the last line says ---


def test_a_timeout_names_the_job_with_quiet_too(sh, ledger):
    """A mail of cron has this line and nothing else."""
    said = sh.error("submit", "--text", "One.", "--wait", "--timeout", "0.3s", "--quiet", code=4)

    (job,) = ledger.jobs(limit=10)
    assert said.count(job.id) == 3
    assert f"it goes on; see: producer status {job.id}, producer results {job.id}" in said


def test_a_watch_that_times_out_says_how_to_come_back(sh):
    """The line names the job anyway; what it is good for must not go with the second mention."""
    job_id = sh("submit", "--text", "One.", "--quiet").stdout.strip()

    said = sh.error("watch", job_id, "--timeout", "0.3s", "--quiet", code=4)

    assert f"it goes on; see: producer watch {job_id}" in said


def test_an_upload_that_gives_up_names_the_job_and_how_to_go_on(sh, ledger):
    sh.write("in.txt", "A sentence.\n" * 20_000)
    line = ["submit", "in.txt", "--idempotency-key", "k", "--max-outstanding", "1", "--quiet"]

    said = sh.error(*line, "--timeout", "0.5s", code=4)

    (job,) = ledger.jobs(limit=10)
    assert "gave up uploading" in said
    assert f"The upload of job {job.id} is not complete; the same command goes on with it (--idempotency-key k)" in said


def test_a_lost_redis_names_the_job_with_quiet_too(tmp_path):
    with RedisServer(tmp_path) as server:
        sh = Shell(tmp_path, Settings(redis_url=server.url, namespace="n"))
        sh.env["SCOREQUEUE_REDIS_PATIENCE_S"] = "0.5"
        ledger = Ledger.connect(sh.settings)
        with sh.start("submit", "--text", "One.", "--wait", "--quiet", "--log-level", "error", text=False) as process:
            until(lambda: bool(ledger.jobs(limit=1)), what="a job")
            (job,) = ledger.jobs(limit=1)
            ledger.close()
            server.kill()
            told, said = process.communicate(timeout=30)
            server.start()

    assert process.returncode == 3
    assert told == b""
    assert f"Job {job.id} goes on; see: producer status {job.id}" in said.decode()
    assert len(said.decode().splitlines()) == 1


# --- outputs that cannot be written ---


def redirected(sh: Shell, redirection: str, *args: str) -> subprocess.CompletedProcess[str]:
    line = f'exec "$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", line, "sh", *sh.command(*args)],
        cwd=sh.folder,
        env=sh.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "args",
    [["--help"], ["list"], ["list", "--json"], ["submit", "--text", "One.", "--dry-run"], ["completion", "bash"]],
    ids=" ".join,
)
def test_a_full_disk_below_stdout_is_one_line_and_exit_2(sh, args):
    """It is no bug of ours, and nobody should look for a trace."""
    sh("submit", "--text", "One.")

    done = redirected(sh, "> /dev/full", *args)

    assert (done.returncode, done.stderr) == (
        2,
        "Error: standard output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("wait", [[], ["--wait", "--format", "jsonl"]], ids=["id", "results"])
def test_a_job_whose_id_could_not_be_printed_is_named_by_the_error(sh, ledger, settings, wait):
    """The job is there, and may be of ten million rows."""
    with scoring(settings):
        done = redirected(sh, "> /dev/full", "submit", "--text", "One.", "--quiet", *wait)

    (job,) = ledger.jobs(limit=10)
    assert done.returncode == 2
    assert f"standard output cannot be written: No space left on device. Job {job.id}" in done.stderr
    assert f"producer results {job.id}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&-", "2> /dev/full"])
def test_closed_streams_do_not_end_a_submit(sh, ledger, redirection):
    """A daemon starts programs so."""
    sh.write("in.txt", "One.\n")

    done = redirected(sh, redirection, "submit", "in.txt")

    assert done.returncode == 0, done.stderr
    assert len(ledger.jobs(limit=10)) == 1


# --- told to end ---


def wait_for_line(process: subprocess.Popen[bytes], start: bytes) -> None:
    """Read stderr up to a line that begins so."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if line.startswith(start):
            return
    raise AssertionError(f"stderr ended without {start!r}")


def test_sigterm_while_waiting_takes_the_spool_away_and_says_how_to_come_back(sh, ledger):
    sh.write("stdin", "One.\nTwo.\n")
    line = ["submit", "-", "--wait", "--join"]
    with (sh.folder / "stdin").open("rb") as stdin, sh.start(*line, stdin=stdin.fileno(), text=False) as process:
        wait_for_line(process, b"job ")
        assert any((sh.folder / "tmp").iterdir())
        process.send_signal(signal.SIGTERM)
        told, said = process.communicate(timeout=30)

    (job,) = ledger.jobs(limit=10)
    assert process.returncode == 143
    assert (
        said.decode()
        .splitlines()[-1]
        .startswith(f"Told to end (SIGTERM). Job {job.id} goes on; see: producer status {job.id}")
    )
    assert told == b""
    assert list((sh.folder / "tmp").iterdir()) == []
    assert job.pending == 2


def test_a_terminal_that_goes_away_takes_the_spool_with_it(sh):
    """An ssh session that breaks off must not leave somebody's sentences in /tmp."""
    sh.write("stdin", "One.\nTwo.\n")
    line = ["submit", "-", "--wait", "--join"]
    with (sh.folder / "stdin").open("rb") as stdin, sh.start(*line, stdin=stdin.fileno(), text=False) as process:
        wait_for_line(process, b"job ")
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(timeout=30)

    assert process.returncode == 129
    assert said.decode().splitlines()[-1].startswith("Told to end (SIGHUP). Job ")
    assert list((sh.folder / "tmp").iterdir()) == []


def test_nohup_is_respected(sh, ledger):
    line = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *sh.command("submit", "--text", "One.", "--wait", "--quiet")]
    process = subprocess.Popen(line, env=sh.env, cwd=sh.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: bool(ledger.jobs(limit=1)), what="a job")
    process.send_signal(signal.SIGHUP)
    score_waiting(ledger)
    told, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (0, b"")
    assert len(told.splitlines()) == 1


# --- interrupted early ---


INTERRUPTING = """
import os, signal, sys

class Finder:
    # Sends Ctrl-C when a module is about to be imported, as a person might.
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {how}

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "module", ["click", "producer.cli.root", "producer.cli.submit", "pydantic", "producer.client", "redis"]
)
def test_ctrl_c_is_130_without_a_trace_whatever_is_being_imported(sh, ledger, module):
    """Whoever sees a typing error presses Ctrl-C before the command has done anything."""
    sh.write("sitecustomize.py", INTERRUPTING.format(module=module, how="os.kill(os.getpid(), signal.SIGINT)"))
    sh.env["PYTHONPATH"] = f"{sh.folder}:{sh.env.get('PYTHONPATH', '')}"

    done = sh("submit", "--text", "One.", code=130)

    assert done.stdout == ""
    assert done.stderr in ("", "\nInterrupted.\n", "Interrupted.\n")
    assert ledger.jobs(limit=1) == []


def test_an_interrupt_that_became_another_error_is_still_one(sh):
    """Pydantic builds classes with what catches everything: the interrupt comes out as a SchemaError."""
    how = (
        "\n            try: os.kill(os.getpid(), signal.SIGINT); [None for _ in range(1000)]"
        "\n            except BaseException as exc: raise ValueError('an error of a schema') from None"
    )
    sh.write("sitecustomize.py", INTERRUPTING.format(module="producer.client", how=how))
    sh.env["PYTHONPATH"] = f"{sh.folder}:{sh.env.get('PYTHONPATH', '')}"

    done = sh("submit", "--text", "One.", code=130)

    assert done.stderr in ("\nInterrupted.\n", "Interrupted.\n")


# --- no room for a copy ---


NO_ROOM = "cannot be copied to a temporary file: File too large; make room, or name a folder with room in TMPDIR"


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["submit", "-"], "rows that can be read only once"),
        (["submit", "-", "--idempotency-key", "k"], "rows that can be read only once"),
        (["submit", "-", "--wait", "--join"], "stdin"),
    ],
    ids=["plain", "key", "join"],
)
def test_a_temporary_folder_without_room_is_no_bug(sh, ledger, args, name):
    """A limit on the size of files stands for a full disk: Python leaves it to the call, as it does ENOSPC."""
    sh.write("stdin", "A sentence of a few words, one of very many in this file.\n" * 100_000)
    line = 'ulimit -f 1000; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *sh.command(*args, "--quiet")],
        cwd=sh.folder,
        env=sh.env,
        input=(sh.folder / "stdin").read_bytes(),
        capture_output=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == [f"Error: {name}: {NO_ROOM}"]
    assert list((sh.folder / "tmp").iterdir()) == []
    assert [job.pending > 0 for job in ledger.jobs(limit=10)] == [True] * ("--idempotency-key" in args)


def test_no_temporary_folder_at_all_is_said(sh):
    sh.env["TMPDIR"] = "/nowhere"
    sh.write("sitecustomize.py", "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']\n")
    sh.env["PYTHONPATH"] = f"{sh.folder}:{sh.env.get('PYTHONPATH', '')}"

    said = sh.error("submit", "-", "--wait", "--join", "--quiet", code=2, stdin=b"One.\n")

    assert "stdin: cannot be copied to a temporary file: No usable temporary directory found" in said
    assert "TMPDIR" in said


@pytest.mark.parametrize("key", [[], ["--idempotency-key", "k"]])
def test_sigterm_in_mid_upload_says_what_becomes_of_it(sh, ledger, key):
    """Without a key the upload is taken back: nobody could go on with it."""
    line = ["submit", "-", "--quiet", *key]
    with sh.start(*line, stdin=subprocess.PIPE, text=False) as process:
        assert process.stdin is not None
        process.stdin.write(b"A sentence.\n" * 40_000)
        process.stdin.flush()
        until(lambda: any(job.total for job in ledger.jobs(limit=1)), what="a part of the upload")
        (job,) = ledger.jobs(limit=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert process.stderr is not None
        said = process.stderr.read().decode()
        process.stdin.close()
        process.stdin = None

    assert list((sh.folder / "tmp").iterdir()) == []
    if key:
        assert f"The upload of job {job.id} is not complete; the same command goes on with it" in said
        assert [left.id for left in ledger.jobs(limit=10)] == [job.id]
    else:
        assert "The upload is not complete; nothing keeps it" in said
        assert ledger.jobs(limit=10) == []


def test_sigterm_while_standard_input_is_copied_leaves_no_file(sh):
    with sh.start("submit", "-", "--wait", "--join", stdin=subprocess.PIPE, text=False) as process:
        assert process.stdin is not None
        process.stdin.write(b"A sentence.\n")
        process.stdin.flush()
        until(lambda: any((sh.folder / "tmp").glob("*/spool")), what="the spool")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        process.stdin.close()
        process.stdin = None

    assert list((sh.folder / "tmp").iterdir()) == []


# --- what is printed ---


def test_quiet_prints_results_only(sh, settings):
    sh.write("in.csv", "text\nOne.\n\n")
    with scoring(settings):
        done = sh("submit", "in.csv", "--wait", "--quiet", "--format", "csv")

    assert done.stdout.splitlines()[0].startswith("row,id,label")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


@pytest.mark.parametrize("joined", [[], ["--join", "in.jsonl"]])
def test_a_table_shows_control_characters_and_does_not_obey_them(sh, ledger, joined):
    """A sentence from the web must not rename, colour or clear the terminal of who looks at it."""
    sh.write("in.jsonl", '{"id": "a\\u001b]0;owned\\u0007", "text": "One \\u001b[2J \\u202e two\\tthree"}\n')
    job_id = sh("submit", "in.jsonl").stdout.strip()
    score_waiting(ledger)

    table = sh("results", job_id, "--format", "table", *joined).stdout

    assert not any(mark in table for mark in "\x1b\x07\u202e\t")
    assert "a\\x1b]0;owned\\x07" in table
    if joined:
        assert "One \\x1b[2J \\u202e two\\tthree" in table


def test_thousands_of_texts_on_the_command_line_are_one_job(sh):
    texts = [part for number in range(4000) for part in ("--text", f"Sentence {number}.")]

    job_id = sh("submit", *texts).stdout.strip()

    assert "4,000 = 0 scored" in sh("status", job_id).stdout
