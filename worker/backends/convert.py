"""A checkpoint as an OpenVINO model, made once per version and kept on disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version as version_of
from pathlib import Path

from scorequeue.errors import ConversionError, ConversionStoppedError, ExitCode, VerificationError
from scorequeue.logs import fields
from worker.backends.converter import MODEL_FILE, NO_MEMORY, NOT_WRITTEN
from worker.children import run_beside

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when what is written changes: models converted before are then not found."""

KEPT = 4
"""Converted models that stay on disk: 90 MB each for MiniLM, and a refresh may bring one a day."""

MAKING = ".making-"
"""Prefix of folders in which a model is being made."""

ABANDONED_S = 3600
"""Age at which such a folder is nobody's any more: a conversion takes seconds, of a very large model minutes."""


@contextmanager
def converted(folder: Path, cache_dir: Path, *, max_length: int) -> Iterator[Path]:
    """Lend a folder with the converted model of a checkpoint, made now if none is kept that can be used.

    Safe beside other processes: a model is written aside and renamed, and one that is whole is never taken away while
    it is among the last ``KEPT`` used. A cache that is full, or that cannot be read or written, costs the next start a
    conversion, and nothing else: the model is then made in a temporary folder, which goes when the block ends. A model
    that OpenVINO has compiled no longer needs it.

    Args:
        folder: A transformers folder with safetensors weights.
        cache_dir: Where converted models are kept; made if need be.
        max_length: Most tokens that the model reads: no longer row is tried.

    Yields:
        A folder with model.xml and model.bin, float32.

    Raises:
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
        ConversionError: OpenVINO does not know the architecture, or computes other scores.
        ConversionStoppedError: There is no room for the model anywhere, no memory, or the converter was killed.
        StoppingError: The worker was told to stop meanwhile.
    """
    home = cache_dir / "openvino"
    kept = home / fingerprint(folder)
    _forget_abandoned(home)
    with ExitStack() as leaving:
        if _is_usable(kept):
            with suppress(OSError):
                os.utime(kept)  # most recently used
            yield kept
        else:
            yield _make(folder, kept, leaving, max_length=max_length)


def fingerprint(folder: Path) -> str:
    """Name what a conversion depends on: the checkpoint's content and the versions of those who convert it."""
    content = hashlib.sha256()
    manifest = folder / "manifest.json"  # it holds the sha256 of every other file
    for file in [manifest] if manifest.exists() else [folder / "config.json", folder / "model.safetensors"]:
        content.update(file.read_bytes())
    for made_by in (
        f"format {FORMAT}",
        *(f"{name} {version_of(name)}" for name in ("openvino", "torch", "transformers")),
    ):
        content.update(made_by.encode())
    return content.hexdigest()[:32]


def _make(folder: Path, kept: Path, leaving: ExitStack, *, max_length: int) -> Path:
    """Convert; returns the folder to load from. What is not kept goes when ``leaving`` ends."""
    home = kept.parent
    made = home / f"{MAKING}{uuid.uuid4().hex}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        made.mkdir()  # not mkdtemp, which closes it to everyone else who shares the cache
        leaving.callback(shutil.rmtree, made, ignore_errors=True)
        _convert(folder, made, max_length)
        (made / "sha256").write_text(_digest(made))
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)  # its room may be that of the temporary folder
        log.warning("converted models cannot be kept", extra=fields("cache_unwritable", error=str(error)))
    else:
        ready = _keep(made, kept)
        _forget_old(home)
        return ready
    try:
        aside = tempfile.TemporaryDirectory(prefix="scorequeue-openvino-", ignore_cleanup_errors=True)
        made = Path(leaving.enter_context(aside))
        _convert(folder, made, max_length)
    except OSError as error:
        raise ConversionStoppedError(
            f"OpenVINO's copy of {folder} can be written neither to {home} nor to {tempfile.gettempdir()} ({error}); "
            "make room in one of them and start the worker again"
        ) from error
    return made


def _keep(made: Path, kept: Path) -> Path:
    """Put a model where the next start finds it; returns the folder to load it from.

    What is kept there may be another process's that was faster, and is as good; only a damaged one makes way.
    """
    with suppress(OSError):
        made.rename(kept)  # fails if there is one
        return kept
    try:
        with _one_at_a_time(kept.parent):
            if _is_whole(kept):
                return kept
            damaged = made.with_name(f"{made.name}-damaged")
            kept.rename(damaged)
            made.rename(kept)
            shutil.rmtree(damaged, ignore_errors=True)
            return kept
    except OSError as error:  # another user's, mostly
        facts = fields("cache_unwritable", error=str(error))
        log.warning("the converted model that is kept can be neither read nor replaced", extra=facts)
        return made


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Keep others from replacing a model: between their look and their rename it may have become a whole one."""
    lock = os.open(home, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS locks no folders: there, only the look just before guards it
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_usable(kept: Path) -> bool:
    try:
        return _is_whole(kept)
    except OSError:
        return False


def _is_whole(kept: Path) -> bool:
    """Whether a model is there, as it was written.

    Raises:
        OSError: It cannot be read, which says nothing about it.
    """
    try:
        return (kept / "sha256").read_bytes() == _digest(kept).encode()
    except (FileNotFoundError, NotADirectoryError):
        return False


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (MODEL_FILE, "model.bin"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _forget_old(home: Path) -> None:
    kept = sorted(home.glob("[0-9a-f]*"), key=_changed_at, reverse=True)
    for old in kept[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _forget_abandoned(home: Path) -> None:
    """Remove what killed workers left half made."""
    for left in home.glob(f"{MAKING}*"):
        if time.time() - _changed_at(left) > ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another worker removed it just now
        return time.time()


def _convert(folder: Path, target: Path, max_length: int) -> None:
    """Convert where there is room.

    Raises:
        OSError: There is none.
    """
    needed = sum(file.stat().st_size for file in folder.glob("*.safetensors"))  # at least: some are float16
    free = shutil.disk_usage(target).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free", str(target))
    _convert_apart(folder, target, max_length)


def _convert_apart(folder: Path, target: Path, max_length: int) -> None:
    arguments = [str(folder.absolute()), str(target.absolute()), str(max_length)]
    command = [sys.executable, "-m", "worker.backends.converter", *arguments]
    theirs, ours = os.pipe()  # ours is closed when this process ends, however it ends, and the converter ends then
    try:
        done = run_beside(command, stdin=theirs)
    except OSError as error:
        raise ConversionStoppedError(f"converting {folder} for OpenVINO cannot begin: {error}; start again") from error
    finally:
        os.close(theirs)
        os.close(ours)
    said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if done.returncode < 0:
        raise ConversionStoppedError(
            f"converting {folder} for OpenVINO should end by itself, but signal {-done.returncode} "
            f"({signal.strsignal(-done.returncode)}) ended it; where memory is short, give the worker more (the "
            "converter takes some 700 MB for a small model), and start it again"
        )
    if done.returncode == NO_MEMORY:
        raise ConversionStoppedError(
            f"there is not enough memory to convert {folder} for OpenVINO ({said}); give the worker more and start it "
            "again"
        )
    if done.returncode == NOT_WRITTEN:
        raise OSError(errno.EIO, f"OpenVINO could not write the model ({said})", str(target))
    if done.returncode == ExitCode.NO_SUCH_VERSION:
        raise VerificationError(said)
    if done.returncode:
        raise ConversionError(f"{folder} cannot be converted for OpenVINO: {said}")
