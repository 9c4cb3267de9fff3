"""A checkpoint folder as a transformers model: the one way in for those who need torch for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from scorequeue.errors import VerificationError


def load_classifier(folder: Path, *, dtype: torch.dtype, attention: str | None = None) -> Any:
    """Load a sequence classifier on the CPU.

    Args:
        folder: A transformers folder with safetensors weights.
        dtype: Of its weights, whatever the folder was saved in.
        attention: transformers' name of how attention is computed; None takes SDPA wherever the architecture has it.

    Raises:
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
    """
    # A load report and bars on stderr are for people who load by hand; what matters of them is an error here.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=dtype,  # left out, a folder saved in float16 loads as float16
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VerificationError(f"{folder} does not load in transformers: {said}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise VerificationError(f"{folder} lacks weights of the classifier ({missing[0]}, ...): fit or import it again")
    return model
