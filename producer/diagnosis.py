"""What the doctor sees and what it says: facts go in, checks come out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from scorequeue.errors import ExitCode
from scorequeue.overview import Overview


class State(StrEnum):
    """What a check found."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What.
        state: Whether it is well; ``unknown`` is no fault: it cannot be told from here, or with this user's rights.
        found: What was found, in a line.
        next: What to do about it; empty where nothing is to be done.
        exit_code: What a command ends with that finds it failed.
    """

    name: str
    state: State
    found: str
    next: str = ""
    exit_code: ExitCode = ExitCode.REDIS

    @classmethod
    def ok(cls, name: str, found: str) -> Check:
        """Return one that found all well."""
        return cls(name, State.OK, found)

    @classmethod
    def warn(cls, name: str, found: str, step: str) -> Check:
        """Return one that found what works, but should be seen to."""
        return cls(name, State.WARN, found, step)

    @classmethod
    def unknown(cls, name: str, found: str, step: str) -> Check:
        """Return one that could not tell."""
        return cls(name, State.UNKNOWN, found, step)

    @classmethod
    def fail(cls, name: str, found: str, step: str, exit_code: ExitCode = ExitCode.REDIS) -> Check:
        """Return one that found what must be mended."""
        return cls(name, State.FAIL, found, step, exit_code)


class RegistryFacts(NamedTuple):
    """What was found of the registry on this host.

    Attributes:
        root: Its folder.
        is_there: Whether there is such a folder.
        current: The version that is current; None where none is.
        files: How many files of it were looked at.
        is_hashed: Whether their checksums were compared too.
        error: What is wrong with the pointer or the version; empty where nothing is.
    """

    root: str
    is_there: bool
    current: str | None = None
    files: int = 0
    is_hashed: bool = False
    error: str = ""


class Facts(NamedTuple):
    """All that the checks see.

    Attributes:
        address: Where Redis is, without its password.
        error: Why it cannot be used; empty where it can.
        overview: How namespace and server stand; None where Redis cannot be used.
        settings: The server's settings that could be read, by their names in redis.conf.
        overdue: Leases that had run out before anybody took them back.
        taken_back: How many of these went back to their lanes just now; None where that cannot be done.
        write_error: Why Redis takes no writes; empty where it does, None where this user may not write.
        registry: The registry.
    """

    address: str
    error: str
    overview: Overview | None
    settings: Mapping[str, str]
    overdue: int
    taken_back: int | None
    write_error: str | None
    registry: RegistryFacts


class Diagnosis(NamedTuple):
    """What the doctor found, in the order of the layers."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state is State.FAIL)

    @property
    def exit_code(self) -> ExitCode:
        """0 when nothing failed, else what the first failed layer stands for."""
        return self.failed[0].exit_code if self.failed else ExitCode.DONE
