"""The ``worker`` commands: start, status, bench, completion. Only click is imported here: the rest comes with them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click

from scorequeue import __version__
from scorequeue.errors import ExitCode, ScorequeueError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

_told_to_leave = threading.Event()


def _setting(flag: str, *names: str, **attributes: Any) -> Callable[[F], F]:
    """An option that is a setting too: its variable is named as the setting is."""
    name = names[0] if names else flag.removeprefix("--").replace("-", "_")
    return click.option(flag, *names, envvar=f"SCOREQUEUE_{name.upper()}", show_envvar=True, **attributes)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_shared = _all_of(
    _setting("--redis-url", metavar="URL", help="Redis."),
    _setting("--namespace", help="Prefix of every key in Redis."),
    _setting(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Least level that is logged; default: info.",
    ),
    _setting(
        "--log-format",
        type=click.Choice(["text", "json"]),
        help="How log lines look; default: text.",
    ),
    click.option("--quiet", is_flag=True, help="Log warnings and errors only."),
)
"""The options that every command takes."""

_model_options = _all_of(
    _setting("--registry", help="Folder of checkpoint versions."),
    _setting("--device", help="auto, cpu, cuda or cuda:N."),
    _setting(
        "--backend",
        type=click.Choice(["auto", "torch", "openvino", "fake"]),
        help="auto takes torch where there is a GPU, else openvino.",
    ),
    _setting(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="Number format of the weights; auto takes bfloat16 where the device has it natively.",
    ),
    _setting(
        "--token-budget",
        metavar="auto|N",
        help="Most padded tokens in a batch.",
    ),
    _setting(
        "--cache-dir",
        metavar="DIR",
        help="Where converted models and token budgets are kept.",
    ),
)
"""The options that say what is run on which device."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="worker")
def cli() -> None:
    """Score sentences from the queue on this machine's GPU or CPU."""


@cli.command()
@_shared
@_model_options
@_setting("--lanes", help="express,bulk or one of them.")
@_setting(
    "--start-timeout",
    "start_timeout_s",
    metavar="DURATION",
    help="Time to wait for a Redis that is away or takes no writes; default: 60s.",
)
@_setting(
    "--drain-timeout",
    "drain_timeout_s",
    metavar="DURATION",
    help="Time to finish the batch on the device after SIGTERM.",
)
@click.option("--local", is_flag=True, help="Start an embedded Redis in .scorequeue/, or join the one that runs there.")
def start(*, local: bool, quiet: bool, **options: Any) -> None:
    r"""Start a worker in the foreground.

    It loads the registry's current version, tries it on its golden sentences, and then takes work until it is told to
    stop. A Redis that is away or takes no writes is waited for, at the start for --start-timeout (then it exits with
    3). SIGTERM or Ctrl-C drains: the batch on the device is finished, the rest goes back to the queue.

    \b
    Example:
      worker start --local
    """
    # Until the worker's own handlers are there: what was started so far, such as an embedded Redis, is ended on the
    # way.
    signal.signal(signal.SIGTERM, _leave)
    with _errors():
        from worker.local import LocalRedis
        from worker.service import run_worker
        from worker.settings import WorkerSettings

        if local:
            with LocalRedis() as server:
                settings = WorkerSettings.load(**{**options, "redis_url": server.url})
                status = _run(run_worker, settings, quiet=quiet)
        else:
            status = _run(run_worker, WorkerSettings.load(**options), quiet=quiet)
    sys.exit(status)


@cli.command()
@_shared
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(*, as_json: bool, quiet: bool, **options: Any) -> None:
    r"""Show the live workers.

    One line a worker: what it runs on, which version new jobs get and which older one has jobs left, how many rows it
    has scored since its start; below it what is not well: a version or a registry that it cannot read, a device without
    memory. --json has its token budget, batches, tokens with and without padding, seconds.

    \b
    Example:
      worker status --json
    """
    with _errors():
        from scorequeue.ledger import Ledger
        from worker.settings import WorkerSettings
        from worker.telling import lines_of

        settings = WorkerSettings.load(**options)
        workers = Ledger.connect(settings).workers()
        if as_json:
            click.echo(json.dumps(workers, indent=2))
        elif not workers:
            click.echo("no live worker; start one with: worker start", err=True)
        for worker in [] if as_json else workers:
            for line in lines_of(worker):
                click.echo(line)


@cli.command()
@_shared
@_model_options
@click.option("--model-version", metavar="V", help="Version to measure; default: the current one.")
@click.option("--sentences", type=click.Path(), metavar="FILE", help="A sentence a line; default: the golden ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(*, model_version: str | None, sentences: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    r"""Measure how fast this machine runs a version, and with which backend, dtype and token budget.

    Backends are compared with torch in float32: rows a second, labels that differ, the largest difference of a score.
    What is named is tried, and what cannot run is listed with the reason; it ends with 2 when nothing could. Budgets
    are kept, so that the next worker need not measure them. Needs no Redis; let nothing else run meanwhile.

    \b
    Example:
      worker bench --sentences in.txt
    """
    with _errors():
        from dataclasses import asdict
        from pathlib import Path

        from worker import bench as benching
        from worker.settings import WorkerSettings

        settings = WorkerSettings.load(**options)
        _log(settings, quiet=quiet)
        texts = benching.read_sentences(Path(sentences)) if sentences else []
        results = []
        for result in benching.run_bench(settings, texts, version=model_version):
            results.append(result)
            if not quiet:
                how = "measured" if result.failed is None else "cannot run"
                click.echo(f"{how} {result.backend} {result.dtype}", err=True)
        if as_json:
            click.echo(json.dumps([asdict(result) for result in results], indent=2))
        else:
            click.echo(benching.table_of(results))
        if all(result.failed is not None for result in results if benching.is_asked_for(result, settings)):
            raise UsageError("expected a way that runs on this machine, got none; the reasons are above")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    r"""Print the script that completes commands in a shell.

    bash (4.4 or newer) and zsh take it with eval, in ~/.bashrc or ~/.zshrc; fish reads it from the file
    ~/.config/fish/completions/worker.fish.

    \b
    Example:
      eval "$(worker completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, f"click completes {shell}"
    click.echo(made(cli, {}, "worker", "_WORKER_COMPLETE").source())


def main() -> NoReturn:
    """Entry point of the ``worker`` command."""
    # Read when torch is loaded, which may be to look for a GPU: see worker/backends/torch.py, which comes later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Chunks are tokenised several at once, each by one thread.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli(prog_name="worker")
    sys.exit(0)


def _leave(signum: int, frame: Any) -> NoReturn:
    """End a worker that is told to stop before it serves: it holds nothing yet."""
    _told_to_leave.set()
    sys.exit(ExitCode.DONE)


def _run(run_worker: Any, settings: Any, *, quiet: bool) -> int:
    _log(settings, quiet=quiet)
    return int(run_worker(settings))


def _log(settings: Any, *, quiet: bool) -> None:
    from scorequeue.logs import configure
    from scorequeue.masking import secrets_of

    level = "warning" if quiet else settings.log_level
    configure(level, settings.log_format, secrets=secrets_of(settings.redis_url))


@contextmanager
def _leaving() -> Iterator[None]:
    """Leave when told to, though what was interrupted made an error of it: C++ modules do while they are imported."""
    try:
        yield
    except Exception:
        if _told_to_leave.is_set():
            sys.exit(ExitCode.DONE)
        raise


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what goes wrong into one line and the exit code of its class."""
    try:
        with _leaving():
            yield
    except ScorequeueError as exc:
        click.echo(f"Error: {exc}", err=True)
        sys.exit(exc.exit_code)
    except ModuleNotFoundError as exc:
        if exc.name in ("celery", "kombu", "torch", "transformers", "tokenizers", "numpy", "safetensors", "openvino"):
            click.echo(f'Error: {exc.name} is not installed; run: pip install "scorequeue[worker]"', err=True)
            sys.exit(ExitCode.USAGE)
        raise
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as exc:
        logging.getLogger("worker").exception("unexpected error")
        click.echo(f"Error: unexpected {type(exc).__name__}: {exc}; the log has the trace", err=True)
        sys.exit(ExitCode.UNEXPECTED)
