"""Log lines with a short text, facts as fields and a stable ``action`` that tests and alerts can rely on.

    log.info("chunk committed", extra=fields("commit", job_id=..., rows=256))

Row texts never go into a log; ids, counts and lengths do. Passwords don't either: addresses are masked where they are
logged, and a formatter that is told the passwords takes them out of whatever a library says.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from scorequeue.masking import scrub

_FIELDS = "scorequeue_fields"

_REPEAT_S = 60.0
"""Seconds in which Celery and kombu say the same thing once: they report each try to reach a Redis that is away."""


def fields(action: str, **facts: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log call: a stable action name and its facts."""
    return {_FIELDS: {"action": action, **facts}}


def configure(level: str, style: Literal["text", "json"], *, secrets: Sequence[str] = ()) -> None:
    """Send logs to stderr; ours at ``level``, other libraries' from warning up.

    Args:
        level: Least level of our own.
        style: How lines look.
        secrets: What must not be in any line, see ``masking.secrets_of``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RepeatFilter())
    handler.setFormatter(_Scrubbing(_JsonFormatter() if style == "json" else _TextFormatter(), secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("scorequeue", "producer", "worker", "training"):
        logging.getLogger(name).setLevel(level.upper())


class _RepeatFilter(logging.Filter):
    """Drops what Celery or kombu said a moment ago, with other numbers in it perhaps, and the traces of warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(("celery", "kombu")):
            return True
        if record.levelno < logging.ERROR:
            record.exc_info = None
        key = record.name, str(record.msg)
        if record.created - self._said_at.get(key, 0.0) < _REPEAT_S:
            return False
        self._said_at[key] = record.created
        return True


class _Scrubbing(logging.Formatter):
    """Another formatter's lines without secrets."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return scrub(self._inner.format(record), self._secrets)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        facts = getattr(record, _FIELDS, {})
        tail = "".join(f" {name}={_plain(value)}" for name, value in facts.items() if value is not None)
        line = f"{at} {record.levelname.lower():<7} {record.getMessage()}{tail}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _plain(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or not text else text
