"""docs/commands.md says what the commands say, and the commands say enough."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import click
import pytest

from docs.generate import PAGE, PROGRAMS, commands_of, example_of, options_of, page
from scorequeue.errors import ExitCode

ROOT = PAGE.parents[1]

COMMANDS = {
    ctx.command_path: command
    for name, program in PROGRAMS.items()
    for command, ctx in commands_of(program, click.Context(program, info_name=name))
}


def test_page_is_what_the_commands_say():
    assert PAGE.read_text("utf-8") == page(), "run `make docs`, and commit what it changed"


def test_page_is_the_same_on_every_machine():
    """A narrow terminal or a variable that is set there is no change of the commands."""
    env = os.environ | {"COLUMNS": "40", "TERM": "dumb", "LANG": "C", "SCOREQUEUE_NAMESPACE": "other"}
    code = "import sys; from docs.generate import page; sys.stdout.buffer.write(page().encode())"

    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True)

    assert made.stdout.decode() == page()


def test_page_has_a_section_for_every_command():
    assert re.findall(r"^### (.+)$", PAGE.read_text("utf-8"), re.MULTILINE) == list(COMMANDS)


def test_page_has_every_exit_code():
    (table,) = re.findall(r"^## Exit codes\n(.*?)^## ", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)

    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [code.value for code in ExitCode]


@pytest.mark.parametrize("path", COMMANDS)
def test_command_says_what_it_does_and_gives_an_example_that_it_takes(path: str):
    command = COMMANDS[path]

    example = example_of(command)

    assert command.help
    assert path in example, f"{path} should end its help with: Example: {path} ..."
    known = {name for option in options_of(command) for name in option.opts}
    assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", example)) <= known


@pytest.mark.parametrize("path", COMMANDS)
def test_option_says_what_it_is_for(path: str):
    silent = [option.opts[0] for option in options_of(COMMANDS[path]) if not option.help]

    assert silent == []


@pytest.mark.parametrize("path", COMMANDS)
def test_setting_is_named_in_help_with_its_variable(path: str):
    """An option that can be set in the environment must say so."""
    hidden = [option.opts[0] for option in options_of(COMMANDS[path]) if option.envvar and not option.show_envvar]

    assert hidden == []


def test_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text("utf-8")

    assert [page.name for page in sorted(PAGE.parent.glob("*.md")) if f"(docs/{page.name})" not in readme] == []
