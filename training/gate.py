"""Whether a challenger goes live: a pure decision from what two versions said of the same rows.

It goes live if on these rows its Matthews correlation (MCC) is higher than the champion's, and if on other rows of the
same kind it is not lower by more than a margin, as far as a paired bootstrap can tell. The first alone would let luck
in: of two equally good models each is ahead half of the time. A lower end above 0 would keep most better ones out,
because rows are few (docs/decisions.md has the figures).

The rows are the challenger's own, so it could pass by being asked something else. Where the champion has rows that are
not among them, the challenger must not lose more than the margin on rows of that kind either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from training.bootstrap import Difference, paired_difference
from training.confusion import Counts
from training.figures import Figures, Scores, measure
from training.gate_config import GateConfig

GOLDEN_TOLERANCE = 1e-3
"""Largest difference of a golden score from the stored one in float32; workers allow as much."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnRows:
    """What both said of the rows that the champion was evaluated on.

    Attributes:
        labels: True label indices: (rows,) int64.
        challenger_scores: (rows, labels) float32.
        champion_scores: The same, labels in the same order.
    """

    labels: Counts
    challenger_scores: Scores
    champion_scores: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """What challenger and champion said of the same rows.

    Attributes:
        challenger: The version that wants to go live.
        champion: The one that is current; None where nothing is.
        rows_from: Where the rows come from: a version, or a dataset and its split.
        labels: True label indices: (rows,) int64.
        challenger_scores: (rows, labels) float32.
        champion_scores: The same, labels in the same order; None if it cannot be compared.
        golden_difference: Largest difference of the challenger's golden scores from the stored ones; None if it has no
            golden sentences.
        golden_rows: How many golden sentences it has.
        latency_ms: Median time of a lone sentence, of challenger and champion; None if it was not measured.
        obstacle: Why the champion cannot be compared, or why it is not known; empty if it can, or if there is none.
        is_same: Whether both have the same weights.
        own: The champion's own rows; None where it has none, where they are among those judged on, or where a person
            has chosen what is judged on.
    """

    challenger: str
    champion: str | None
    rows_from: str
    labels: Counts
    challenger_scores: Scores
    champion_scores: Scores | None
    golden_difference: float | None
    golden_rows: int
    latency_ms: tuple[float, float] | None = None
    obstacle: str = ""
    is_same: bool = False
    own: OwnRows | None = None


class Check(BaseModel):
    """One thing that was asked of the challenger.

    Attributes:
        what: Its name.
        asked: What was asked.
        found: What was found.
        outcome: ``ok``, ``no``, or ``warning``, which keeps nothing from going live.
    """

    model_config = ConfigDict(frozen=True)

    what: str
    asked: str
    found: str
    outcome: Literal["ok", "no", "warning"]


class Verdict(BaseModel):
    """What the gate says.

    Attributes:
        challenger: The version that was judged.
        champion: The version that it was compared with; None where nothing was current.
        is_yes: Whether it may go live.
        can_be_forced: Whether a person may overrule a no: not where workers would refuse the version too.
        reason: One sentence.
        checks: Everything that was asked.
        numbers: What it was based on, for the history.
    """

    model_config = ConfigDict(frozen=True)

    challenger: str
    champion: str | None
    is_yes: bool
    can_be_forced: bool
    reason: str
    checks: tuple[Check, ...]
    numbers: dict[str, Any]


def judge(contest: Contest, config: GateConfig) -> Verdict:
    """Decide whether the challenger goes live, and say why."""
    rows = len(contest.labels)
    ours = measure(contest.challenger_scores, contest.labels)
    numbers: dict[str, Any] = {"rows": rows, "rows_from": contest.rows_from, "challenger": _sum_up(ours)}
    checks = [_check_golden(contest)]
    reasons = [] if checks[0].outcome == "ok" else [f"its golden sentences say no: {checks[0].found}"]
    can_be_forced = not reasons

    has_enough = rows >= config.min_rows
    checks.append(_check("rows", f"at least {config.min_rows:,}", f"{rows:,}", has_enough))
    if not has_enough:
        reasons.append(
            f"{rows:,} rows are too few to judge on, min_rows is {config.min_rows:,}: name more with --dataset (and "
            "--split)"
        )

    is_above = ours.mcc > config.mcc_floor
    checks.append(_check("MCC", f"above {config.mcc_floor:.3f}", f"{ours.mcc:.3f} on {rows:,} rows", is_above))
    if not is_above:
        reasons.append(f"its MCC of {ours.mcc:.3f} is not above the floor of {config.mcc_floor:.3f}")

    gain = ""
    if contest.obstacle:
        whom = "what was current" if contest.champion is None else f"{contest.champion}, which is current"
        checks.append(_check("comparison", f"with {contest.champion or whom}", contest.obstacle, False))
        reasons.append(f"it cannot be compared with {whom}: {contest.obstacle}")
    elif contest.champion_scores is not None:
        theirs = measure(contest.champion_scores, contest.labels)
        numbers["champion"] = _sum_up(theirs)
        found = _compare(contest, ours, theirs, config)
        numbers["difference"] = found.numbers
        checks += found.checks
        reasons += found.reasons
        gain = found.gain
        if contest.own is not None:
            own = _compare_own(contest.own, str(contest.champion), config)
            numbers["champion_rows"] = own.numbers
            checks += own.checks
            reasons += own.reasons
    if contest.latency_ms is not None:
        numbers["latency_ms"] = [round(time_ms, 3) for time_ms in contest.latency_ms]
        checks.append(_check_latency(contest.latency_ms, config))
    numbers["golden_difference"] = contest.golden_difference
    numbers["gate"] = config.model_dump()

    is_yes = not reasons
    if is_yes:
        reason = gain or f"MCC {ours.mcc:.3f} on {rows:,} rows, and nothing is current to compare with"
    else:
        reason = "; ".join(reasons)
    return Verdict(
        challenger=contest.challenger,
        champion=contest.champion,
        is_yes=is_yes,
        can_be_forced=can_be_forced,
        reason=reason,
        checks=tuple(checks),
        numbers=numbers | {"verdict": reason},
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    checks: list[Check]
    reasons: list[str]
    gain: str
    numbers: dict[str, Any]


def _compare(contest: Contest, ours: Figures, theirs: Figures, config: GateConfig) -> _Comparison:
    assert contest.champion_scores is not None
    rows, champion = len(contest.labels), contest.champion
    difference = ours.mcc - theirs.mcc
    resampled = _resample(contest, contest.champion_scores, config)
    sure = _tell_confidence(config)
    is_better, is_safe = difference > 0, resampled.low > -config.margin
    checks = [
        _check("gain", f"above {theirs.mcc:.3f} of {champion}", f"{difference:+.3f}", is_better),
        _check("risk", _tell_bar(config), f"above {resampled.low:+.3f}", is_safe),
    ]
    if contest.is_same:
        reasons = [f"it is no better: it has the weights of {champion}, which is current"]
    elif not is_better:
        reasons = [
            f"its MCC of {ours.mcc:.3f} is not above the {theirs.mcc:.3f} of {champion} on the same {rows:,} rows"
        ]
    elif not is_safe:
        reasons = [
            f"its MCC of {ours.mcc:.3f} is {difference:.3f} above that of {champion} on the same {rows:,} rows, but on "
            f"others it may be {-resampled.low:.3f} below ({sure} confidence, margin {config.margin:g})"
        ]
    else:
        reasons = []
    gain = (
        f"MCC {ours.mcc:.3f} against {theirs.mcc:.3f} of {champion} on the same {rows:,} rows: {difference:+.3f}, "
        f"above {resampled.low:+.3f} with {sure} confidence"
    )
    return _Comparison(checks, reasons, gain, _sum_up_difference(difference, resampled))


def _compare_own(own: OwnRows, champion: str, config: GateConfig) -> _Comparison:
    """Whether the challenger holds on the champion's own rows: it need not be ahead there, but it may not lose."""
    rows = len(own.labels)
    ours, theirs = measure(own.challenger_scores, own.labels), measure(own.champion_scores, own.labels)
    difference = ours.mcc - theirs.mcc
    resampled = _resample(own, own.champion_scores, config)
    is_safe = resampled.low > -config.margin
    found = f"above {resampled.low:+.3f} on {rows:,} rows"
    check = _check("risk on the champion's rows", _tell_bar(config), found, is_safe)
    reasons = []
    if rows < config.min_rows:
        # Nothing that so few rows say may keep a version out for good.
        check = check.model_copy(update={"outcome": "warning", "found": f"{rows:,} rows are too few to say"})
    elif not is_safe:
        reasons = [
            f"on the {rows:,} rows that {champion} was evaluated on its MCC is {ours.mcc:.3f} against {theirs.mcc:.3f}"
            f", and on others of their kind it may be {-resampled.low:.3f} below "
            f"({_tell_confidence(config)} confidence, margin {config.margin:g})"
        ]
    numbers = {
        "rows": rows,
        "challenger": _sum_up(ours),
        "champion": _sum_up(theirs),
        "difference": _sum_up_difference(difference, resampled),
    }
    return _Comparison([check], reasons, "", numbers)


def _resample(rows: Contest | OwnRows, champion_scores: Scores, config: GateConfig) -> Difference:
    # The lower end of a two-sided interval of 90 % is that of a one-sided one of 95 %.
    return paired_difference(
        rows.labels,
        champion_scores.argmax(-1),
        rows.challenger_scores.argmax(-1),
        label_count=champion_scores.shape[1],
        resamples=config.resamples,
        confidence=2 * config.confidence - 1,
    )


def _tell_confidence(config: GateConfig) -> str:
    return f"{100 * config.confidence:.4g} %"


def _tell_bar(config: GateConfig) -> str:
    return f"difference above {-config.margin:+.3f} with {_tell_confidence(config)} confidence"


def _sum_up_difference(difference: float, resampled: Difference) -> dict[str, float]:
    numbers = {
        "mcc": difference,
        "low": resampled.low,
        "high": resampled.high,
        "probability_better": resampled.probability_better,
    }
    return {name: round(value, 6) for name, value in numbers.items()}


def _check_golden(contest: Contest) -> Check:
    what, asked = "golden sentences", f"stored scores within {GOLDEN_TOLERANCE:g}"
    if contest.golden_difference is None:
        return _check(what, asked, "it has none; fit or import it again", False)
    found = f"{contest.golden_rows} differ by at most {contest.golden_difference:.2g}"
    # Not > tolerance: NaN is no agreement.
    return _check(what, asked, found, bool(contest.golden_difference <= GOLDEN_TOLERANCE))


def _check_latency(latency_ms: tuple[float, float], config: GateConfig) -> Check:
    ours, theirs = latency_ms
    ratio = ours / theirs
    found = f"{ratio:.2f} x ({ours:.2f} ms against {theirs:.2f} ms)"
    outcome: Literal["ok", "warning"] = "ok" if ratio <= config.latency_ratio else "warning"
    return Check(what="latency", asked=f"at most {config.latency_ratio:g} x", found=found, outcome=outcome)


def _check(what: str, asked: str, found: str, is_ok: bool) -> Check:
    return Check(what=what, asked=asked, found=found, outcome="ok" if is_ok else "no")


def _sum_up(figures: Figures) -> dict[str, float]:
    return {name: round(float(np.float64(value)), 6) for name, value in figures.summary().items()}
