"""Judge a version against the one that is current, and put it live if the gate says yes."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from scorequeue.errors import GateRefusedError
from scorequeue.logs import fields
from scorequeue.registry import Registry
from training.contest import hold
from training.gate import Verdict, judge
from training.gate_config import GateConfig
from training.sources import Part

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a promote went.

    Attributes:
        verdict: What the gate said; None where the version was current already.
        promoted: Whether the version went live.
        forced: Whether it did so although the gate said no.
        previous: What was current before.
    """

    verdict: Verdict | None
    promoted: bool
    forced: bool
    previous: str | None

    def error(self) -> GateRefusedError | None:
        """What a command ends with that was to put the version live; None if it is."""
        if self.promoted or self.verdict is None:
            return None
        more = "" if self.verdict.can_be_forced else "; workers would refuse it too, so it cannot be forced"
        return GateRefusedError(f"{self.verdict.challenger} was not promoted: {self.verdict.reason}{more}")


def promote(
    registry: Registry,
    version: str,
    *,
    config: GateConfig,
    part: Part | None = None,
    force_why: str | None = None,
) -> Outcome:
    """Judge a version and put it live if it is better; the verdict goes to the history either way.

    Args:
        registry: Where the version is.
        version: Its name.
        config: The bar.
        part: What to judge on; None takes the rows that the version was evaluated on, else those of the current one.
        force_why: Why the version goes live whatever the gate says; None lets the gate decide.

    Raises:
        VersionNotFoundError: There is no such version.
        VerificationError: Its files are not what its manifest says, it does not load, or its scores are not finite.
        UsageError: There are no rows to judge on, or no such dataset.
        GateRefusedError: Another version became current meanwhile: what was judged is no longer the question.
        MarkHeldError: Another program has been changing the registry for too long.
        InternalError: The registry cannot be written.
    """
    champion = registry.pointed()
    if champion == registry.resolve(version):
        return Outcome(None, promoted=False, forced=False, previous=champion)
    verdict = judge(hold(registry, version, champion, part=part, obstacle=registry.loss()), config)
    forced = force_why is not None and not verdict.is_yes and verdict.can_be_forced
    if verdict.is_yes or forced:
        why = force_why if forced else verdict.reason
        registry.promote(version, expected=champion, why=str(why), forced=forced, numbers=verdict.numbers)
    else:
        registry.refuse(version, expected=champion, why=verdict.reason, numbers=verdict.numbers)
    promoted = verdict.is_yes or forced
    facts = fields("promote", version=version, previous=champion, promoted=promoted, forced=forced)
    log.info("version promoted" if promoted else "version refused", extra=facts)
    return Outcome(verdict, promoted=promoted, forced=forced, previous=champion)
