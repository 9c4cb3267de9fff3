"""Commands list what can be chosen by themselves, to start at once; the lists must be those of the code behind them."""

from __future__ import annotations

import click

from producer.cli import producer
from producer.readers import AUTO, FORMATS
from producer.writers import FORMATS as OUTPUT_FORMATS
from scorequeue.jobs import JobState, Lane


def choices(command: str, option: str) -> set[str]:
    """What an option of a command takes."""
    found = producer.get_command(click.Context(producer), command)
    assert found is not None
    (param,) = [param for param in found.params if option in param.opts]
    assert isinstance(param.type, click.Choice)
    return {str(choice) for choice in param.type.choices}


def test_formats_lanes_and_states_are_those_that_there_are() -> None:
    assert choices("submit", "--input-format") == {AUTO, *FORMATS}
    assert choices("submit", "--format") == choices("results", "--format") == set(OUTPUT_FORMATS)
    assert choices("submit", "--lane") == {"auto", *Lane}
    assert choices("list", "--state") == set(JobState)
