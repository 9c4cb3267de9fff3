"""How a version comes into the registry: copied aside, hashed and synced, then renamed to its name."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from scorequeue.errors import InternalError
from scorequeue.folders import check_contents, copy_file, hash_file, list_files, sync_folder, write_synced
from scorequeue.manifest import MANIFEST_NAME, REPORT_NAME, Manifest, ManifestDraft

INCOMING = ".incoming-"
"""Prefix of folders that a publish is at work in, or was killed in."""


def check_room(versions: Path, *, size: int) -> None:
    """See that a version of so many bytes could be written now: hours of training must not end with a no.

    Raises:
        InternalError: There is no room, or the folder cannot be written.
    """
    there = next(folder for folder in (versions, *versions.absolute().parents) if folder.exists())
    probe = there / f"{INCOMING}{secrets.token_hex(8)}"
    try:
        probe.mkdir()
        probe.rmdir()
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise _refusal(versions, "anything", str(error.strerror)) from error
    if free < size:
        raise _refusal(versions, f"{size / 1e6:,.0f} MB", f"{free / 1e6:,.0f} MB are free")


def _refusal(versions: Path, what: str, why: str) -> InternalError:
    return InternalError(
        f"cannot publish {what} to {versions}: {why}; make room (`training prune`) or fix its rights, and run it again"
    )


def write_version(
    versions: Path,
    folder: Path,
    *,
    draft: ManifestDraft,
    created_at: datetime,
    make_name: Callable[[], str],
    report: Callable[[Manifest], str] | None,
) -> str:
    """Copy a transformers folder to a new version; it is whole as soon as its name exists.

    Args:
        versions: Where it goes; made if need be.
        folder: What is copied, and left as it is.
        draft: What the manifest says beside the files' hashes.
        created_at: When that is.
        make_name: Called when the files are copied, which may take a while.
        report: Makes report.html from the manifest as it will be, but for the report's own hash.

    Returns:
        The name.

    Raises:
        VerificationError: The folder holds pickled weights, or lacks a file or the label map.
        InternalError: It cannot be written, for instance because the disk is full.
    """
    made_here = {MANIFEST_NAME} if report is None else {MANIFEST_NAME, REPORT_NAME}
    names = [name for name in list_files(folder) if name not in made_here]
    check_contents(folder, names, labels=draft.labels)
    aside = versions / f"{INCOMING}{secrets.token_hex(8)}"
    writing = ""
    try:
        aside.mkdir(parents=True)
        files = {}
        for name in names:
            writing = name
            files[name] = copy_file(folder / name, aside / name)
        writing = MANIFEST_NAME
        version = make_name()
        manifest = Manifest(
            **draft.model_dump(exclude={"format", "version", "created_at", "files"}),
            version=version,
            created_at=created_at,
            files=files,
        )
        if report is not None:
            write_synced(aside / REPORT_NAME, report(manifest))
            files = files | {REPORT_NAME: hash_file(aside / REPORT_NAME)}
            manifest = manifest.model_copy(update={"files": files})
        write_synced(aside / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
        for inner in {aside, *((aside / name).parent for name in names)}:
            sync_folder(inner)
        aside.rename(versions / version)
        sync_folder(versions)
    except OSError as error:
        raise _refusal(versions, writing or "anything", str(error.strerror)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return version
