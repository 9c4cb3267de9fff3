"""Whether a version is what its manifest says: what is loaded and served has been checked here."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from scorequeue.errors import VerificationError
from scorequeue.folders import check_contents, hash_file, list_files
from scorequeue.manifest import MANIFEST_FORMAT, MANIFEST_NAME, Manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a version's folder, without looking at its other files.

    Raises:
        VerificationError: The manifest is missing, unreadable, of a newer format or another version's.
    """
    file = folder / MANIFEST_NAME
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
    if manifest.version != folder.name:
        raise VerificationError(
            f"{file} describes version {manifest.version}, not {folder.name}; publish the checkpoint again"
        )
    return manifest


def verify_folder(folder: Path) -> Manifest:
    """Check every file of a version's folder against its manifest.

    Raises:
        VerificationError: A file is missing, altered, unlisted or not safetensors; the message names it.
    """
    manifest = read_manifest(folder)
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
