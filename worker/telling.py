"""What ``worker status`` says of a worker to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def lines_of(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line on what a worker runs and has done, and an indented one for each thing that is not well.

    Args:
        about: What it says of itself; a worker of an older program may leave something out.
    """
    where = f"{about.get('host')}:{about.get('pid')}"
    how = f"{about.get('backend')} {about.get('dtype')} on {about.get('device')}"
    lanes = ",".join(about.get("lanes", []))
    older = [version for version in about.get("ready_versions", []) if version != about.get("model_version")]
    versions = f"{about.get('model_version')}" + (f" (and {', '.join(older)})" if older else "")
    yield f"{about['id']}  {where}  {how}  {versions}  {lanes}  {about.get('rows')} rows"
    if about.get("memory_errors"):
        budget = f"the token budget is {about.get('token_budget', 0):,} now"
        yield f"  the device had no memory for {about['memory_errors']:,} batches; {budget}"
    if about.get("registry_error"):
        yield f"  cannot read what is current: {about['registry_error']}"
    for version, why in (about.get("failed_versions") or {}).items():
        yield f"  cannot load {version}: {why}"
