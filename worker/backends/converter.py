"""The process that converts a checkpoint for OpenVINO.

It is one of its own because it needs torch and transformers, which the worker then never loads, it would hold the GIL
for a second while the worker scores, and a checkpoint that crashes it takes nothing along::

    python -m worker.backends.converter FOLDER TARGET MAX_LENGTH

It ends when its standard input does, which its worker holds open: nothing goes on converting for a worker that is dead.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

from scorequeue.errors import ExitCode, VerificationError

MODEL_FILE = "model.xml"

CHECKED_TOKENS = 320
"""Tokens of the row that a converted model is tried on, beside a short one: more than any attention window in use."""

CHECKED_TOLERANCE = 1e-3
"""Largest difference of its float32 scores from torch's."""

NO_MEMORY = 71
NOT_WRITTEN = 74
"""Exit statuses beside those of commands; those of sysexits.h for the system and for input and output."""


def main(folder: Path, target: Path, max_length: int) -> int:
    """Convert a checkpoint into model.xml and model.bin in the target folder; returns the exit status of the process.

    What went wrong is the last line on stderr.
    """
    try:
        return _convert(folder, target, max_length)
    except (MemoryError, RuntimeError, VerificationError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MemoryError) or "DefaultCPUAllocator" in str(cause):  # OpenVINO's and Python's, torch's
            print(str(cause) or type(cause).__name__, file=sys.stderr)
            return NO_MEMORY
        if isinstance(error, VerificationError):
            print(error, file=sys.stderr)
            return ExitCode.NO_SUCH_VERSION
        raise


def _convert(folder: Path, target: Path, max_length: int) -> int:
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

    # In OpenVINO, SDPA is NaN where a token sees no other (ModernBERT's windows over padding), and no faster.
    model = load_classifier(folder, dtype=torch.float32, attention="eager").eval()
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
    try:
        # Left to itself, save_model halves the weights to float16.
        openvino.save_model(graph, target / MODEL_FILE, compress_to_fp16=False)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return NOT_WRITTEN
    return ExitCode.DONE


def _end_with_parent(target: Path) -> None:
    """Wait for the end of standard input, leave nothing half made, and end this process."""
    while os.read(0, 1024):
        pass
    shutil.rmtree(target, ignore_errors=True)
    os._exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    _target = Path(sys.argv[2])
    threading.Thread(target=_end_with_parent, args=(_target,), name="parent", daemon=True).start()
    sys.exit(main(Path(sys.argv[1]), _target, int(sys.argv[3])))
