"""``training promote``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorequeue.errors import UsageError
from training.cli.options import dataset_options, log_options, registry_option, setting, start
from training.cli.tables import print_table

if TYPE_CHECKING:
    from training.promote import Outcome


@click.command()
@click.argument("version")
@setting(
    "--mcc-floor", env="GATE_MCC_FLOOR", type=float, help="MCC that it must be above.  [default: the fit's, else 0]"
)
@setting(
    "--margin",
    env="GATE_MARGIN",
    type=float,
    help="MCC that it may lose on other rows.  [default: the fit's, else 0.02]",
)
@setting(
    "--confidence",
    env="GATE_CONFIDENCE",
    type=float,
    help="How sure that it loses no more.  [default: the fit's, else 0.95]",
)
@setting("--resamples", env="GATE_RESAMPLES", type=int, help="Draws of the bootstrap.  [default: the fit's, else 2000]")
@setting("--min-rows", env="GATE_MIN_ROWS", type=int, help="Least rows to judge on.  [default: the fit's, else 100]")
@setting(
    "--latency-ratio",
    env="GATE_LATENCY_RATIO",
    type=float,
    help="Warn if a lone sentence takes so many times longer.  [default: the fit's, else 1.2]",
)
@dataset_options(required=False)
@click.option("--force", is_flag=True, help="Put it live though the gate says no; needs --why.")
@click.option("--why", help="Why it is forced; the history keeps it.")
@registry_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def promote(
    *,
    version: str,
    dataset: str | None,
    split: str,
    text_field: str | None,
    label_field: str | None,
    force: bool,
    why: str | None,
    registry: Path,
    as_json: bool,
    quiet: bool,
    log_level: str,
    log_format: str,
    **bar: float | None,
) -> None:
    """Put a version live if it is better than the current one.

    Both are scored now, on the rows that the version was evaluated on, or on --dataset. It must have the higher
    Matthews correlation (MCC), and must not lose more than --margin on other rows of the same kind, with --confidence;
    without --dataset neither on rows of the kind that the current one was evaluated on. Otherwise this ends with 7 and
    the reason, and the current one stays. The history keeps the verdict either way. A version that is current already
    stays so (0).

    Example: training promote 20261123T101500-1f3c9a
    """
    if force and not (why or "").strip():
        raise UsageError("--force needs --why: what the gate should not decide, in a few words for the history")
    if why is not None and not force:
        raise UsageError("--why goes with --force; without it the gate gives the reason")
    start(quiet=quiet, log_level=log_level, log_format=log_format)
    from scorequeue.registry import Registry
    from training.gate_config import GateConfig

    store = Registry(registry)
    version = store.resolve(version)
    # Verified again when it is judged; here because importing torch takes longer than finding a damaged file.
    config = GateConfig.load(store.verify(version).training_config.get("gate"), **bar)
    from training.promote import promote as run_promote
    from training.sources import Part

    part = None if dataset is None else Part(dataset, split, text_field, label_field)
    outcome = run_promote(store, version, config=config, part=part, force_why=why.strip() if why else None)
    if as_json:
        click.echo(json.dumps(describe(version, outcome)))
    else:
        print_verdict(version, outcome)
    if (error := outcome.error()) is not None:
        raise error


def describe(version: str, outcome: Outcome) -> dict[str, object]:
    """The outcome as a program reads it."""
    verdict = outcome.verdict
    return {
        "version": version,
        "promoted": outcome.promoted,
        "forced": outcome.forced,
        "previous": outcome.previous,
        "reason": "it is current already" if verdict is None else verdict.reason,
        "checks": [] if verdict is None else [check.model_dump() for check in verdict.checks],
        "numbers": {} if verdict is None else verdict.numbers,
    }


def print_verdict(version: str, outcome: Outcome) -> None:
    """Print what was asked and found, and how it ended if the version is live."""
    if outcome.verdict is None:
        click.echo(f"{version} is current already")
        return
    rows = [(check.what, check.asked, check.found, check.outcome) for check in outcome.verdict.checks]
    print_table(("what", "asked", "found", ""), rows)
    if outcome.promoted:
        how = "forced, although " if outcome.forced else ""
        click.echo(f"{version} is current: {how}{outcome.verdict.reason}")
