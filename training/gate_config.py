"""What a challenger has to show before it goes live, checked once and passed down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scorequeue.errors import UsageError


class GateConfig(BaseModel):
    """The bar; unknown names are refused.

    Attributes:
        mcc_floor: Matthews correlation that a version must be above, whatever else is live. A model that gives all rows
            one label has 0.
        margin: How much of the champion's correlation a challenger may lose on other rows of the same kind: the
            difference must be above its negative with ``confidence``.
        confidence: How sure the gate has to be of that, one-sided.
        resamples: How often the rows are drawn anew for it.
        min_rows: Rows to judge on, at least; with fewer the bootstrap is surer than it has reason to be.
        latency_ratio: How much slower than the champion a lone sentence may be before the verdict warns.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )  # strict: YAML's `yes` is no number

    mcc_floor: float = Field(default=0.0, ge=-1, lt=1)
    margin: float = Field(default=0.02, ge=0, le=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2_000, ge=100, le=1_000_000)
    min_rows: int = Field(default=100, ge=1)
    latency_ratio: float = Field(default=1.2, gt=0)

    @classmethod
    def load(cls, recorded: Mapping[str, Any] | None = None, **options: float | None) -> GateConfig:
        """Check settings: options win over those that a version's fit recorded, these over the defaults.

        Args:
            recorded: The section ``gate`` of a manifest's training config; names that only other programs know are
                left out.
            options: Settings by name; those that are None are not set.

        Raises:
            UsageError: A value is out of range; the message names the option.
        """
        kept = {name: value for name, value in (recorded or {}).items() if name in cls.model_fields}
        given = {name: value for name, value in options.items() if value is not None}
        try:
            return cls.model_validate(kept | given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            where = "--" + name.replace("_", "-") if name in given else f"the version's own gate setting {name}"
            raise UsageError(f"{where}: {first['msg']}, got {first['input']!r}") from error
