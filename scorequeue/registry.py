"""Checkpoint versions on disk: published once, verified before use, one of them ``current``.

What can happen to a version, in order::

    publish:  copied aside into a hidden folder -> hashed, synced -> renamed into place (immutable from here)
    verify:   every file is there, hashes as the manifest says, and nothing else is there
    promote:  compare-and-swap of ``current`` (atomic rename), noted in history.jsonl
    rollback: the same, to what was current before
    prune:    renamed aside (gone for everybody), then deleted (pruning.py)

Readers need only ordinary reads: a version folder is complete as soon as its name exists, and ``current`` is always
whole. Hosts may share the root (NFS): nothing here assumes flock, only atomic rename and exclusive creation. Whoever
changes ``current`` or takes a version away holds one mark (marks.py) meanwhile.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scorequeue.errors import GateRefusedError, InternalError, MarkHeldError, VerificationError, VersionNotFoundError
from scorequeue.folders import sync_folder, write_synced
from scorequeue.history import append_history, read_history, way_back
from scorequeue.incoming import check_room, write_version
from scorequeue.logs import fields
from scorequeue.manifest import GoldenSentence, HistoryEntry, Manifest, ManifestDraft
from scorequeue.marks import Mark
from scorequeue.verification import read_manifest, verify_folder

__all__ = ["GoldenSentence", "HistoryEntry", "Manifest", "ManifestDraft", "Registry"]

log = logging.getLogger(__name__)

VERSION_PATTERN = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
STAMP_FORMAT = "%Y%m%dT%H%M%S"

MARK_STALE_S = 20.0
"""A mark not touched for so long was left by a process that died; holders touch it four times as often."""

STALE_READS = 3
"""How often ``current`` is opened again where a file server says that it was just replaced by another host."""

MARK_WAIT_S = 30.0
"""How long a change waits for another one, which takes well under a second: long enough to outlast a dead holder."""


class Registry:
    """The versions below one root folder.

    Args:
        root: The registry folder; made by the first publish.
        now: The clock, for version names and history.
    """

    def __init__(self, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.root = Path(root)
        self._versions = self.root / "versions"
        self._current = self.root / "current"
        self._history = self.root / "history.jsonl"
        self._now = now

    def versions(self) -> list[str]:
        """Names of all published versions, oldest first."""
        try:
            names = [entry.name for entry in os.scandir(self._versions) if entry.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if VERSION_PATTERN.fullmatch(name))

    def current(self) -> str | None:
        """The version that new jobs get; None while nothing was promoted.

        Raises:
            VerificationError: The pointer holds something that is not a version name.
        """
        try:
            name = self._read_pointer()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            name = "binary data"
        if not VERSION_PATTERN.fullmatch(name):
            raise VerificationError(
                f"{self._current} should hold one version name but holds {name[:40]!r}; `training rollback` mends it"
            )
        return name

    def pointed(self) -> str | None:
        """What ``current`` names if it names a version; None also where it is damaged, so that it can be mended."""
        try:
            return self.current()
        except VerificationError:
            return None

    def loss(self) -> str:
        """What is wrong where ``current`` is damaged, or gone though there was one; empty where nothing is wrong.

        Whoever judges asks: a challenger of what cannot be read has beaten nothing.
        """
        try:
            is_there = self.current() is not None
        except VerificationError as error:
            return str(error)
        if is_there or not (before := way_back(self.history(), None)):
            return ""
        return (
            f"{self._current} is gone, which named {before[0]}: `training rollback` brings that back, "
            "`training promote VERSION --force --why ...` puts another one live"
        )

    def resolve(self, version: str | None) -> str:
        """The name of a version that exists; None stands for ``current``.

        Raises:
            VersionNotFoundError: There is no such version, or nothing is current.
        """
        if version is None:
            version = self.current()
            if version is None:
                raise VersionNotFoundError(
                    self.loss()
                    or f"registry {self.root} has no current version; run `training fit` or name another --registry"
                )
        self.path(version)
        return version

    def path(self, version: str) -> Path:
        """The version's folder, which loads as is in transformers.

        Raises:
            VersionNotFoundError: There is no such version, or the name is not one that this registry gives.
        """
        folder = self._versions / version
        # The pattern comes first: a name such as ``../../etc`` must never reach the file system.
        if not VERSION_PATTERN.fullmatch(version) or not folder.is_dir():
            newest = self.versions()[-1:]
            hint = (
                f"the newest is {newest[0]}; see `training list`"
                if newest
                else "it is empty; make one with `training fit`"
            )
            raise VersionNotFoundError(f"no version {version[:60]!r} in registry {self.root}: {hint}")
        return folder

    def manifest(self, version: str) -> Manifest:
        """Read a version's manifest, without looking at its files.

        Raises:
            VersionNotFoundError: There is no such version.
            VerificationError: The manifest is missing, unreadable, of a newer format or another version's.
        """
        return read_manifest(self.path(version))

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its manifest.

        Raises:
            VersionNotFoundError: There is no such version.
            VerificationError: A file is missing, altered, unlisted or not safetensors; the message names it.
        """
        return verify_folder(self.path(version))

    def publish(self, folder: Path, *, draft: ManifestDraft, report: Callable[[Manifest], str] | None = None) -> str:
        """Copy a transformers folder into the registry as a new version.

        The first version, or the first after which nothing is current yet, becomes ``current`` without a gate; not
        one that finds ``current`` gone.

        Args:
            folder: config.json, model.safetensors, tokenizer.json and what else belongs to them. Left as it is.
            draft: What the manifest says beside the files' hashes.
            report: Makes report.html from the manifest as it will be, but for the report's own hash.

        Returns:
            The new version's name.

        Raises:
            VerificationError: The folder holds pickled weights, or lacks a file or the label map.
            InternalError: The registry cannot be written, for instance because the disk is full.
        """
        created_at = self._now()
        version = write_version(
            self._versions,
            Path(folder),
            draft=draft,
            created_at=created_at,
            make_name=lambda: self._next_name(created_at),
            report=report,
        )
        if not self._current.exists():
            # Another trainer's first version may be faster; this one is published all the same.
            try:
                with self.changing():  # nobody is between a line of the history and the rename
                    loss = self.loss()
                if loss:
                    log.warning(f"{version} is published, not current: {loss}", extra=fields("current_lost"))
                else:
                    self.promote(version, expected=None, why="first version")
            except MarkHeldError as error:
                raise MarkHeldError(f"{version} is published but not current: {error}") from error
            except GateRefusedError:
                pass
        return version

    def promote(
        self,
        version: str,
        *,
        expected: str | None,
        why: str,
        forced: bool = False,
        numbers: dict[str, Any] | None = None,
    ) -> None:
        """Point ``current`` at a verified version, if it still points where the caller saw it point.

        Args:
            version: The new current version.
            expected: What `pointed` was when the caller judged; None for nothing.
            why: The reason, for the history.
            forced: Whether a gate's verdict was overruled.
            numbers: What the verdict was based on, for the history.

        Raises:
            VersionNotFoundError: There is no such version.
            VerificationError: The version does not match its manifest.
            GateRefusedError: ``current`` has changed since.
            MarkHeldError: Another program has been changing the registry for too long.
            InternalError: The registry cannot be written.
        """
        self.verify(version)
        self._move(
            HistoryEntry(
                at=self._now(), from_version=expected, to_version=version, why=why, numbers=numbers or {}, forced=forced
            )
        )

    def rollback(self, *, why: str) -> str:
        """Point ``current`` at what it was before (where it is damaged: at what it was last), and say what that is.

        Raises:
            VersionNotFoundError: Nothing was current before, or all of it was pruned.
            VerificationError: What was current before does not match its manifest.
            GateRefusedError: ``current`` changed meanwhile.
            MarkHeldError: Another program has been changing the registry for too long.
            InternalError: The registry cannot be written.
        """
        present, target = self.pointed(), self.previous()
        if target is None:
            raise VersionNotFoundError(
                f"nothing to go back to: {self._history} names no version before {present} that is still there; "
                "see `training list`, and `training promote VERSION`"
            )
        self.verify(target)
        self._move(HistoryEntry(at=self._now(), action="rollback", from_version=present, to_version=target, why=why))
        return target

    def refuse(self, version: str, *, expected: str | None, why: str, numbers: dict[str, Any]) -> None:
        """Note in the history that the gate said no to a version; ``current`` stays.

        Raises:
            MarkHeldError: Another program has been changing the registry for too long.
            InternalError: The registry cannot be written.
        """
        entry = HistoryEntry(
            at=self._now(), action="refuse", from_version=expected, to_version=version, why=why, numbers=numbers
        )
        with self.changing():
            append_history(self._history, entry)

    def check_room(self, size: int) -> None:
        """See that a version of so many bytes could be published now.

        Raises:
            InternalError: There is no room, or the registry cannot be written.
        """
        check_room(self._versions, size=size)

    def previous(self) -> str | None:
        """The version that `rollback` brings back; None where there is none."""
        present, there = self.pointed(), set(self.versions())
        back = way_back(self.history(), present)
        return next((version for version in back if version in there and version != present), None)

    def history(self) -> list[HistoryEntry]:
        """Every decision about ``current``, oldest first; a line torn by a crash is left out."""
        return read_history(self._history)

    @contextmanager
    def changing(self) -> Iterator[Mark]:
        """Be the only one that changes ``current``, the history, or which versions there are to lose.

        Raises:
            MarkHeldError: Another program has been at it for too long.
            InternalError: The registry cannot be written.
        """
        try:
            with Mark(self.root / ".promoting", stale_s=MARK_STALE_S, wait_s=MARK_WAIT_S, now=self._now) as mark:
                yield mark
        except OSError as error:
            raise InternalError(
                f"cannot write to registry {self.root}: {error.strerror}; make room (`training prune`) or fix its "
                "rights, and run it again"
            ) from error

    def _move(self, entry: HistoryEntry) -> None:
        version = entry.to_version
        with self.changing() as mark:
            found = self.pointed()
            if found != entry.from_version:
                raise GateRefusedError(
                    f"current is {found}, not {entry.from_version} as it was when {version} was judged; judge it again"
                )
            self.path(version)  # it was verified before; meanwhile a prune may have taken it away
            aside = self.root / f".current-{secrets.token_hex(8)}"
            try:
                # All that needs disk space comes before the rename, and no change of current lacks its line.
                write_synced(aside, version + "\n")
                self._check_held(mark, version)
                append_history(self._history, entry)
                self._check_held(mark, version)  # syncing may take long; if it is lost, the line just written is void
                aside.replace(self._current)
            finally:
                aside.unlink(missing_ok=True)
            sync_folder(self.root)

    def _check_held(self, mark: Mark, version: str) -> None:
        if not mark.is_held():
            raise GateRefusedError(f"another promote took over from this one; judge {version} again")

    def _read_pointer(self) -> str:
        for _ in range(STALE_READS):
            try:
                return self._current.read_text("utf-8").strip()
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return self._current.read_text("utf-8").strip()

    def _next_name(self, created_at: datetime) -> str:
        """A name that sorts after all others, also for two versions of one second or a clock that was set back."""
        stamp = created_at.astimezone(UTC).replace(microsecond=0, tzinfo=None)
        if newest := self.versions()[-1:]:
            stamp = max(stamp, datetime.strptime(newest[0][:15], STAMP_FORMAT) + timedelta(seconds=1))
        return f"{stamp.strftime(STAMP_FORMAT)}-{secrets.token_hex(3)}"
