"""Score texts with a checkpoint folder, from Python and without a queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, overload

import torch

from scorequeue.errors import InputError
from scorequeue.manifest import MANIFEST_NAME
from training.base_models import read_max_length
from training.cuda import avoid_attention_plans
from training.quiet import quiet_libraries

BATCH_ROWS = {"cpu": 64, "cuda": 256}
"""Rows that go through the model together; sorted by length, so that little of it is padding."""


class Score(TypedDict):
    """A label and its probability."""

    label: str
    score: float


class Predictor:
    """Scores texts in float32, as `transformers.pipeline("text-classification", model=FOLDER)` does.

    Args:
        folder: A version's folder, or any transformers sequence classifier with a tokenizer.json.
        device: Where to compute.

    Raises:
        InputError: The folder holds no classifier.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder} has no config.json; expected a checkpoint folder (`training list` names versions)"
            )
        try:
            with quiet_libraries():
                self._tokenizer = AutoTokenizer.from_pretrained(folder)
                model = AutoModelForSequenceClassification.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True
                )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} cannot be loaded as a classifier: {str(error).partition(chr(10))[0]}"
            ) from error
        avoid_attention_plans()
        self._model = model.to(device).eval()
        self._device = torch.device(device)
        self.labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        self.max_length = _read_manifest_length(folder) or read_max_length(model.config, self._tokenizer)

    @overload
    def predict(self, texts: str) -> list[Score]: ...

    @overload
    def predict(self, texts: Sequence[str]) -> list[list[Score]]: ...

    def predict(self, texts: str | Sequence[str]) -> list[Score] | list[list[Score]]:
        """Score a text, or each of a list of texts.

        Returns:
            All labels with their probabilities, the most probable first; for a list, one such list for each text.
        """
        if isinstance(texts, str):
            return self.predict([texts])[0]
        rows = self.score(texts).tolist()
        return [
            sorted(
                (Score(label=label, score=score) for label, score in zip(self.labels, row, strict=True)),
                key=lambda entry: -entry["score"],
            )
            for row in rows
        ]

    def score(self, texts: Sequence[str], *, told: Callable[[int], None] | None = None) -> torch.Tensor:
        """Probabilities of all labels, in label order.

        Args:
            texts: What to score; those above ``max_length`` tokens are cut.
            told: Is told how many rows are done, after each batch.

        Returns:
            (texts, labels) float32 on the CPU, in the order of the texts.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        scores = torch.empty(len(texts), len(self.labels))  # (texts, labels)
        batch_rows = BATCH_ROWS.get(self._device.type, BATCH_ROWS["cpu"])
        for start in range(0, len(order), batch_rows):
            rows = order[start : start + batch_rows]
            tokens = self._tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                logits = self._model(**tokens).logits  # (rows, labels)
            scores[rows] = torch.softmax(logits.float(), dim=-1).cpu()
            if told is not None:
                told(start + len(rows))
        return scores


def fastest_device() -> str:
    """Where to score many texts: the GPU if there is one. In float32 the two agree to about a millionth."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _read_manifest_length(folder: Path) -> int | None:
    try:
        return int(json.loads((folder / MANIFEST_NAME).read_bytes())["max_length"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
