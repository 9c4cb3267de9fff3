"""``training diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.cli.options import dataset_options, log_options, registry_option, start
from training.cli.tables import plain, print_table

if TYPE_CHECKING:
    from training.diff import Diff, Flip

FIGURES = {"MCC": "mcc", "accuracy": "accuracy", "F1": "f1", "calibration error": "calibration_error", "loss": "loss"}

KINDS = {"harm": "right -> wrong", "gain": "wrong -> right", "other": "wrong -> another wrong"}

LONGEST_VALUE = 44
"""Characters of a setting's value that are shown; fingerprints and commits differ in their first ones."""


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@dataset_options(required=False)
@click.option("--flips", type=click.IntRange(min=0), default=20, show_default=True, help="Most sentences of each kind.")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with every sentence.")
@log_options
def diff(
    *,
    first: str,
    second: str,
    dataset: str | None,
    split: str,
    text_field: str | None,
    label_field: str | None,
    flips: int,
    registry: Path,
    as_json: bool,
    quiet: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Compare two versions: figures on the same rows, sentences whose label flips, and what they were made from.

    Both are scored now, on the rows that B, else A, was evaluated on, or on --dataset. `current` stands for the version
    that new jobs get. Sentences that were right in A and are wrong in B come first, the surest change first.

    Example: training diff current 20261123T101500-1f3c9a
    """
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    from scorequeue.registry import Registry
    from training.diff import compare
    from training.sources import Part

    store = Registry(registry)
    first, second = (store.resolve(None if name == "current" else name) for name in (first, second))
    part = None if dataset is None else Part(dataset, split, text_field, label_field)
    found = compare(store, first, second, part=part)
    if as_json:
        click.echo(json.dumps(describe(found)))
        return
    print_figures(found)
    print_changes(found)
    for kind, title in KINDS.items():
        print_flips(title, [flip for flip in found.flips if flip.kind == kind], most=flips)


def describe(found: Diff) -> dict[str, Any]:
    """The comparison as a program reads it."""
    return {
        "first": found.first,
        "second": found.second,
        "rows": found.figures[0].rows,
        "rows_from": found.rows_from,
        "metrics": {"first": found.figures[0].summary(), "second": found.figures[1].summary()},
        "difference": found.difference._asdict(),
        "flips": [flip._asdict() for flip in found.flips],
        "changes": [change._asdict() for change in found.changes],
    }


def print_figures(found: Diff) -> None:
    """Print the figures side by side, and how sure the difference is."""
    ours, theirs = (figures.summary() for figures in found.figures)
    rows = [
        (title, f"{ours[name]:.3f}", f"{theirs[name]:.3f}", f"{theirs[name] - ours[name]:+.3f}")
        for title, name in FIGURES.items()
    ]
    click.echo(f"{found.figures[0].rows:,} rows of {found.rows_from}\n")
    print_table(("", found.first, found.second, "difference"), rows)
    low, high = found.difference.low, found.difference.high
    better = found.difference.probability_better
    click.echo(f"\nthe MCC's difference is {low:+.3f} to {high:+.3f} with 95 % confidence; B is ahead in {better:.0%}")


def print_changes(found: Diff) -> None:
    """Print what the manifests say differently."""
    if found.changes:
        click.echo()
        rows = [(change.name, _value(change.first), _value(change.second)) for change in found.changes]
        print_table(("made from", found.first, found.second), rows)


def print_flips(title: str, flips: list[Flip], *, most: int) -> None:
    """Print sentences that changed their label in one way."""
    if not flips:
        return
    shown = flips[:most]
    more = f", {len(shown):,} of them shown" if len(shown) < len(flips) else ""
    click.echo(f"\n{title}: {len(flips):,}{more}")
    rows = [
        (plain(flip.label), f"{flip.first_score:.3f} -> {flip.second_score:.3f}", plain(flip.text)) for flip in shown
    ]
    if rows:
        print_table(("true label", "its score", "sentence"), rows)


def _value(value: Any) -> str:
    text = "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return plain(text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "...")
