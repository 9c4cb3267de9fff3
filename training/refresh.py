"""Fit, judge, promote: what a scheduler runs every night. A worse version never goes live, and two never run at once.

In order, and why::

    the mark      one refresh per registry; its holder touches it, so that what a killed one leaves is taken over
    fit           publishes a version with the rows that it was judged on; nothing that is live changes. It goes on
                  where a killed refresh stopped, if settings, data and the version to start from are the same
    is it ours?   a process that was stopped for long may have lost the mark: it promotes nothing then
    promote       the gate; judged once more where another program has changed what is current meanwhile
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from rich.console import Console

from scorequeue.errors import GateRefusedError, InputError, InternalError, MarkHeldError, VerificationError
from scorequeue.logs import fields
from scorequeue.marks import Mark, read_holder
from scorequeue.registry import Registry
from training import sources
from training.checkpoints import DurableCheckpointIO
from training.config import FitConfig
from training.fit import find_published, fit
from training.gate import Verdict
from training.promote import promote
from training.runs import Run, find_alike

log = logging.getLogger(__name__)

STALE_S = 60.0
"""Seconds without a sign of life after which a refresh counts as killed."""

WAIT_S = STALE_S + 15.0
"""Seconds to wait for another refresh: long enough to take over from one that was killed just now."""

ATTEMPTS = 3
"""How often a version is judged if what is current changes while it is judged."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How a refresh went.

    Attributes:
        version: The version that was fitted; None where nothing was.
        promoted: Whether it went live.
        reason: Why, or why not, in one sentence.
        previous: What was current before; None where nothing was.
        verdict: What the gate said; None where it was not asked.
    """

    version: str | None
    promoted: bool
    reason: str
    previous: str | None
    verdict: Verdict | None = None


def refresh(config: FitConfig, *, console: Console | None = None, wait_s: float = WAIT_S) -> Refreshed:
    """Fit a version and put it live if the gate says that it is better.

    Args:
        config: Checked settings of the fit and the gate.
        console: Where the fit draws its progress; None draws nothing.
        wait_s: Seconds to wait for another refresh of this registry.

    Raises:
        VersionError: What is live is not known, not there or damaged. Nothing is fitted.
        ScorequeueError: The fit failed, see `training.fit.fit`, or the version cannot be judged; what was live stays.
    """
    registry = Registry(config.registry)
    with ExitStack() as stack:
        try:
            mark = stack.enter_context(_hold(config, wait_s=wait_s))
        except MarkHeldError as error:
            return Refreshed(None, promoted=False, reason=f"another refresh runs: {error}", previous=registry.pointed())
        if loss := registry.loss():
            raise VerificationError(loss)  # before hours of fitting: nothing could be compared with what was live
        previous = registry.pointed()
        if previous is not None:
            registry.verify(previous)  # the same: a scheduler should hear of it, not of a version that was refused
        if previous is None and config.warm_start:
            log.info("nothing is current yet: the fit starts from the base model", extra=fields("cold_start"))
            config = config.model_copy(update={"warm_start": False})
        version = _fit(registry, config, console=console)
        if version is None:
            return Refreshed(None, promoted=False, reason="a fast dev run publishes nothing", previous=previous)
        if not mark.is_held() and registry.pointed() != version:
            reason = f"another refresh took over while this one was stopped; {version} is published, not promoted"
            return Refreshed(version, promoted=False, reason=reason, previous=previous)
        return _judge(registry, version, config=config)


@contextmanager
def _hold(config: FitConfig, *, wait_s: float) -> Iterator[Mark]:
    path = config.registry / ".refreshing"
    with ExitStack() as stack:
        try:
            config.registry.mkdir(parents=True, exist_ok=True)
            if (holder := read_holder(path)) is not None and not holder.has_ended:
                facts = fields("refresh_waits", holder=str(holder), seconds=wait_s)
                log.info("waiting for another refresh", extra=facts)
            mark = stack.enter_context(Mark(path, stale_s=STALE_S, wait_s=wait_s))
        except OSError as error:
            raise InternalError(
                f"registry {config.registry} cannot be written: {error.strerror}; fix its rights, make room or name "
                "another --registry"
            ) from error
        yield mark


def _fit(registry: Registry, config: FitConfig, *, console: Console | None) -> str | None:
    """Publish a version; that of a killed refresh, if it was killed in between of publishing and judging."""
    if config.fast_dev_run:
        return fit(config, console=console).version
    unjudged = set(registry.versions()) - {entry.to_version for entry in registry.history()}
    parent = registry.pointed() if config.warm_start else None
    fingerprint = None
    for run in find_alike(config.model_dump(mode="json"), parent=parent, runs=config.runs):
        version = run.record.version
        if version not in unjudged and not (version is None and run.is_resumable):
            continue
        fingerprint = fingerprint or _read_fingerprint(config)  # only where it matters: the fit reads the data anyway
        if run.record.fingerprint != fingerprint:
            continue
        if version is not None:
            log.info("an earlier refresh did not judge its version", extra=fields("refresh_judges", version=version))
            return version
        if _is_whole(run):
            return find_published(registry, run) or fit(config, resume=run, console=console).version
    return fit(config, console=console).version


def _read_fingerprint(config: FitConfig) -> str:
    data = sources.load(config.dataset, seed=config.seed, text_field=config.text_field, label_field=config.label_field)
    return str(data.describe()["fingerprint"])


def _is_whole(run: Run) -> bool:
    """Whether a run's checkpoint can be read; one that a disk has damaged must not keep every later refresh out."""
    file = run.resume_file if run.record.best is None else run.checkpoints / run.record.best
    try:
        DurableCheckpointIO().load_checkpoint(file)
    except InputError as error:
        log.warning(
            "a killed fit is not gone on with", extra=fields("refresh_leaves", run=str(run.folder), error=str(error))
        )
        return False
    return True


def _judge(registry: Registry, version: str, *, config: FitConfig) -> Refreshed:
    """Ask the gate, again if what is current changes meanwhile."""
    reason = ""
    for _ in range(ATTEMPTS):
        previous = registry.pointed()
        try:
            outcome = promote(registry, version, config=config.gate)
        except GateRefusedError as error:  # another program was faster; what it put live is what counts now
            reason = str(error)
            continue
        except MarkHeldError as error:  # the fit is not lost for that: the next refresh judges it
            reason = f"{version} is published, not judged: {error}"
            continue
        verdict = outcome.verdict
        if verdict is None:
            return _describe_current(registry, version)
        return Refreshed(version, outcome.promoted, verdict.reason, outcome.previous, verdict)
    return Refreshed(version, promoted=False, reason=reason, previous=previous)


def _describe_current(registry: Registry, version: str) -> Refreshed:
    """How a version came to be current that was so before the gate was asked."""
    came = next((entry for entry in reversed(registry.history()) if entry.to_version == version), None)
    if came is None or came.from_version is not None:
        previous = None if came is None else came.from_version
        return Refreshed(version, promoted=True, reason="another program has put it live already", previous=previous)
    return Refreshed(version, promoted=True, reason="it is the first: nothing was current before", previous=None)
