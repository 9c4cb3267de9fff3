"""Settings of a fit, checked once and passed down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from scorequeue.errors import UsageError
from training.config_files import closest, read_config
from training.gate_config import GateConfig

DEFAULT_REGISTRY = Path(".scorequeue/registry")
DEFAULT_RUNS = Path("runs")

RECIPES = {"sample": "quick"}
"""The shipped config that gives a dataset's settings where nothing else does."""


class FitConfig(BaseModel):
    """How a checkpoint is trained; unknown names are refused.

    Attributes:
        dataset: ``sample``, ``cola``, a file of sentences and labels, or a folder of such files.
        text_field: Column of the sentences in a file; None finds it by name.
        label_field: Column of the labels in a file; None finds it by name.
        base_model: A name that base_models.py knows, a transformers folder, or a hub id.
        warm_start: Start from the registry's current version instead of the base model.
        epochs: Passes over the training rows.
        lr: Peak learning rate of the encoder.
        head_lr: Peak learning rate of the pooler and the classifier, which start untrained.
        batch_size: Rows in a step, over all processes.
        max_length: Most tokens of a text, special tokens included; None takes what the model can read.
        dropout: Rate of all dropout; None keeps the base model's own.
        weight_decay: Of all weights but biases and layer norms.
        warmup: Part of the steps in which the rate rises; it falls linearly in the rest.
        clip_norm: Largest norm of the gradient.
        patience: Epochs without a better validation MCC after which fitting stops.
        seed: Seed of weights, dropout, order and the made sentences.
        precision: ``auto`` computes in bfloat16 where the device does so natively, else in float32.
        devices: Processes that train, one a GPU, or on a CPU; ``auto`` takes all GPUs. They share each batch.
        logger: Where curves go, beside the CSV file that is always written.
        checkpoint_every_s: Least seconds between two checkpoints to resume from: what a kill costs at most.
        fast_dev_run: Run one training and one validation batch and publish nothing.
        gate: What a version has to show before ``promote`` puts it live; its manifest keeps it.
        registry: Folder of the versions.
        runs: Folder of logs and of Lightning's own checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = "cola"
    text_field: str | None = None
    label_field: str | None = None
    base_model: str = "minilm-l6"
    warm_start: bool = False
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
    devices: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    logger: Literal["tensorboard", "csv", "wandb", "mlflow"] = "tensorboard"
    checkpoint_every_s: float = Field(default=120, ge=0)
    fast_dev_run: bool = False
    gate: GateConfig = GateConfig()
    registry: Path = DEFAULT_REGISTRY
    runs: Path = DEFAULT_RUNS

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yes_as_a_number(cls, value: Any, info: Any) -> Any:
        # YAML reads yes, no, on and off as booleans, and pydantic would take them for 1 and 0.
        wanted = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and bool not in (wanted, *get_args(wanted)):
            raise ValueError("yes and no are no value of it")
        return value

    @field_validator("devices", mode="wrap")
    @classmethod
    def _say_what_devices_are(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        # Of each part of a union pydantic says by itself that it is not met.
        try:
            return check(value)
        except ValidationError as error:
            raise ValueError("expected a number from 1, or auto") from error

    @field_validator("registry", "runs")
    @classmethod
    def _refuse_a_file(cls, value: Path) -> Path:
        if value.is_file():
            raise ValueError("expected a folder, or a name for a new one, but it is a file")
        return value

    @classmethod
    def load(cls, config: str | Path | None = None, /, **options: object) -> FitConfig:
        """Check settings: options win over the config file, that over the dataset's recipe, that over the defaults.

        Args:
            config: A YAML file, or the name of a shipped config: ``quick``, ``cola``, ``seed``.
            options: Settings by name; those that are None are not set.

        Raises:
            UsageError: A value is out of range or a name is unknown; the message names the option, or file and key.
            InputError: The file cannot be read, or is no YAML mapping.
        """
        given = {name: value for name, value in options.items() if value is not None}
        in_file = {} if config is None else read_config(str(config))
        recipe = RECIPES.get(str((in_file | given).get("dataset")))
        defaults = {} if recipe is None else read_config(recipe)
        try:
            return cls.model_validate(defaults | in_file | given)
        except ValidationError as error:
            raise UsageError(_explain(error, given=given, config=config)) from error

    @classmethod
    def resume(cls, run: Mapping[str, object], config: str | Path | None = None, /, **options: object) -> FitConfig:
        """Settings to go on with: a run's own, under those that the user gives anew.

        What the user gives must be what the run has, where it says what is trained; `Run.check_settings` sees to it.

        Args:
            run: The run's settings by name.
            config: As for `load`.
            options: As for `load`.

        Raises:
            UsageError: As for `load`; or the run was started by a version with other settings.
            InputError: As for `load`.
        """
        asked = {} if config is None else read_config(str(config))
        asked |= {name: value for name, value in options.items() if value is not None}
        return cls.load(**{**run, **asked})


def _explain(error: ValidationError, *, given: Mapping[str, object], config: str | Path | None) -> str:
    """The first fault in one line, named as the user wrote it: as an option, or as a key of the file."""
    first = error.errors()[0]
    # What is below a setting other than the gate are pydantic's words for the parts of a union.
    path = [str(part) for part in first["loc"]][: 2 if first["loc"][0] == "gate" else 1]
    if path[0] in given or config is None:
        where = "--" + "-".join(path).replace("_", "-")
    else:
        where = f"{config}: {'.'.join(path)}"
    if first["type"] == "extra_forbidden":
        known = FitConfig if len(path) == 1 else GateConfig
        return f"{where}: there is no such setting{closest(path[-1], known.model_fields)}"
    if first["type"] == "model_type":
        return f"{where}: expected settings below it, like `margin: 0.02`, got {first['input']!r}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
