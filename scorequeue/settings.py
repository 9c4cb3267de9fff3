"""Settings that the programs share; each has an environment variable ``SCOREQUEUE_...`` and a default.

Those that change from one command to the next have a flag too (docs/settings.md lists all, with their flags). Read once
at start and passed down: nothing else in the project reads the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from scorequeue.errors import UsageError
from scorequeue.jobs import MOST_SECONDS
from scorequeue.masking import mask_url
from scorequeue.wording import refusal

ENV_PREFIX = "SCOREQUEUE_"

STATE_DIR = Path(".scorequeue")
"""Where the embedded Redis, the default registry and local.json live, below the folder a command runs in."""

LOCAL_FILE = STATE_DIR / "local.json"
"""Address of the embedded Redis, written by ``worker start --local``."""

FALLBACK_URL = "redis://127.0.0.1:6379/0"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Settings(BaseSettings):
    """What producer and worker share. A program's own settings extend this class."""

    # Without hide_input_in_errors pydantic repeats what it refuses, an address with its password too.
    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    redis_url: str = Field(default_factory=lambda: default_redis_url())
    """Address of Redis (docs/redis.md); else that of the embedded one, else the local default port."""

    namespace: str = Field(default="scorequeue", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Prefix and hash tag of every key: separate namespaces share a Redis without meeting."""

    registry: Path = STATE_DIR / "registry"
    """Folder of checkpoint versions."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    max_text_bytes: int = Field(default=16 * 1024, gt=0)
    """Most UTF-8 bytes of a sentence; a longer one is a failed row."""

    chunk_rows: int = Field(default=256, gt=0, le=65_536)
    """Rows that are claimed, leased and committed together."""

    max_outstanding: int = Field(default=500_000, gt=0)
    """Rows waiting in a lane above which a producer stops uploading for a while."""

    max_chunk_bytes: int = Field(default=8 * 1024 * 1024, gt=0, le=256 * 1024 * 1024)
    """Most bytes of an encoded chunk: it travels, and is held, as a whole."""

    max_job_rows: int = Field(default=100_000_000, gt=0)
    """Most rows of a job."""

    page_rows: int = Field(default=16_384, gt=0)
    """Rows of results that are read in one round trip, rounded to whole chunks."""

    redis_patience_s: float = Field(default=300.0, ge=0)
    """Seconds that a producer goes on trying when Redis goes away in the middle of something."""

    ttl_s: float = Field(default=7 * 86400.0, gt=0, lt=MOST_SECONDS)
    """Seconds that results are kept after a job's end."""

    lease_s: float = Field(default=15.0, ge=0.5, le=3600.0)
    """Seconds that a claimed chunk stays with a worker that gives no sign of life."""

    @field_validator("redis_url")
    @classmethod
    def _check_scheme(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://", "sentinel://")):
            raise ValueError(f"expected an address like redis://host:6379/0, got {mask_url(url)}")
        return url

    @field_validator("ttl_s", "lease_s", "redis_patience_s", mode="before")
    @classmethod
    def _read_duration(cls, value: Any) -> Any:
        return parse_duration(value) if isinstance(value, str) else value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, mask_url(value) if name == "redis_url" else value

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; overrides that are not None win.

        Raises:
            UsageError: A value cannot be; the message names the setting, its variable and the value that came.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as exc:
            first = exc.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            raise UsageError(f"setting {name} ({ENV_PREFIX}{name.upper()}): {refusal(first)}") from exc


def default_redis_url() -> str:
    """Return the embedded Redis's address where one was started in this folder, else the usual local one."""
    try:
        url = json.loads(LOCAL_FILE.read_text())["url"]
    except (OSError, ValueError, KeyError):
        return FALLBACK_URL
    return str(url)


def parse_duration(text: str) -> float:
    """Read ``90s``, ``15m``, ``2h``, ``7d`` or plain seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: The text is none of these.
    """
    text = text.strip().lower()
    match = _DURATION.fullmatch(text)
    if match:
        return float(match[1]) * _SECONDS[match[2]]
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a duration like 90s, 15m, 2h or 7d, got {text!r}") from None
