"""Options that several commands share, and what they do first. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from scorequeue import logs
from training.config import DEFAULT_REGISTRY


def setting(*names: str, env: str, **options: Any) -> Any:
    """An option that is a setting: its help names its environment variable."""
    return click.option(*names, envvar=f"SCOREQUEUE_{env}", show_envvar=True, **options)


registry_option = setting(
    "--registry",
    env="REGISTRY",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_REGISTRY,
    show_default=True,
    help="Folder of the versions.",
)


def given(ctx: click.Context, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named options that the command line or the environment sets: a default leaves a config's value."""
    return {
        name: ctx.params[name]
        for name in names
        if name in ctx.params and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def dataset_options(*, required: bool) -> Any:
    """Add --dataset, --split, --text-field and --label-field: labelled sentences to judge a version by."""

    def add(command: Any) -> Any:
        for option in (
            click.option("--label-field", help="Column of the labels in files.  [default: label, labels, class]"),
            click.option("--text-field", help="Column of the texts in files.  [default: text, sentence, the only one]"),
            click.option("--split", default="dev", show_default=True, help="Part of it: train, dev, test or all."),
            click.option("--dataset", required=required, help="Judge by this: cola, sample, a file or a folder."),
        ):
            command = option(command)
        return command

    return add


class Duration(click.ParamType[float]):
    """``90s``, ``15m``, ``2h``, ``7d`` or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        from scorequeue.settings import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def log_options(command: Any) -> Any:
    """Add --log-level, --log-format and --quiet, which go to `start`."""
    for option in (
        setting("--quiet", env="QUIET", is_flag=True, help="Print nothing on stderr but errors."),
        setting(
            "--log-format",
            env="LOG_FORMAT",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="How log lines look.",
        ),
        setting(
            "--log-level",
            env="LOG_LEVEL",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            help="Least level that is logged.",
        ),
    ):
        command = option(command)
    return command


def start(*, quiet: bool, log_level: str, log_format: str) -> None:
    """Set up logging, and what torch must find when it is imported."""
    logs.configure("error" if quiet else log_level, "json" if log_format == "json" else "text")
    # Read by OpenMP when torch is imported. Its threads would spin while they wait for each other, which next to
    # another busy process (a worker, say) costs most of the speed (docs/performance.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
