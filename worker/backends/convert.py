"""A checkpoint as an OpenVINO model, made once per version and kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import uuid
import warnings
from contextlib import suppress
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from scorequeue.errors import ConversionError, VerificationError
from scorequeue.logs import fields

# OpenVINO reports every import and conversion to its makers over the network, but not where this import fails.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as openvino  # noqa: E402  # others take it from here

log = logging.getLogger(__name__)

CHECKED_TOKENS, CHECKED_TOLERANCE = 320, 1e-3
"""A converted model is tried on a row of so many tokens, more than any attention window in use, beside a short one; its
float32 scores may differ so much from torch's."""

KEPT = 4
"""Converted models that stay on disk: 90 MB each for MiniLM, and a refresh may bring one a day."""

_MODEL_FILE = "model.xml"


def converted(folder: Path, cache_dir: Path, *, max_length: int) -> Any:
    """Return a checkpoint as a float32 OpenVINO model: the one that is kept, else converted now and kept.

    Safe beside other processes: a model is written aside and renamed. A cache that is full, or that cannot be read or
    written, costs the next start a conversion, and nothing else.

    Args:
        folder: A transformers folder with safetensors weights.
        cache_dir: Where converted models are kept; made if need be.
        max_length: Most tokens that the model reads: no longer row is tried.

    Raises:
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
        ConversionError: OpenVINO does not know the architecture, computes other scores, or has no memory for it.
    """
    kept = cache_dir / "openvino" / fingerprint(folder)
    if _is_whole(kept):
        with suppress(OSError):
            os.utime(kept)  # most recently used
        return openvino.Core().read_model(str(kept / _MODEL_FILE))
    try:
        model = _traced(folder, max_length)
    except (ConversionError, VerificationError):
        raise
    except Exception as error:
        raise ConversionError(f"{folder} cannot be converted for OpenVINO: {last_line(error)}") from error
    try:
        _keep(model, kept)
    except (OSError, RuntimeError) as error:  # OpenVINO raises the latter when the disk is full
        log.warning("converted models cannot be kept", extra=fields("cache_unwritable", error=last_line(error)))
    return model


def fingerprint(folder: Path) -> str:
    """Name what a conversion depends on: the checkpoint's content and the versions of those who convert it."""
    content = hashlib.sha256()
    manifest = folder / "manifest.json"  # it holds the sha256 of every other file
    for file in [manifest] if manifest.exists() else [folder / "config.json", folder / "model.safetensors"]:
        content.update(file.read_bytes())
    for maker in ("openvino", "torch", "transformers"):
        content.update(f"{maker} {version_of(maker)}".encode())
    return content.hexdigest()[:32]


def _keep(model: Any, kept: Path) -> None:
    """Put a model where the next start finds it, in place of a damaged one, and forget old ones."""
    home = kept.parent
    made = home / f".making-{uuid.uuid4().hex}"
    made.mkdir(parents=True)  # not mkdtemp, which closes it to everyone else who shares the cache
    try:
        # Left to itself, save_model halves the weights to float16.
        openvino.save_model(model, made / _MODEL_FILE, compress_to_fp16=False)
        (made / "sha256").write_text(_digest(made))
        if not _is_whole(kept):  # else another process was faster, and its model is as good
            shutil.rmtree(kept, ignore_errors=True)
            made.rename(kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    with suppress(OSError):  # another worker removed one just now
        for old in sorted(home.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _is_whole(kept: Path) -> bool:
    """Whether a model is there, and as it was written."""
    try:
        return (kept / "sha256").read_text() == _digest(kept)
    except (OSError, UnicodeDecodeError):
        return False


def _digest(folder: Path) -> str:
    digests = []
    for name in (_MODEL_FILE, "model.bin"):
        with (folder / name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


def _traced(folder: Path, max_length: int) -> Any:
    """Convert a checkpoint, and compare its scores with torch's. torch and transformers are loaded for it alone."""
    import torch

    from worker.backends.torch import load_classifier

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
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
