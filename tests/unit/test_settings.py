"""docs/settings.md says what can be set, with the flags and the defaults that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from producer.cli.root import producer
from scorequeue.settings import ENV_PREFIX, Settings
from worker.cli import cli as worker
from worker.settings import WorkerSettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


class Entry(NamedTuple):
    """A line of a table."""

    variable: str
    flag: str
    default: str

    @property
    def setting(self) -> str:
        """The field that the variable is for."""
        return self.variable.removeprefix(ENV_PREFIX).lower()


def entries(heading: str) -> list[Entry]:
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [Entry(*found) for found in re.findall(r"^\| `(\w+)` \| `?(.*?)`? \| `(.*?)`", section, re.MULTILINE)]


SHARED, OWN = entries("Of the whole project"), entries("Of a worker")


def options(command: click.Command, context: click.Context | None = None) -> Iterator[click.Parameter]:
    """Options of a command and of all below it."""
    yield from command.params
    if isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options(below, context)


def test_page_names_every_setting_and_no_other() -> None:
    shared, all_of_them = set(Settings.model_fields), set(WorkerSettings.model_fields)

    assert sorted(entry.setting for entry in SHARED) == sorted(shared)
    assert sorted(entry.setting for entry in OWN) == sorted(all_of_them - shared)
    assert {entry.variable[: len(ENV_PREFIX)] for entry in [*SHARED, *OWN]} == {ENV_PREFIX}


@pytest.mark.parametrize("entry", [*SHARED, *OWN], ids=lambda entry: entry.setting)
def test_page_gives_the_default_as_one_would_set_it(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no embedded Redis here
    default = getattr(WorkerSettings(), entry.setting)

    monkeypatch.setenv(entry.variable, entry.default)

    assert getattr(WorkerSettings(), entry.setting) == default


@pytest.mark.parametrize("entry", [*SHARED, *OWN], ids=lambda entry: entry.setting)
def test_page_says_which_setting_has_a_flag(entry: Entry) -> None:
    flags = {
        option.opts[0]
        for command in (producer, worker)
        for option in options(command)
        if option.envvar == entry.variable
    }

    assert flags == ({entry.flag} if entry.flag.startswith("-") else set())
