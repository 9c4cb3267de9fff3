"""Settings of a fit, checked once and passed down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scorequeue.errors import UsageError

DEFAULT_REGISTRY = Path(".scorequeue/registry")
DEFAULT_RUNS = Path("runs")

RECIPES: dict[str, dict[str, float]] = {
    "sample": {"epochs": 1, "batch_size": 16, "head_lr": 5e-4, "dropout": 0.0},
}
"""What differs from the defaults for a dataset. The made sentences are many and clean: nothing is seen twice, so
nothing needs dropout, and small batches give more steps in the same minute."""


class FitConfig(BaseModel):
    """How a checkpoint is trained; unknown names are refused.

    Attributes:
        dataset: ``sample``, ``cola``, or a folder in CoLA's file layout.
        base_model: A name that base_models.py knows, a transformers folder, or a hub id.
        epochs: Passes over the training rows.
        lr: Peak learning rate of the encoder.
        head_lr: Peak learning rate of the pooler and the classifier, which start untrained.
        batch_size: Rows in a step.
        max_length: Most tokens of a text, special tokens included; None takes what the model can read.
        dropout: Rate of all dropout; None keeps the base model's own.
        weight_decay: Of all weights but biases and layer norms.
        warmup: Part of the steps in which the rate rises; it falls linearly in the rest.
        clip_norm: Largest norm of the gradient.
        patience: Epochs without a better validation MCC after which fitting stops.
        seed: Seed of weights, dropout, order and the made sentences.
        precision: ``auto`` computes in bfloat16 where the device does so natively, else in float32.
        logger: Where curves go, beside the CSV file that is always written.
        fast_dev_run: Run one training and one validation batch and publish nothing.
        registry: Folder of the versions.
        runs: Folder of logs and of Lightning's own checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "cola"
    base_model: str = "minilm-l6"
    epochs: int = Field(default=5, ge=1)
    lr: float = Field(default=1e-4, gt=0, le=1)
    head_lr: float = Field(default=1e-4, gt=0, le=1)
    batch_size: int = Field(default=32, ge=1)
    max_length: int | None = Field(default=None, ge=4)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.06, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    patience: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    logger: Literal["tensorboard", "csv"] = "tensorboard"
    fast_dev_run: bool = False
    registry: Path = DEFAULT_REGISTRY
    runs: Path = DEFAULT_RUNS

    @classmethod
    def load(cls, **values: object) -> FitConfig:
        """Check settings; those that are None take the dataset's recipe, else the default.

        Raises:
            UsageError: A value is out of range or a name is unknown.
        """
        try:
            given = {name: value for name, value in values.items() if value is not None}
            return cls.model_validate(RECIPES.get(str(given.get("dataset")), {}) | given)
        except ValidationError as error:
            first = error.errors()[0]
            name = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-")
            raise UsageError(f"{name}: {first['msg']}, got {first['input']!r}") from error
