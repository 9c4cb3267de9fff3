"""What a challenger has to show before it goes live, checked once and passed down."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GateConfig(BaseModel):
    """The bar; unknown names are refused.

    Attributes:
        mcc_floor: Matthews correlation that a version must be above, whatever else is live. A model that gives all rows
            one label has 0.
        margin: How much of the champion's correlation a challenger may lose on other rows of the same kind: the
            difference must be above its negative with ``confidence``.
        confidence: How sure the gate has to be of that, one-sided.
        resamples: How often the rows are drawn anew for it.
        latency_ratio: How much slower than the champion a lone sentence may be before the verdict warns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mcc_floor: float = Field(default=0.0, ge=-1, lt=1)
    margin: float = Field(default=0.02, ge=0, le=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2_000, ge=100, le=1_000_000)
    latency_ratio: float = Field(default=1.2, gt=0)
