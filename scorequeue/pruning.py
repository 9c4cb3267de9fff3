"""Taking old versions away: never one that is in use, and never half of one.

A version goes by a rename to a hidden name, at which it is gone for everybody, and is deleted after that. A prune that
is killed in between leaves a hidden folder, which the next one deletes.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scorequeue.incoming import INCOMING
from scorequeue.registry import Registry

ABANDONED_S = 86_400.0
"""A publish that has written nothing for a day was killed."""

PRUNED = ".pruned-"
"""Prefix of folders that a prune is about to delete."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did, or would do.

    Attributes:
        removed: Versions that are gone, oldest first.
        spared: Versions that are older than the newest ones that were to be kept, and why they stay.
        leftovers: Hidden folders of killed prunes and publishes that were deleted.
        undeleted: Hidden folders that could not be deleted whole: somebody has a file open. The next prune tries again.
    """

    removed: tuple[str, ...]
    spared: Mapping[str, str]
    leftovers: tuple[str, ...] = ()
    undeleted: tuple[str, ...] = ()


def prune(
    registry: Registry, *, keep: int, find_in_use: Callable[[], Mapping[str, str]], is_dry_run: bool = False
) -> Pruned:
    """Remove all but the newest versions.

    Args:
        registry: Whose.
        keep: How many of the newest ones stay, at least one.
        find_in_use: Says which versions stay whatever their age, and why: jobs are pinned to them, workers have them.
            Asked when nothing but the removal is left to do: waiting for another program takes long enough for a job
            to be pinned.
        is_dry_run: Remove nothing.

    Raises:
        MarkHeldError: Another program has been changing the registry for too long.
        InternalError: The registry cannot be written.
    """
    if keep < 1:
        raise ValueError(f"expected to keep at least 1 version, got {keep}")
    if is_dry_run or not registry.versions():
        return _plan(registry, keep=keep, in_use=find_in_use())
    folder = registry.root / "versions"
    with registry.changing() as mark:
        plan = _plan(registry, keep=keep, in_use=find_in_use())
        removed = []
        for version in plan.removed:
            if not mark.is_held():
                break  # another program has been let in; what is removed is removed
            (folder / version).rename(folder / f"{PRUNED}{version}-{secrets.token_hex(4)}")
            removed.append(version)
        leftovers = _find_leftovers(folder)
    # Deleting takes a while, and nobody has to wait for it.
    for name in leftovers:
        shutil.rmtree(folder / name, ignore_errors=True)
    return Pruned(
        removed=tuple(removed),
        spared=plan.spared,
        leftovers=tuple(name for name in leftovers if not any(version in name for version in removed)),
        undeleted=tuple(name for name in leftovers if (folder / name).exists()),
    )


def _plan(registry: Registry, *, keep: int, in_use: Mapping[str, str]) -> Pruned:
    reasons = dict(in_use)
    if (previous := registry.previous()) is not None:
        reasons[previous] = "rollback would bring it back"
    if (current := registry.current()) is not None:
        reasons[current] = "it is current"
    old = registry.versions()[:-keep]
    return Pruned(
        removed=tuple(version for version in old if version not in reasons),
        spared={version: reasons[version] for version in old if version in reasons},
    )


def _find_leftovers(folder: Path) -> list[str]:
    """Hidden folders that nobody works in any more, by the file server's clock."""
    probe = folder / f".probe-{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        now_s = probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    found = []
    for entry in os.scandir(folder):
        try:
            is_abandoned = entry.name.startswith(INCOMING) and now_s - _touched_at(Path(entry.path)) > ABANDONED_S
        except FileNotFoundError:
            continue  # it was just published
        if entry.name.startswith(PRUNED) or is_abandoned:
            found.append(entry.name)
    return sorted(found)


def _touched_at(folder: Path) -> float:
    """When anything in a folder was last written."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
