"""A checkpoint as an OpenVINO model, made once per version and kept on disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from scorequeue.errors import ConversionError, ConversionStoppedError, VerificationError
from scorequeue.logs import fields
from worker.backends.quiet_openvino import openvino

log = logging.getLogger(__name__)

MODEL_FILE = "model.xml"

CHECKED_TOKENS = 320
"""Tokens of the row that a converted model is tried on, beside a short one: more than any attention window in use."""

CHECKED_TOLERANCE = 1e-3
"""Largest difference of its float32 scores from torch's."""

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
        ConversionStoppedError: There is no room for the model anywhere, or no memory.
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
    """Convert where there is room. It takes torch and transformers, which are loaded for it alone.

    Raises:
        OSError: There is no room, or the model could not be written.
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
        ConversionError: OpenVINO does not know the architecture, or computes other scores.
        ConversionStoppedError: There is no memory for it.
    """
    needed = sum(file.stat().st_size for file in folder.glob("*.safetensors"))  # at least: some are float16
    free = shutil.disk_usage(target).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free", str(target))
    try:
        graph = _graph(folder, max_length)
    except (MemoryError, RuntimeError, VerificationError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MemoryError) or "DefaultCPUAllocator" in str(cause):  # OpenVINO's and Python's, torch's
            raise ConversionStoppedError(
                f"there is not enough memory to convert {folder} for OpenVINO ({cause}); give the worker more (some "
                "700 MB for a small model) and start it again"
            ) from error
        if isinstance(error, VerificationError):
            raise
        raise ConversionError(f"{folder} cannot be converted for OpenVINO: {last_line(error)}") from error
    except Exception as error:
        raise ConversionError(f"{folder} cannot be converted for OpenVINO: {last_line(error)}") from error
    try:
        # Left to itself, save_model halves the weights to float16.
        openvino.save_model(graph, target / MODEL_FILE, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(errno.EIO, f"OpenVINO could not write the model ({last_line(error)})", str(target)) from error


def _graph(folder: Path, max_length: int) -> Any:
    """Convert a checkpoint in memory, and compare its scores with torch's."""
    import torch

    from worker.backends.checkpoint import load_classifier

    class Classifier(torch.nn.Module):
        """Probabilities of a padded batch, computed to the end in float32 as the torch backend does."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return torch.softmax(logits.float(), dim=-1)  # (rows, labels)

    def example(width: int) -> dict[str, torch.Tensor]:
        """A full row beside one of two tokens: rows that are alike would leave out steps that others need."""
        mask = torch.ones(2, width, dtype=torch.int64)
        mask[1, 2:] = 0
        return {"input_ids": torch.where(mask == 1, 5, pad_id), "attention_mask": mask}

    # In OpenVINO, SDPA is NaN where a token sees no other (ModernBERT's windows over padding), and no faster.
    model = load_classifier(folder, dtype=torch.float32, attention="eager").eval()
    pad_id = int(model.config.pad_token_id or 0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing says of each constant that it may be none
        graph = openvino.convert_model(Classifier(model), example_input=example(8))
        checked = example(min(CHECKED_TOKENS, max_length))
        wanted = Classifier(model)(**checked).numpy()
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    scores = compiled({name: tensor.numpy() for name, tensor in checked.items()})[0]
    if not abs(scores - wanted).max() <= CHECKED_TOLERANCE:
        raise ConversionError(
            f"{folder} cannot be converted for OpenVINO: its scores {scores.tolist()} should be torch's, "
            f"{wanted.tolist()}"
        )
    return graph


def last_line(error: Exception) -> str:
    """Return the last line of what an error says: OpenVINO's first ones name its own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
