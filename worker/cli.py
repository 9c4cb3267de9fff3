"""The ``worker`` commands: start, status, bench, completion. Only click is imported here: the rest comes with them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scorequeue import __version__
from scorequeue.errors import ExitCode, ScorequeueError, UsageError

if TYPE_CHECKING:
    from worker.settings import WorkerSettings

F = TypeVar("F", bound=Callable[..., Any])


def _setting(flag: str, text: str, *choices: str, name: str = "", metavar: str | None = None) -> Callable[[F], F]:
    """An option that is a setting too: its variable is named as the setting is."""
    name = name or flag.removeprefix("--").replace("-", "_")
    kind = click.Choice(choices) if choices else None
    envvar = f"SCOREQUEUE_{name.upper()}"
    return click.option(flag, name, envvar=envvar, show_envvar=True, type=kind, metavar=metavar, help=text)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_shared = _all_of(
    _setting("--redis-url", "Redis.", metavar="URL"),
    _setting("--namespace", "Prefix of every key in Redis."),
    _setting("--log-level", "Least level that is logged; default: info.", "debug", "info", "warning", "error"),
    _setting("--log-format", "How log lines look; default: text.", "text", "json"),
    click.option("--quiet", is_flag=True, help="Log warnings and errors only."),
)
"""The options that every command takes."""

_BACKEND = "auto takes torch where there is a GPU, else openvino."
_DTYPE = "Number format of the weights; auto takes bfloat16 where the device has it natively."

_model_options = _all_of(
    _setting("--registry", "Folder of checkpoint versions."),
    _setting("--device", "auto, cpu, cuda or cuda:N."),
    _setting("--backend", _BACKEND, "auto", "torch", "openvino", "fake"),
    _setting("--dtype", _DTYPE, "auto", "float32", "bfloat16", "float16"),
    _setting("--token-budget", "Most padded tokens in a batch.", metavar="auto|N"),
    _setting("--cache-dir", "Where converted models and token budgets are kept.", metavar="DIR"),
)
"""The options that say what is run on which device."""

_START_TIMEOUT = "Time to wait for a Redis that is away or takes no writes; default: 60s."
_DRAIN_TIMEOUT = "Time to finish the batch on the device after SIGTERM."


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what goes wrong into one line and the exit code of its class. A decorator, too."""
    try:
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


def _read_settings(options: Mapping[str, Any], *, quiet: bool) -> WorkerSettings:
    """Read the settings, and set up logging."""
    from scorequeue.logs import configure
    from scorequeue.masking import secrets_of
    from worker.settings import WorkerSettings

    settings = WorkerSettings.load(**options)
    level = "warning" if quiet else settings.log_level
    configure(level, settings.log_format, secrets=secrets_of(settings.redis_url))
    return settings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="worker")
def cli() -> None:
    """Score sentences from the queue on this machine's GPU or CPU."""


@cli.command()
@_shared
@_model_options
@_setting("--lanes", "express,bulk or one of them.")
@_setting("--start-timeout", _START_TIMEOUT, name="start_timeout_s", metavar="DURATION")
@_setting("--drain-timeout", _DRAIN_TIMEOUT, name="drain_timeout_s", metavar="DURATION")
@click.option("--local", is_flag=True, help="Start an embedded Redis in .scorequeue/, or join the one that runs there.")
@_errors()
def start(*, local: bool, quiet: bool, **options: Any) -> None:
    r"""Start a worker in the foreground.

    It loads the registry's current version, tries it on its golden sentences, and then takes work until it is told to
    stop. A Redis that is away or takes no writes is waited for, at the start for --start-timeout (then it exits with
    3). SIGTERM or Ctrl-C drains: the batch on the device is finished, the rest goes back to the queue.

    \b
    Example:
      worker start --local
    """
    # Until the worker's own handlers are there: it holds nothing yet, and its children end when it has ended.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(ExitCode.DONE))
    from worker.local import local_redis
    from worker.service import Service

    with local_redis() if local else nullcontext(options["redis_url"]) as url:
        sys.exit(Service(_read_settings(options | {"redis_url": url}, quiet=quiet)).run())


@cli.command()
@_shared
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_errors()
def status(*, as_json: bool, quiet: bool, **options: Any) -> None:
    r"""Show the live workers.

    One line a worker: what it runs on, which version new jobs get and which older one has jobs left, how many rows it
    has scored since its start; below it what is not well: a version or a registry that it cannot read, a device without
    memory. --json has its token budget, batches, tokens with and without padding, seconds.

    \b
    Example:
      worker status --json
    """
    from scorequeue.ledger import Ledger

    workers = Ledger.connect(_read_settings(options, quiet=quiet)).workers()
    if as_json:
        click.echo(json.dumps(workers, indent=2))
        return
    for line in [line for worker in workers for line in lines_of(worker)]:
        click.echo(line)
    if not workers:
        click.echo("no live worker; start one with: worker start", err=True)


def lines_of(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line on what a worker runs and has done, and an indented one for each thing that is not well.

    Args:
        about: What it says of itself; a worker of an older program may leave something out.
    """
    where = f"{about.get('host')}:{about.get('pid')}"
    how = f"{about.get('backend')} {about.get('dtype')} on {about.get('device')}"
    lanes = ",".join(about.get("lanes", []))
    older = [version for version in about.get("ready_versions", []) if version != about.get("model_version")]
    versions = f"{about.get('model_version')}" + (f" (and {', '.join(older)})" if older else "")
    yield f"{about['id']}  {where}  {how}  {versions}  {lanes}  {about.get('rows')} rows"
    if about.get("memory_errors"):
        budget = f"the token budget is {about.get('token_budget', 0):,} now"
        yield f"  the device had no memory for {about['memory_errors']:,} batches; {budget}"
    if about.get("loading_version"):
        yield f"  loads {about['loading_version']}"
    if about.get("registry_error"):
        yield f"  cannot read what is current: {about['registry_error']}"
    for version, why in (about.get("failed_versions") or {}).items():
        yield f"  cannot load {version}: {why}"


@cli.command()
@_shared
@_model_options
@click.option("--model-version", metavar="V", help="Version to measure; default: the current one.")
@click.option("--sentences", type=click.Path(), metavar="FILE", help="A sentence a line; default: the golden ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_errors()
def bench(*, model_version: str | None, sentences: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    r"""Measure how fast this machine runs a version, and with which backend, dtype and token budget.

    Backends are compared with torch in float32: rows a second, labels that differ, the largest difference of a score.
    What is named is tried, and what cannot run is listed with the reason; it ends with 2 when nothing could. Budgets
    are kept, so that the next worker need not measure them. Needs no Redis; let nothing else run meanwhile.

    \b
    Example:
      worker bench --sentences in.txt
    """
    from dataclasses import asdict
    from pathlib import Path

    from worker import bench as benching

    settings = _read_settings(options, quiet=quiet)
    texts = benching.read_sentences(Path(sentences)) if sentences else []
    results = []
    for result in benching.run_bench(settings, texts, version=model_version):
        results.append(result)
        if not quiet:
            how = "measured" if result.failed is None else "cannot run"
            click.echo(f"{how} {result.backend} {result.dtype}", err=True)
    made = json.dumps([asdict(result) for result in results], indent=2) if as_json else benching.table_of(results)
    click.echo(made)
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


def main() -> None:
    """Entry point of the ``worker`` command."""
    # Read when torch is loaded, which may be to look for a GPU: see worker/backends/torch.py, which comes later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Chunks are tokenised several at once, each by one thread.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli(prog_name="worker")
