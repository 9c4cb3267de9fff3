"""Every command and every option of ``producer`` through the real entry point.

``RUNS`` is the list; a test compares it with what click knows, so an option that is in none of its lines fails it.
What an option does exactly is tested elsewhere, next to what it belongs to; here it is taken, and does its main thing.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from producer import Client
from producer.cli import producer
from producer.inputs import Inputs
from producer.readers import ReaderOptions
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.integration.scoring import FAILS, VERSION, score_waiting, scoring
from tests.servers import RedisServer
from tests.shell import Shell
from tests.tiny import publish_tiny


class Run(NamedTuple):
    """One run of a command.

    Attributes:
        args: Its command line. ``{open}`` is a job that waits, ``{done}`` and ``{thrown}`` are scored ones, ``{mixed}``
            is one with a row that failed; the folder has ``in.csv``, ``semi.csv``, ``plain.tsv`` and a ``registry``.
        says: What its output must have, as a regular expression.
        code: Its exit code.
        writes: A file that it must leave.
    """

    args: str
    says: str = ""
    code: int = 0
    writes: str = ""


RUNS = [
    # submit
    Run("submit in.csv", r"^[0-9a-f]{32}$"),
    Run("submit --text One --text Two --json", r'"total":2'),
    Run("submit semi.csv --input-format csv --delimiter ; --encoding latin-1 --text-field t --id-field i", "^[0-9a-f]"),
    Run("submit plain.tsv --no-header --text-field 2 --lane bulk --chunk-rows 1 --json", r'"lane":"bulk".*"chunks":2'),
    Run(f"submit in.csv --model-version {VERSION} --metadata team=x --json", rf'"team":"x".*"{VERSION}"'),
    Run("submit in.csv --idempotency-key k --deadline 1h --ttl 1d --json", r'"idempotency_key":"k".*"deadline_at":"2'),
    Run("submit in.csv --max-outstanding 1000 --quiet", r"^[0-9a-f]{32}$"),
    Run("submit in.csv --wait --timeout 60s --max-failed 50% --format jsonl", r'"label"'),
    Run("submit in.csv --dry-run --json", r'"rows":'),
    Run("submit in.csv --wait --join --output joined.csv --max-failed 1", writes="joined.csv"),
    # a job's life
    Run("status {open}", "queued"),
    Run("status {done} --json", r'"state":"completed"'),
    Run("watch {done}", "completed"),
    Run("watch {mixed} --json --max-failed 1", r'"failed":1'),
    Run("watch {open} --timeout 0.1s", "it goes on", code=4),
    Run("list", "completed"),
    Run("list --state completed --limit 1 --json", r'"state":"completed"'),
    Run("results {done}", r'"label"'),
    Run("results {done} --format csv --output out.csv", writes="out.csv"),
    Run("results {mixed} --errors", "scoring_failed"),
    Run("results {open} --partial --format csv", "^row,id"),
    Run("results {done} --join in.csv", "pred_label"),
    Run("results {done} --follow", r'"label"'),
    Run("results {thrown} --output kept.jsonl --discard", "no longer in Redis", writes="kept.jsonl"),
    Run("audit {done}", "every row is accounted for once"),
    Run("audit {done} --json", r'"is_clean": true'),
    Run("retry {mixed}", "1 rows of job"),
    Run("retry {done} --json", r'"retried": 0'),
    Run("cancel {open}", "is cancelled"),
    Run("cancel {done} --json", r'"state":"completed"'),
    Run("delete {thrown}", "is deleted"),
    # the queue
    Run("doctor", "^ok +redis"),
    Run("doctor --registry registry --verify --json", "have their checksums"),
    Run("exporter --host 127.0.0.1 --port 0", "exporter listens"),
    Run("completion bash", "_producer_completion"),
    Run("completion zsh", "#compdef producer"),
    Run("completion fish", "complete --no-files --command producer"),
]

CONTEXT = ("--redis-url", "--namespace", "--log-level", "--log-format")
"""Options of every command, which each line of ``RUNS`` gets behind its own; --quiet has a test below."""

NEVER_END = ("exporter",)
"""Commands that run until they are told to end."""


COMMANDS = tuple(producer.list_commands(click.Context(producer)))


class Stage(NamedTuple):
    """A folder with inputs, and a namespace with jobs in it."""

    sh: Shell
    settings: Settings
    jobs: dict[str, str]

    def run(self, args: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run a line, with nothing of its settings in the environment."""
        line = [*args.format(**self.jobs).split(), *more]
        process = subprocess.Popen(
            self.sh.command(*line),
            cwd=self.sh.folder,
            env=self.sh.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if line[0] in NEVER_END:
            assert process.stderr is not None
            first = process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            out, rest = process.communicate(timeout=30)
            return subprocess.CompletedProcess(line, process.returncode, out, first + rest)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(line, process.returncode, out, err)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    publish_tiny(folder)
    return folder


@pytest.fixture
def stage(tmp_path: Path, redis_url: str, namespace: str, registry: Path) -> Iterator[Stage]:
    settings = Settings(redis_url=redis_url, namespace=namespace)
    sh = Shell(tmp_path, settings)
    for variable in ("SCOREQUEUE_REDIS_URL", "SCOREQUEUE_NAMESPACE"):
        del sh.env[variable]
    sh.write("in.csv", "id,text\na,Who did you see?\nb,Who you did see?\n")
    sh.write("semi.csv", "i;t\na;caf\xe9\n".encode("latin-1"))
    sh.write("plain.tsv", "a\tOne more.\nb\tTwo more.\n")
    (tmp_path / "registry").symlink_to(registry)
    with closing(Ledger.connect(settings)) as ledger, Client(settings=settings) as client:

        def submit() -> str:
            with closing(Inputs.open([str(tmp_path / "in.csv")], ReaderOptions(), names=["in.csv"])) as inputs:
                return client.submit(inputs).id

        jobs = {"done": submit(), "thrown": submit(), "mixed": client.submit(["fine", FAILS]).id}
        score_waiting(ledger)
        yield Stage(sh, settings, jobs | {"open": submit()})


def command_of(line: str) -> str:
    return line.split()[0]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.args)
def test_command_takes_its_options_and_does_its_main_thing(stage: Stage, run: Run):
    context = [] if command_of(run.args) == "completion" else context_of(stage)

    if "--wait" in run.args:
        with scoring(stage.settings):
            done = stage.run(run.args, *context)
    else:
        done = stage.run(run.args, *context)

    assert done.returncode == run.code, done.stderr
    assert re.search(run.says, done.stdout + done.stderr, re.MULTILINE | re.DOTALL), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not run.writes or (stage.sh.folder / run.writes).stat().st_size > 0


def context_of(stage: Stage) -> list[str]:
    values = (stage.settings.redis_url, stage.settings.namespace, "info", "text")
    return [word for pair in zip(CONTEXT, values, strict=True) for word in pair]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("completion", *NEVER_END)])
def test_quiet_command_says_nothing_beside_its_data(stage: Stage, command: str):
    """A cron job that mails what is on stderr should mail faults only; logs have a level of their own."""
    line = next(run.args for run in RUNS if command_of(run.args) == command and not run.code)

    done = stage.run(line, *context_of(stage), "-q")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_h_is_help(tmp_path: Path, redis_server: RedisServer, command: str):
    sh = Shell(tmp_path, Settings(redis_url=redis_server.url))

    short, long = (sh(*command.split(), flag).stdout for flag in ("-h", "--help"))

    assert short == long
    assert short.startswith(f"Usage: producer {command}")
    assert "Example: " in short


def test_option_of_every_command_is_in_a_line_above():
    """A new option comes with a line, or this fails."""
    known, used = set(), set()
    commands = {name: producer.get_command(click.Context(producer), name) for name in COMMANDS}
    for name, command in commands.items():
        assert command is not None
        own = [option for option in command.params if isinstance(option, click.Option)]
        names = {alias: option.opts[0] for option in own for alias in option.opts}
        known |= {(name, option.opts[0]) for option in own}
        if own:
            used |= {(name, option) for option in (*CONTEXT, "--quiet")}
        for run in RUNS:
            if command_of(run.args) == name:
                used |= {(name, names[word]) for word in run.args.split() if word in names}

    assert {command_of(run.args) for run in RUNS} == set(commands)
    assert known - used == set(), "add a line to RUNS for each"
    assert used - known == set(), "CONTEXT names what a command does not take"


def test_settings_can_stand_before_the_command(stage: Stage):
    done = stage.run(" ".join([*context_of(stage), "--quiet", "list", "--limit", "1"]))

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2


def test_bash_completes_commands_and_options(tmp_path: Path, redis_url: str):
    """The script as it is printed, in a real bash, with the words as a person types them."""
    sh = Shell(tmp_path, Settings(redis_url=redis_url))
    program = tmp_path / "producer"
    program.write_text(f'#!/bin/sh\nexec {sh.command()[0]} -m producer "$@"\n')
    program.chmod(0o755)
    sh.write("completion.sh", sh("completion", "bash").stdout)

    def complete(*words: str) -> list[str]:
        script = f"source completion.sh; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1};"
        script += f" _producer_completion {program}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(
            ["bash", "--norc", "-c", script], cwd=tmp_path, env=sh.env, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert complete("producer", "st") == ["status"]
    assert complete("producer", "watch", "--max") == ["--max-failed"]
    assert complete("producer", "submit", "--lane", "e") == ["express"]


def test_worker_prints_its_completion_too(tmp_path: Path):
    done = subprocess.run(
        [Shell(tmp_path, Settings()).command()[0], "-m", "worker", "completion", "zsh"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "#compdef worker" in done.stdout
