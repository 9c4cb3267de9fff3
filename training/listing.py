"""The versions of a registry at a glance: what each is, and how it went with it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from scorequeue.errors import VerificationError
from scorequeue.manifest import HistoryEntry, Manifest
from scorequeue.registry import Registry


class Listed(NamedTuple):
    """A version in a list.

    Attributes:
        version: Its name.
        is_current: Whether new jobs get it.
        is_previous: Whether `rollback` would bring it back.
        manifest: What it says of itself; None if that cannot be read.
        error: Why it cannot be read.
        last: The last thing that was decided about it; None if nothing was.
    """

    version: str
    is_current: bool
    is_previous: bool
    manifest: Manifest | None
    error: str
    last: HistoryEntry | None

    def went(self) -> str:
        """How it went with it, in a few words."""
        if self.last is None:
            return "not judged"
        return tell_entry(self.last, self.version)


def list_registry(registry: Registry) -> list[Listed]:
    """All versions, oldest first. A manifest that cannot be read makes a line with the reason and hides no other."""
    current, previous, history = registry.pointed(), registry.previous(), registry.history()
    listed = []
    for version in registry.versions():
        manifest, error = None, ""
        try:
            manifest = registry.manifest(version)
        except VerificationError as found:
            error = str(found)
        about = entries_about(version, history)
        listed.append(
            Listed(version, version == current, version == previous, manifest, error, about[-1] if about else None)
        )
    return listed


def entries_about(version: str, history: Iterable[HistoryEntry]) -> list[HistoryEntry]:
    """What was decided about a version: it went live, was refused, came back, or another came back in its place."""
    return [
        entry
        for entry in history
        if entry.to_version == version or (entry.action == "rollback" and entry.from_version == version)
    ]


def tell_entry(entry: HistoryEntry, version: str) -> str:
    """What an entry of the history means for a version."""
    if entry.action == "rollback":
        return "brought back" if entry.to_version == version else "rolled back"
    if entry.action == "refuse":
        return "refused"
    return "forced" if entry.forced else "promoted"


def tell_age(then: datetime, now: datetime) -> str:
    """How long ago something was, in its largest unit."""
    seconds = max(0.0, (now - then).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
