"""``training evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from scorequeue.errors import OutputError
from training.cli.figures import figures_as_json, tell_figures
from training.cli.options import dataset_options, log_options, registry_option, start


@click.command()
@click.argument("version")
@dataset_options(required=True)
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write this evaluation as HTML."
)
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def evaluate(
    *,
    version: str,
    dataset: str,
    split: str,
    text_field: str | None,
    label_field: str | None,
    report: Path | None,
    registry: Path,
    as_json: bool,
    quiet: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Score labelled sentences with a version, or with the one that is `current`, and print how good it is.

    It is verified first (6 if it is not what its manifest says). The Matthews correlation (MCC) has a bootstrap
    interval; sources are shown where the data names them.

    Example: training evaluate current --dataset cola
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    from scorequeue.registry import Registry

    store = Registry(registry)
    version = store.resolve(None if version == "current" else version)
    manifest = store.verify(version)
    from training.sources import load_split

    rows = load_split(dataset, split, seed=0, text_field=text_field, label_field=label_field, labels=manifest.labels)
    from training.evaluate import evaluate as run_evaluate  # torch: not before what can be refused without it
    from training.predict import Predictor, fastest_device

    predictor = Predictor(store.path(version), device=fastest_device())
    with _show_progress(len(rows), quiet=quiet) as told:
        evaluation = run_evaluate(predictor, rows, told=told)
    if report is not None:
        from training.report import render_report

        try:
            report.write_text(
                render_report(manifest, evaluation=evaluation, judged_on=f"{split} of {dataset}"), "utf-8"
            )
        except OSError as error:
            raise OutputError(f"cannot write {report}: {error.strerror}; name another file with --report") from error
    if as_json:
        named = {"version": version, "dataset": dataset, "split": split}
        click.echo(json.dumps(named | figures_as_json(evaluation)))
        return
    click.echo(f"{version} on {split} of {dataset}: {len(rows):,} sentences\n\n{tell_figures(evaluation)}")


@contextmanager
def _show_progress(rows: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Draw a bar on stderr while rows are scored, if that is a terminal; it goes when all are.

    Yields:
        What takes the number of rows that are done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("sentences"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("", total=rows)
        yield lambda done: progress.update(task, completed=done)
