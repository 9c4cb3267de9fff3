"""``training evaluate``."""

from __future__ import annotations

import json
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

    evaluation = run_evaluate(Predictor(store.path(version), device=fastest_device()), rows)
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
