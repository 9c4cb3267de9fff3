"""A checkpoint's folder: which files may be in it, and copying it so that it survives a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from scorequeue.errors import VerificationError

COPY_BLOCK_BYTES = 1 << 20

# Formats that torch, transformers or PEFT would load instead of model.safetensors, most of them by unpickling.
FOREIGN_WEIGHT_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".gguf", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)


def list_files(folder: Path) -> list[str]:
    """Relative names of a folder's files, sorted; hidden ones (.DS_Store, .nfs0001) belong to the file system."""
    if not folder.is_dir():
        raise VerificationError(f"{folder} is not a folder; expected a transformers checkpoint")
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def check_contents(folder: Path, names: Iterable[str], *, labels: tuple[str, ...]) -> None:
    """Refuse a folder that is not a whole safetensors classifier with these labels.

    Raises:
        VerificationError: With the name of the file at fault.
    """
    names = list(names)
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise VerificationError(f"{folder}: the manifest names {name!r}, which lies outside of the version")
        if path.suffix.lower() in FOREIGN_WEIGHT_SUFFIXES:
            raise VerificationError(
                f"{folder / name} is a weights file that is not safetensors (pickle can run code); convert it"
            )
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise VerificationError(f"{folder / needed} is missing; expected a whole transformers folder")
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        raise VerificationError(f"{folder / 'model.safetensors'} is missing; only safetensors weights are served")
    for name in weights:
        _check_safetensors(folder / name)
    try:
        config = json.loads((folder / "config.json").read_bytes())
        id2label = {int(index): label for index, label in config["id2label"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise VerificationError(
            f"{folder / 'config.json'} has no label map (id2label); save the classifier with one"
        ) from error
    if id2label != dict(enumerate(labels)):
        raise VerificationError(f"{folder / 'config.json'} has the labels {id2label}, the manifest has {list(labels)}")


def _check_safetensors(file: Path) -> None:
    """Check that a safetensors file is as long as its header says (8 bytes of length, JSON, then the tensors)."""
    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            size = os.fstat(stream.fileno()).st_size
            header = json.loads(stream.read(header_bytes)) if 0 < header_bytes <= size - 8 else None
        if header is None:
            raise ValueError("no header")
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + header_bytes + max(ends, default=0) == size
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise VerificationError(f"{file} is not a safetensors file; export the checkpoint again") from error
    if not whole:
        raise VerificationError(f"{file} is cut off or too long for its header; export the checkpoint again")


def copy_file(source: Path, target: Path) -> str:
    """Copy one file with the rights that the umask gives, sync it, and return the sha256 of what was written."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(COPY_BLOCK_BYTES):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def hash_file(file: Path) -> str:
    """The file's sha256 in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_synced(file: Path, text: str) -> None:
    """Write a new text file that is on the disk when this returns."""
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def replace_synced(file: Path, text: str) -> None:
    """Write a text file that is on the disk when this returns; until then the old one stays, also in a power cut."""
    aside = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        write_synced(aside, text)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable; one that cannot be synced, or not be opened to read, is left at that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
