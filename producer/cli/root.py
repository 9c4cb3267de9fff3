"""The group of commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from producer.cli import interrupts
from producer.cli.options import come_back_hint, context_options
from scorequeue.errors import (
    ExitCode,
    InternalError,
    NotFinishedError,
    OutputError,
    RedisUnavailableError,
    ScorequeueError,
)
from scorequeue.standard import prepare, silence
from scorequeue.terminal import harmless

_COMMANDS = {
    "submit": "submit",
    "status": "status",
    "watch": "watch",
    "list": "list_jobs",
    "results": "results",
    "audit": "audit",
    "cancel": "cancel",
    "retry": "retry",
    "delete": "delete",
    "doctor": "doctor",
    "exporter": "exporter",
    "completion": "completion",
}
"""Command -> its function, in the module of the command's name; in the order of a job's life."""

_BROKEN_PIPE = 141
"""What a shell reports of a program that ended because its reader did: 128 + SIGPIPE."""

_TERMINATED = 143
"""What a shell reports of a program that was told to end: 128 + SIGTERM."""

_HUNG_UP = 129
"""What a shell reports of a program whose terminal went away: 128 + SIGHUP."""

_JOB_ID = re.compile(r"\b[0-9a-f]{32}\b")

log = logging.getLogger(__name__)


class LazyGroup(click.Group):
    """Commands are modules of this package; each is imported when it is named or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of a job's life."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"producer.cli.{cmd_name}"), _COMMANDS[cmd_name])
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of our output that went away is no error worth words."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            silence(sys.stdout)
            raise click.exceptions.Exit(_BROKEN_PIPE) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line, and end the process with the exit code of what happened."""
        names = {"prog_name": prog_name or "producer", "complete_var": complete_var}
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **names, **extra)
        prepare()
        # Told to end, it takes back what it began: temporary files, an upload that nobody could go on with.
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, _terminate)
        try:
            code = super().main(args, standalone_mode=False, **names, **extra)
        except SystemExit as exc:
            interrupts.ignore()
            if exc.code in (_TERMINATED, _HUNG_UP):
                name = "SIGTERM" if exc.code == _TERMINATED else "SIGHUP"
                _say(f"Told to end ({name}). {come_back_hint()}".rstrip())
            raise
        except (Exception, KeyboardInterrupt) as exc:
            interrupts.ignore()
            is_interrupted = interrupts.has_come() or isinstance(exc, click.Abort | KeyboardInterrupt)
            code = _report(click.Abort() if is_interrupted else exc)
            if is_interrupted:
                interrupts.leave()
        interrupts.ignore()
        sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _terminate(signum: int, _: object) -> NoReturn:
    for again in (signal.SIGTERM, signal.SIGHUP):  # a second one must not break off the tidying up
        signal.signal(again, signal.SIG_IGN)
    sys.exit(_TERMINATED if signum == signal.SIGTERM else _HUNG_UP)


def _report(exc: BaseException) -> int:
    """Say what went wrong in one line; return the exit code."""
    if isinstance(exc, click.Abort):
        _say(f"Interrupted. {come_back_hint()}".rstrip())
        return ExitCode.INTERRUPTED
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        exc.show()
        return ExitCode.USAGE
    if isinstance(exc, click.ClickException):
        path = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "producer"
        _say(f"Error: {exc.format_message()} See: {path} --help")
        return ExitCode.USAGE
    if isinstance(exc, ScorequeueError):
        if isinstance(exc, InternalError):
            log.debug("internal error", exc_info=exc)
        hint = come_back_hint() if isinstance(exc, RedisUnavailableError | NotFinishedError | OutputError) else ""
        _say(f"Error: {_with_hint(str(exc), hint)}")
        return exc.exit_code
    log.debug("unexpected error", exc_info=exc)
    hint = "" if log.isEnabledFor(logging.DEBUG) else "; run it again with --log-level debug to see where"
    _say(f"Error: unexpected {type(exc).__name__}: {exc}{hint}")
    return ExitCode.UNEXPECTED


def _with_hint(text: str, hint: str) -> str:
    """Add the next step. Who reads the line in a mail of cron needs the job's id too, but once."""
    if any(job_id in text for job_id in _JOB_ID.findall(hint)):
        _, see, step = hint.partition("; see: ")
        return text + see + step
    return f"{text.removesuffix('.')}. {hint}" if hint else text


def _say(line: str) -> None:
    try:
        click.echo(harmless(" ".join(line.split())), err=True)
    except OSError:  # a full disk, or nobody reads it: the exit code says it still
        silence(sys.stderr)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: producer submit sentences.csv --wait --join --output scored.csv",
)
@context_options
@click.version_option(package_name="scorequeue", message="%(prog)s %(version)s")
@click.pass_context
def producer(ctx: click.Context) -> None:
    """Put sentences on the queue, get their scores back.

    A job is everything that is submitted at once. Results and job ids go to stdout, talk and progress to stderr; errors
    are one line. Options that name a variable can be set in the environment.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org; rich knows it by itself, and click does not
        ctx.color = False


def main(args: Sequence[str] | None = None) -> None:
    """Run the ``producer`` command with these arguments, else those of the process; does not return."""
    producer.main(args)
