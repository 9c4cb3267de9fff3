"""The producer: files of sentences go on the queue as jobs, scores come back.

``from producer import Client`` is all that a Python caller needs. The client is imported when it is first asked for, so
that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.client import Client
    from producer.inputs import Inputs
    from producer.job import Job
    from producer.readers import ReaderOptions
    from producer.recount import Audit
    from producer.report import Report, read_report
    from scorequeue.jobs import JobStatus, Row, RowResult

__all__ = [
    "Audit",
    "Client",
    "Inputs",
    "Job",
    "JobStatus",
    "ReaderOptions",
    "Report",
    "Row",
    "RowResult",
    "read_report",
]

_HOMES = {
    "Audit": "producer.recount",
    "Client": "producer.client",
    "Inputs": "producer.inputs",
    "Job": "producer.job",
    "JobStatus": "scorequeue.jobs",
    "ReaderOptions": "producer.readers",
    "Report": "producer.report",
    "Row": "scorequeue.jobs",
    "RowResult": "scorequeue.jobs",
    "read_report": "producer.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'producer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
