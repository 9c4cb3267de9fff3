"""Options and types that several commands share. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from producer.cli import interrupts

if TYPE_CHECKING:
    from producer.client import Client
    from producer.progress import Narrator
    from scorequeue.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_SETTINGS = "producer.settings"
_HINT = "producer.hint"
_hints: list[str] = []


def context_options(function: F) -> F:
    """Add the options that every command takes, before or after the command's name."""
    for option in reversed(
        (
            _setting("--redis-url", metavar="URL", help="Address of Redis; default: the embedded one, else localhost."),
            _setting("--namespace", metavar="NAME", help="Prefix of all keys; default: scorequeue."),
            _setting(
                "--log-level",
                type=click.Choice(["debug", "info", "warning", "error"]),
                help="Least level that is logged; default: info.",
            ),
            _setting("--log-format", type=click.Choice(["text", "json"]), help="How log lines look; default: text."),
            click.option(
                "--quiet",
                "-q",
                is_flag=True,
                expose_value=False,
                callback=_remember,
                help="No progress and no notes on stderr.",
            ),
        )
    ):
        function = option(function)
    return function


def _setting(name: str, **attributes: Any) -> Callable[[F], F]:
    variable = "SCOREQUEUE_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, expose_value=False, callback=_remember, **attributes)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Note a setting; what was typed, wherever, goes before the environment."""
    name = str(param.name)
    noted = ctx.meta.setdefault(_SETTINGS, {})
    is_typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    if is_typed or (value is not None and name not in noted):
        noted[name] = value
    return value


class Start(NamedTuple):
    """What a command works with."""

    settings: Settings
    narrator: Narrator

    def connect(self) -> Client:
        """Return a client; raises RedisUnavailableError."""
        from producer.client import Client

        return Client(settings=self.settings)


def start(ctx: click.Context, **overrides: Any) -> Start:
    """Read the settings and set up logging.

    Args:
        ctx: The command's context.
        overrides: Further settings from the command line; None leaves the environment and the default.

    Raises:
        UsageError: A setting cannot be.
    """
    from producer.progress import Narrator
    from scorequeue.logs import configure
    from scorequeue.masking import secrets_of
    from scorequeue.settings import Settings

    noted = dict(ctx.meta.get(_SETTINGS, {}))
    quiet = bool(noted.pop("quiet", False))
    settings = Settings.load(**noted, **overrides)
    configure(settings.log_level, settings.log_format, secrets=secrets_of(settings.redis_url))
    interrupts.hear()
    return Start(settings, Narrator(quiet=quiet))


def come_back_later(hint: str) -> None:
    """Note what to tell a person who interrupts the command from now on."""
    _hints[:] = [hint]


def come_back_hint() -> str:
    """Return what ``come_back_later`` noted."""
    return _hints[0] if _hints else ""


class Duration(click.ParamType[float]):
    """``90s``, ``15m``, ``2h``, ``7d`` or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        from scorequeue.jobs import MOST_SECONDS
        from scorequeue.settings import parse_duration

        try:
            seconds = parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if not 0 < seconds < MOST_SECONDS:
            self.fail(f"expected a duration above 0 and below ten years, got {value!r}", param, ctx)
        return seconds


class MostFailed(NamedTuple):
    """How many rows may fail: a number, or a share of the job's rows."""

    rows: int | None
    percent: float | None

    def allows(self, failed: int, total: int) -> bool:
        """Say whether so many failed rows are still fine."""
        if self.percent is not None:
            return failed <= total * self.percent / 100
        return failed <= (self.rows or 0)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else str(self.rows)


class MaxFailed(click.ParamType[MostFailed]):
    """A number of rows, or a share such as ``2%``."""

    name = "n|p%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> MostFailed:
        """Return the limit."""
        if isinstance(value, MostFailed):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", str(value).strip())
        if match is None or (match[1] and float(match[1]) > 100):
            self.fail(f"expected a number of rows like 10 or a share like 2%, got {value!r}", param, ctx)
        return MostFailed(None, float(match[1])) if match[1] else MostFailed(int(match[2]), None)


class KeyValue(click.ParamType[tuple[str, str]]):
    """``KEY=VALUE``."""

    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return both parts."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        return key, text


timeout_option = click.option(
    "--timeout", metavar="D", type=Duration(), help="Give up waiting after this long; the job goes on."
)
"""Of commands that wait for a job."""


def max_failed_option(text: str) -> Callable[[F], F]:
    """Return the option that says how many rows of a job may fail; its help is the text."""
    return click.option("--max-failed", metavar="N|P%", type=MaxFailed(), default="0", show_default=True, help=text)
