"""A classifier as a plain transformers folder, and what its manifest says of its making: commit and packages."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import scorequeue
from training.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
"""What every version is written with, beside ourselves."""

LENGTH_SETTINGS = ("max_length", "pad_to_multiple_of", "stride", "truncation", "truncation_strategy", "padding")
"""Keys of tokenizer_config.json that repeat a padding or truncation which tokenizer.json no longer has."""


def write_folder(
    folder: Path,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    max_length: int,
) -> None:
    """Save config.json, model.safetensors, tokenizer.json and tokenizer_config.json.

    The weights are float32. tokenizer.json neither pads nor cuts: MiniLM's own pads every row to 128 tokens, and those
    who read it (worker, fit) set both themselves.

    Args:
        folder: An empty or new folder.
        model: A sequence classifier.
        tokenizer: A fast tokenizer.
        labels: Label names in output order.
        max_length: Most tokens of a text that it was fitted for; pipelines cut at it when asked to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    tokenizer.model_max_length = max_length
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    with quiet_libraries():
        model.to(device="cpu", dtype=torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    # transformers leaves out what equals its defaults, two outputs named LABEL_0 and LABEL_1 among them.
    config_file = folder / "config.json"
    label_map = {"id2label": model.config.id2label, "label2id": model.config.label2id}
    _write_json(config_file, json.loads(config_file.read_text("utf-8")) | label_map)
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text("utf-8"))
    _write_json(settings_file, {name: value for name, value in settings.items() if name not in LENGTH_SETTINGS})


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def read_packages(*others: str) -> dict[str, str]:
    """Versions of the packages that a version is written with, and of these others."""
    packages = {name: importlib.metadata.version(name) for name in (*PACKAGES, *others)}
    return {"scorequeue": scorequeue.__version__} | packages  # a source tree that is not installed has no metadata


def read_git_commit() -> str | None:
    """The commit that this code runs from; None where it was installed from a wheel."""
    source = Path(__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
