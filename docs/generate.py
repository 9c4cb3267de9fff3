"""Writes docs/commands.md from the commands themselves: ``make docs``.

A test compares the page with what this prints, so a new option is documented or the test says so. The page depends on
the commands only, not on the terminal or the environment.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from producer.cli import producer
from scorequeue.errors import ExitCode
from training.cli.root import cli as training
from worker.cli import cli as worker

PAGE = Path(__file__).with_name("commands.md")

PROGRAMS = {"producer": producer, "worker": worker, "training": training}

EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.UNEXPECTED: "unexpected error (a bug; the log has the trace)",
    ExitCode.USAGE: "wrong usage, or input that cannot be read",
    ExitCode.REDIS: "Redis cannot be reached, refuses us (password, memory, version, newer protocol) or is set up so "
    "that rows get lost (`doctor`)",
    ExitCode.NOT_FINISHED: "gave up waiting (`--timeout`), or results asked for before the end",
    ExitCode.NO_SUCH_JOB: "no such job, or its results have expired",
    ExitCode.NO_SUCH_VERSION: "no such checkpoint version, or it failed verification",
    ExitCode.GATE_REFUSED: "the promote gate said no",
    ExitCode.NOT_CLEAN: "the job ended with more failed rows than `--max-failed` or not as `completed`, or an audit "
    "differs (`submit --wait`, `watch`, `audit`)",
    ExitCode.INTERRUPTED: "interrupted; a job goes on",
}

HEAD = """\
# Which commands are there?

Three programs: `producer` puts sentences on the queue and gets scores back, `worker` scores, `training` makes
checkpoints. This page is made from their help (`make docs`); `COMMAND --help` or `-h` says the same.

Results and ids go to stdout, talk and progress to stderr, so that a pipe gets data only. Errors are one line. Colours
are for terminals only; `NO_COLOR=1` turns them off there too. Durations are `90s`, `15m`, `2h`, `7d` or plain seconds.
A variable stands for an option wherever it is not given ([all of them](settings.md)).
"""

COMPLETION = """\
## Completion

The shell completes commands and options once it has the script of `producer completion` and `worker completion`:

```sh
eval "$(producer completion bash)"                                          # in ~/.bashrc, bash 4.4 or newer
eval "$(producer completion zsh)"                                           # in ~/.zshrc, after compinit
producer completion fish > ~/.config/fish/completions/producer.fish        # once
```
"""

_SHORTER = {"INTEGER": "N", "INTEGER RANGE": "N", "FLOAT": "X"}
"""How click calls a number, and how this page does."""

_EXAMPLE = re.compile(r"\s*(?:\x08\s*)?Example:\s*(.+?)\s*\Z", re.DOTALL)


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, _exit_codes(), COMPLETION]
    for name, program in PROGRAMS.items():
        context = click.Context(program, info_name=name)
        commands = list(commands_of(program, context))
        shared = _shared([command for command, _ in commands])
        parts.append(f"## {name}\n\n{_prose(program)}\n")
        parts.append("".join(f"- [`{ctx.command_path}`](#{_anchor(ctx)})\n" for _, ctx in commands))
        if shared:
            parts.append(f"{_who_takes(shared, program, context)}:\n\n{_table(shared, context)}")
        parts += [_section(command, ctx, without=shared) for command, ctx in commands]
    return "\n".join(parts)


def commands_of(program: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield each command of a program with a context, in the order of its help."""
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        if command is not None and not command.hidden:
            yield command, click.Context(command, info_name=name, parent=context)


def options_of(command: click.Command) -> list[click.Option]:
    """Return a command's options."""
    return [param for param in command.params if isinstance(param, click.Option) and not param.hidden]


def example_of(command: click.Command) -> str:
    """Return the command line of its example; empty where it has none."""
    found = _EXAMPLE.search(_help_and_epilog(command))
    return "\n".join(line.strip() for line in found[1].splitlines()) if found else ""


def _exit_codes() -> str:
    rows = "".join(f"| {code.value} | {EXIT_CODES[code]} |\n" for code in ExitCode)
    return (
        f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"
        "Also: 141 is a command whose reader went away (`| head`), 143 one that was told to end (SIGTERM),"
        " and 129 one whose terminal went away (SIGHUP).\n"
        "`worker start` and `producer exporter` end with 0 then.\n"
    )


def _shared(commands: list[click.Command]) -> list[click.Option]:
    """Return the options that most commands take and that mean the same in all of them."""
    first = next((options_of(command) for command in commands if len(options_of(command)) > 1), [])
    takers = [command for command in commands if options_of(command)]
    return [option for option in first if all(_find(option, command) for command in takers)]


def _who_takes(shared: list[click.Option], program: click.Group, context: click.Context) -> str:
    others = [f"`{ctx.info_name}`" for command, ctx in commands_of(program, context) if not options_of(command)]
    but = f" but {', '.join(others)}" if others else ""
    where = ", before or after its name" if all(_find(option, program) for option in shared) else ""
    return f"Options of every `{context.info_name}` command{but}{where}"


def _find(option: click.Option, command: click.Command) -> bool:
    return any((other.opts, other.help) == (option.opts, option.help) for other in options_of(command))


def _section(command: click.Command, ctx: click.Context, *, without: list[click.Option]) -> str:
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    parts = [f"### {ctx.command_path}\n\n{_prose(command)}\n", f"```\n{usage}\n```\n"]
    own = [option for option in options_of(command) if not any(option.opts == other.opts for other in without)]
    if own:
        parts.append(_table(own, ctx))
    if example := example_of(command):
        parts.append(f"Example:\n\n```sh\n{example}\n```\n")
    return "\n".join(parts)


def _table(options: list[click.Option], ctx: click.Context) -> str:
    lines = ["| option | variable | meaning |", "|---|---|---|"]
    for option in options:
        extra = option.get_help_extra(ctx)
        metavar = option.make_metavar(ctx)
        takes = "" if option.is_flag else f" {_SHORTER.get(metavar, metavar)}"
        names = ", ".join(f"`{_cell(name + takes)}`" for name in option.opts)
        variable = ", ".join(f"`{name}`" for name in extra.get("envvars", ())) or "-"
        facts = [f"default: `{extra['default']}`"] if "default" in extra else []
        facts += _range(option)
        notes = f" ({', '.join(facts)})" if facts else ""
        lines.append(f"| {names} | {variable} | {_cell((option.help or '') + notes)} |")
    return "\n".join(lines) + "\n"


def _range(option: click.Option) -> list[str]:
    if not isinstance(option.type, click.IntRange):
        return []
    low, high = option.type.min, option.type.max
    return [f"at least {low}" if high is None else f"{low} to {high}"]


def _prose(command: click.Command) -> str:
    text = _EXAMPLE.sub("", _help_and_epilog(command)).strip()
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in paragraphs)


def _help_and_epilog(command: click.Command) -> str:
    return f"{command.help or ''}\n\n{command.epilog or ''}"


def _anchor(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
