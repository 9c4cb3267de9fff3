"""A checkpoint as an OpenVINO model, made once per version and kept on disk.

Converting happens in a process of its own: it needs torch and transformers, which the worker then never loads, it
would hold the GIL for a second while the worker scores, and a checkpoint that crashes it takes nothing along::

    python -m worker.backends.convert FOLDER TARGET MAX_LENGTH
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version as version_of
from pathlib import Path

from scorequeue.errors import ConversionError, ExitCode, VerificationError
from scorequeue.logs import fields

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when what is written changes: models converted before are then not found."""

KEPT = 4
"""Converted models that stay on disk: 90 MB each for MiniLM, and a refresh may bring one a day."""

NICENESS = 10
"""Converting gives way to scoring."""

CHECKED_TOKENS = 320
"""Tokens of the row that a converted model is tried on, beside a short one: more than any attention window in use."""

CHECKED_TOLERANCE = 1e-3
"""Largest difference of its float32 scores from torch's."""

MODEL_FILE = "model.xml"


def converted(folder: Path, cache_dir: Path, *, max_length: int) -> Path:
    """Return the converted model of a checkpoint folder, made now if there is none yet.

    Safe beside other processes: a model is written aside and renamed. A cache that cannot be written costs the next
    start a conversion, and nothing else.

    Args:
        folder: A transformers folder with safetensors weights.
        cache_dir: Where converted models are kept; made if need be.
        max_length: Most tokens that the model reads: no longer row is tried.

    Returns:
        A folder with model.xml and model.bin, float32.

    Raises:
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
        ConversionError: OpenVINO does not know the architecture, or computes other scores.
    """
    home = cache_dir / "openvino"
    kept = home / fingerprint(folder)
    if _is_whole(kept):
        with suppress(OSError):
            os.utime(kept)  # most recently used
        return kept
    try:
        home.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
    except OSError as error:
        log.warning("converted models cannot be kept", extra=fields("cache_unwritable", error=str(error)))
        made = Path(tempfile.mkdtemp(prefix="scorequeue-openvino-"))
        _convert_apart(folder, made, max_length)
        return made
    try:
        _convert_apart(folder, made, max_length)
        (made / "sha256").write_text(_digest(made))
        shutil.rmtree(kept, ignore_errors=True)  # damaged, or it would have been taken
        with suppress(OSError):  # another process was faster, and its model is as good
            made.rename(kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _forget_old(home)
    return kept


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


def _is_whole(kept: Path) -> bool:
    try:
        return (kept / "sha256").read_text() == _digest(kept)
    except OSError:
        return False


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (MODEL_FILE, "model.bin"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _forget_old(home: Path) -> None:
    kept = sorted(home.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in kept[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _convert_apart(folder: Path, target: Path, max_length: int) -> None:
    arguments = [str(folder.absolute()), str(target.absolute()), str(max_length)]
    command = [sys.executable, "-m", "worker.backends.convert", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == ExitCode.NO_SUCH_VERSION:
        raise VerificationError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ConversionError(f"{folder} cannot be converted for OpenVINO: {said[-1]}")


def main(folder: Path, target: Path, max_length: int) -> int:
    """Convert, in a process of its own; returns its exit status."""
    os.nice(NICENESS)
    import torch

    from worker.backends.checkpoint import load_classifier
    from worker.backends.quiet_openvino import openvino

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

    try:
        # In OpenVINO, SDPA is NaN where a token sees no other (ModernBERT's windows over padding), and no faster.
        model = load_classifier(folder, dtype=torch.float32, attention="eager").eval()
    except VerificationError as error:
        print(error, file=sys.stderr)
        return ExitCode.NO_SUCH_VERSION
    pad_id = int(model.config.pad_token_id or 0)
    with torch.no_grad():
        graph = openvino.convert_model(Classifier(model), example_input=example(8))
        checked = example(min(CHECKED_TOKENS, max_length))
        wanted = Classifier(model)(**checked).numpy()
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    scores = compiled({name: tensor.numpy() for name, tensor in checked.items()})[0]
    if not abs(scores - wanted).max() <= CHECKED_TOLERANCE:
        print(f"its scores {scores.tolist()} should be {wanted.tolist()} as in torch", file=sys.stderr)
        return ExitCode.UNEXPECTED
    # Left to itself, save_model halves the weights to float16.
    openvino.save_model(graph, target / MODEL_FILE, compress_to_fp16=False)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
