"""The ``training`` command as a whole: its commands, and the exit code of every way that one can end."""

from __future__ import annotations

import logging
import sys

import click

import scorequeue
from scorequeue import logs
from scorequeue.errors import ExitCode, ScorequeueError
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

log = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(scorequeue.__version__, prog_name="training")
def cli() -> None:
    """Make and look at checkpoint versions.

    Example: training fit --dataset sample
    """


for command in (fit, refresh, evaluate, import_version, promote, rollback, prune, list_versions, show, diff):
    cli.add_command(command)


def main() -> None:
    """Run the command; every way it can end is an exit code of errors.ExitCode."""
    interrupts.hear()
    code: int
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort as abort:  # what click makes of a KeyboardInterrupt
        code = _interrupted(abort.__cause__)
    except KeyboardInterrupt as interrupt:
        code = _interrupted(interrupt)
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except ScorequeueError as error:
        code = _end(f"Error: {error}", error.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # the reader left; there is nobody to flush to
        code = ExitCode.DONE
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("scorequeue", "training"):
            raise
        code = _end(f'Error: {error.name} is not installed; run: pip install "scorequeue[training]"', ExitCode.USAGE)
    except Exception:
        log.exception("unexpected error", extra=logs.fields("crash"))
        code = _end("Error: unexpected, see the trace above; please report it", ExitCode.UNEXPECTED)
    sys.exit(code or ExitCode.DONE)


def _interrupted(interrupt: BaseException | None) -> int:
    hint = str(interrupt or "")
    return _end("interrupted; nothing was published" + (f"; {hint}" if hint else ""), interrupts.exit_code())


def _end(message: str, code: int) -> int:
    click.echo(message, err=True)
    return code
