"""Checkpoint versions on disk: published once, verified before use, one of them ``current``.

What can happen to a version, in order::

    publish: copied aside into a hidden folder -> hashed, synced -> renamed into place (immutable from here)
    verify:  every file is there, hashes as the manifest says, and nothing else is there
    promote: compare-and-swap of ``current`` (atomic rename), noted in history.jsonl

Readers need only ordinary reads: a version folder is complete as soon as its name exists, and ``current`` is always
whole. Hosts may share the root (NFS): nothing here assumes flock, only atomic rename and exclusive creation.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scorequeue.errors import GateRefusedError, InternalError, VerificationError, VersionNotFoundError
from scorequeue.folders import check_contents, copy_file, hash_file, list_files, sync_folder, write_synced
from scorequeue.manifest import MANIFEST_FORMAT, MANIFEST_NAME, GoldenSentence, HistoryEntry, Manifest, ManifestDraft

__all__ = ["GoldenSentence", "HistoryEntry", "Manifest", "ManifestDraft", "Registry"]

VERSION_PATTERN = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
STAMP_FORMAT = "%Y%m%dT%H%M%S"

PROMOTE_WAIT_S = 10.0
"""How long a promote waits for another one, which takes well under a second."""

PROMOTE_STALE_S = 60.0
"""A promote mark older than this was left by a process that died."""


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
            name = self._current.read_text("utf-8").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            name = "binary data"
        if not VERSION_PATTERN.fullmatch(name):
            raise VerificationError(
                f"{self._current} should hold one version name but holds {name[:40]!r}; promote a version"
            )
        return name

    def resolve(self, version: str | None) -> str:
        """The name of a version that exists; None stands for ``current``.

        Raises:
            VersionNotFoundError: There is no such version, or nothing is current.
        """
        if version is None:
            version = self.current()
            if version is None:
                raise VersionNotFoundError(
                    f"registry {self.root} has no current version; run `training fit` or name another --registry"
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
        file = self.path(version) / MANIFEST_NAME
        try:
            manifest = Manifest.model_validate_json(file.read_bytes())
        except FileNotFoundError as error:
            raise VerificationError(f"{file} is missing; publish the checkpoint again") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise VerificationError(f"{file} is not a manifest: {where}: {first['msg']}") from error
        if manifest.format > MANIFEST_FORMAT:
            raise VerificationError(
                f"{file} has format {manifest.format}, this program reads up to {MANIFEST_FORMAT}; upgrade it"
            )
        if manifest.version != version:
            raise VerificationError(
                f"{file} describes version {manifest.version}, not {version}; publish the checkpoint again"
            )
        return manifest

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its manifest.

        Raises:
            VersionNotFoundError: There is no such version.
            VerificationError: A file is missing, altered, unlisted or not safetensors; the message names it.
        """
        manifest = self.manifest(version)
        folder = self.path(version)
        present = list_files(folder)
        for name in manifest.files:
            if name not in present:
                raise VerificationError(
                    f"{folder / name} is listed in the manifest but missing; publish the checkpoint again"
                )
        for name in present:
            # An unlisted file can change what is loaded: adapter_config.json or an index beside the weights does.
            if name not in manifest.files and name != MANIFEST_NAME:
                raise VerificationError(f"{folder / name} is not listed in the manifest; remove it")
        check_contents(folder, manifest.files, labels=manifest.labels)
        for name, expected in manifest.files.items():
            if (folder / name).is_symlink():
                raise VerificationError(f"{folder / name} is a link, not a file; publish the checkpoint again")
            if hash_file(folder / name) != expected:
                raise VerificationError(
                    f"{folder / name} does not have the sha256 that its manifest names; publish the checkpoint again"
                )
        return manifest

    def publish(self, folder: Path, *, draft: ManifestDraft) -> str:
        """Copy a transformers folder into the registry as a new version.

        The first version, or the first after which nothing is current yet, becomes ``current`` without a gate.

        Args:
            folder: config.json, model.safetensors, tokenizer.json and what else belongs to them. Left as it is.
            draft: What the manifest says beside the files' hashes.

        Returns:
            The new version's name.

        Raises:
            VerificationError: The folder holds pickled weights, or lacks a file or the label map.
            InternalError: The registry cannot be written, for instance because the disk is full.
        """
        folder = Path(folder)
        names = [name for name in list_files(folder) if name != MANIFEST_NAME]
        check_contents(folder, names, labels=draft.labels)
        created_at = self._now()
        aside = self._versions / f".incoming-{secrets.token_hex(8)}"
        try:
            aside.mkdir(parents=True)
            files = {name: copy_file(folder / name, aside / name) for name in names}
            version = self._next_name(created_at)
            manifest = Manifest(
                **draft.model_dump(exclude={"format", "version", "created_at", "files"}),
                version=version,
                created_at=created_at,
                files=files,
            )
            write_synced(aside / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
            for inner in {aside, *((aside / name).parent for name in names)}:
                sync_folder(inner)
            aside.rename(self._versions / version)
            sync_folder(self._versions)
        except OSError as error:
            raise InternalError(
                f"cannot publish to {self._versions}: {error.strerror}; make room or fix its rights and run it again"
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if self.current() is None:
            # Another trainer's first version may be faster; this one is published all the same.
            with contextlib.suppress(GateRefusedError):
                self.promote(version, expected=None, why="first version")
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
            expected: What ``current`` was when the caller judged; None for nothing.
            why: The reason, for the history.
            forced: Whether a gate's verdict was overruled.
            numbers: What the verdict was based on, for the history.

        Raises:
            VersionNotFoundError: There is no such version.
            VerificationError: The version does not match its manifest.
            GateRefusedError: ``current`` has changed since, or another promote is running.
            InternalError: The registry cannot be written.
        """
        self.verify(version)
        entry = HistoryEntry(
            at=self._now(), from_version=expected, to_version=version, why=why, numbers=numbers or {}, forced=forced
        )
        try:
            with self._promoting() as is_still_ours:
                found = self.current()
                if found != expected:
                    raise GateRefusedError(
                        f"current is {found}, not {expected} as it was when {version} was judged; judge it again"
                    )
                aside = self.root / f".current-{secrets.token_hex(8)}"
                try:
                    # All that needs disk space comes before the rename, and no change of current lacks its line.
                    write_synced(aside, version + "\n")
                    if not is_still_ours():
                        raise GateRefusedError(f"another promote took over from this one; judge {version} again")
                    self._append_history(entry)
                    aside.replace(self._current)
                finally:
                    aside.unlink(missing_ok=True)
                sync_folder(self.root)
        except OSError as error:
            raise InternalError(
                f"cannot write to registry {self.root}: {error.strerror}; make room or fix its rights and run it again"
            ) from error

    def history(self) -> list[HistoryEntry]:
        """Every change of ``current``, oldest first; a line torn by a crash is left out."""
        try:
            lines = self._history.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                entries.append(HistoryEntry.model_validate_json(line))
            except ValidationError:
                continue
        return entries

    def _append_history(self, entry: HistoryEntry) -> None:
        with self._history.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(entry.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _next_name(self, created_at: datetime) -> str:
        """A name that sorts after all others, also for two versions of one second or a clock that was set back."""
        stamp = created_at.astimezone(UTC).replace(microsecond=0, tzinfo=None)
        if newest := self.versions()[-1:]:
            stamp = max(stamp, datetime.strptime(newest[0][:15], STAMP_FORMAT) + timedelta(seconds=1))
        return f"{stamp.strftime(STAMP_FORMAT)}-{secrets.token_hex(3)}"

    @contextmanager
    def _promoting(self) -> Iterator[Callable[[], bool]]:
        """Hold the mark that lets one promote at a time run, and yield a check that it is still held."""
        mark = self.root / ".promoting"
        token = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        until = time.monotonic() + PROMOTE_WAIT_S
        while True:
            try:
                with mark.open("x", encoding="utf-8") as file:
                    file.write(token)
                break
            except FileExistsError:
                pass
            try:
                if time.time() - mark.stat().st_mtime > PROMOTE_STALE_S:
                    # Renaming lets exactly one waiter remove it.
                    mark.rename(self.root / f".stale-{secrets.token_hex(8)}")
                    continue
            except FileNotFoundError:
                continue
            if time.monotonic() > until:
                raise GateRefusedError(f"another promote holds {mark}; try again in a minute")
            time.sleep(0.05)

        def is_still_ours() -> bool:
            try:
                return mark.read_text("utf-8") == token
            except FileNotFoundError:
                return False

        try:
            yield is_still_ours
        finally:
            if is_still_ours():
                mark.unlink(missing_ok=True)
            for stale in self.root.glob(".stale-*"):
                stale.unlink(missing_ok=True)
