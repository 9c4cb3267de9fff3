"""The ``training`` command as a whole: its commands, and the exit code of every way that one can end."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import click

import scorequeue
from scorequeue import logs
from scorequeue.errors import ExitCode, ScorequeueError
from scorequeue.standard import prepare, silence
from scorequeue.terminal import harmless
from training.cli import interrupts
from training.cli.diff import diff
from training.cli.evaluate import evaluate
from training.cli.fit import fit
from training.cli.importing import import_version
from training.cli.list import list_versions
from training.cli.promote import promote
from training.cli.prune import prune
from training.cli.refresh import refresh
from training.cli.rollback import rollback
from training.cli.show import show

_BROKEN_PIPE = 141
"""What a shell reports of a program that ended because its reader did: 128 + SIGPIPE."""

log = logging.getLogger(__name__)


class _Group(click.Group):
    """Commands whose reader may go away: click would end with 1, which says that there is a bug."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse, which prints what ``--help`` and ``--version`` ask for."""
        with _without_a_reader():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _without_a_reader():
            return super().invoke(ctx)


@contextlib.contextmanager
def _without_a_reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        silence(sys.stdout)
        raise click.exceptions.Exit(_BROKEN_PIPE) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(scorequeue.__version__, prog_name="training")
def cli() -> None:
    """Make and look at checkpoint versions.

    Example: training fit --dataset sample
    """


for command in (fit, refresh, evaluate, import_version, promote, rollback, prune, list_versions, show, diff):
    cli.add_command(command)


def main() -> None:
    """Run the command; every way it can end is an exit code of errors.ExitCode, or 128 and a signal."""
    prepare()
    with interrupts.heard():
        try:
            code = cli.main(standalone_mode=False)
            sys.stdout.flush()
        except BaseException as error:  # SystemExit too: whatever libraries made of an interrupt
            if interrupts.have_come() or isinstance(error, KeyboardInterrupt | click.Abort):
                hint = _find_hint(error)
                _say("interrupted; nothing was published" + (f"; {hint}" if hint else ""))
                interrupts.leave()
            code = _report(error)
    sys.exit(code or ExitCode.DONE)


def _report(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    match error:
        case BrokenPipeError():
            silence(sys.stdout)
            return _BROKEN_PIPE
        case click.ClickException():
            error.show()
            return ExitCode.USAGE
        case ScorequeueError():
            _say(f"Error: {error}")
            return error.exit_code
        case ImportError() if (error.name or "").partition(".")[0] not in ("scorequeue", "training"):
            _say(f'Error: {error.name} is not installed; run: pip install "scorequeue[training]"')
            return ExitCode.USAGE
        case Exception():
            log.error("unexpected error", exc_info=error, extra=logs.fields("crash"))
            _say("Error: unexpected, see the trace above; please report it")
            return ExitCode.UNEXPECTED
    raise error


def _find_hint(error: BaseException) -> str:
    """What the interrupt says, deep in what was made of it."""
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, KeyboardInterrupt) and str(one):
            return str(one)
        one = one.__cause__ or one.__context__
    return ""


def _say(line: str) -> None:
    try:
        click.echo(harmless(" ".join(line.split())), err=True)
    except OSError:  # a full disk, or nobody reads it: the exit code says it still
        silence(sys.stderr)
