"""Log lines with a short text, facts as fields and a stable ``action`` that tests and alerts can rely on.

    log.info("chunk committed", extra=fields("commit", job_id=..., rows=256))

Row texts never go into a log; ids, counts and lengths do.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

_FIELDS = "scorequeue_fields"


def fields(action: str, **facts: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log call: a stable action name and its facts."""
    return {_FIELDS: {"action": action, **facts}}


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send logs to stderr; ours at ``level``, other libraries' from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("scorequeue", "producer", "worker", "training"):
        logging.getLogger(name).setLevel(level.upper())


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
