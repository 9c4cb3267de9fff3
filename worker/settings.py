"""Settings of ``worker``; each is a flag and an environment variable ``SCOREQUEUE_...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from scorequeue.jobs import Lane
from scorequeue.settings import STATE_DIR, Settings, parse_duration

CACHE_DIR = STATE_DIR / "cache"


class WorkerSettings(Settings):
    """What a worker is started with."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    backend: Literal["auto", "torch", "openvino", "fake"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    token_budget: int | None = Field(default=None, gt=0)
    """Most padded tokens in a batch; None leaves it to the backend."""

    cache_dir: Path = CACHE_DIR
    """Where converted models and measured token budgets are kept between starts."""

    lanes: Annotated[tuple[Lane, ...], NoDecode] = (Lane.EXPRESS, Lane.BULK)
    """Lanes to serve, the most urgent first."""

    start_timeout_s: float = Field(default=60.0, ge=0)
    """Seconds that a worker waits at its start for a Redis that is away or takes no writes."""

    drain_timeout_s: float = Field(default=25.0, gt=0)
    """Seconds that a worker told to stop has to finish its batch and give back the rest."""

    @field_validator("lanes", mode="before")
    @classmethod
    def _split_lanes(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("lanes")
    @classmethod
    def _check_lanes(cls, lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
        if not lanes or len(set(lanes)) != len(lanes):
            raise ValueError(f"expected express, bulk or both, got {','.join(lanes) or 'nothing'}")
        return lanes

    @field_validator("token_budget", mode="before")
    @classmethod
    def _read_budget(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @field_validator("start_timeout_s", "drain_timeout_s", mode="before")
    @classmethod
    def _read_time_out(cls, value: Any) -> Any:
        return parse_duration(value) if isinstance(value, str) else value
