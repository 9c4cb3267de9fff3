"""The gate's decision, from scores alone: what it lets through, what not, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scorequeue.errors import ExitCode, UsageError
from training.bootstrap import paired_difference
from training.config import FitConfig
from training.confusion import Counts
from training.figures import Scores
from training.gate import Contest, OwnRows, Verdict, judge
from training.gate_config import GateConfig

ROWS = 600
LABELS = np.arange(ROWS) % 2


def scores_that_miss(rows: range) -> Scores:
    """Scores that are right but for these rows: (rows, labels)."""
    predicted: Counts = LABELS.copy()
    predicted[rows] = 1 - predicted[rows]
    return np.where(np.eye(2)[predicted] > 0, 0.9, 0.1).astype(np.float32)


CONTEST = Contest(
    challenger="new",
    champion="old",
    rows_from="new",
    labels=LABELS,
    challenger_scores=scores_that_miss(range(100)),
    champion_scores=scores_that_miss(range(100)),
    golden_difference=1e-6,
    golden_rows=16,
    latency_ms=(3.0, 3.0),
)


def ask(config: GateConfig | None = None, **changes: object) -> Verdict:
    return judge(replace(CONTEST, **changes), config or GateConfig())


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {check.what: check.outcome for check in verdict.checks}


def test_better_one_goes_live() -> None:
    verdict = ask(challenger_scores=scores_that_miss(range(50)))

    assert verdict.is_yes
    assert set(outcomes(verdict).values()) == {"ok"}
    assert verdict.reason.startswith("MCC 0.833 against 0.667 of old on the same 600 rows: +0.167, above +0.1")
    assert verdict.numbers["difference"]["mcc"] == pytest.approx(1 / 6, abs=1e-6)


def test_worse_one_is_refused() -> None:
    verdict = ask(challenger_scores=scores_that_miss(range(150)))

    assert not verdict.is_yes
    assert verdict.can_be_forced
    assert verdict.reason == "its MCC of 0.500 is not above the 0.667 of old on the same 600 rows"


def test_equal_one_is_no_better() -> None:
    """Other rows wrong, as many of them: nothing speaks for a change."""
    verdict = ask(challenger_scores=scores_that_miss(range(100, 200)))

    assert outcomes(verdict) == {
        "golden sentences": "ok", "rows": "ok", "MCC": "ok", "gain": "no", "risk": "no", "latency": "ok",
    }  # fmt: skip


def test_luck_is_not_enough() -> None:
    """Two rows better where 150 differ: on other rows it is as likely to be worse."""
    verdict = ask(champion_scores=scores_that_miss(range(0, 76)), challenger_scores=scores_that_miss(range(76, 150)))

    assert outcomes(verdict)["gain"] == "ok"
    assert outcomes(verdict)["risk"] == "no"
    assert "0.007 above that of old on the same 600 rows, but on others it may be 0.0" in verdict.reason
    assert "(95 % confidence, margin 0.02)" in verdict.reason


def test_two_rows_are_enough_where_nothing_else_differs() -> None:
    """A challenger that is right wherever the champion is cannot do harm."""
    assert ask(challenger_scores=scores_that_miss(range(98))).is_yes


@pytest.mark.parametrize(("setting", "is_yes"), [({"margin": 0.02}, False), ({"margin": 0.2}, True)])
def test_margin_says_how_much_may_be_lost(setting: dict[str, float], is_yes: bool) -> None:
    verdict = ask(
        GateConfig(**setting),
        champion_scores=scores_that_miss(range(0, 80)), challenger_scores=scores_that_miss(range(70, 140)),
    )  # fmt: skip

    assert verdict.is_yes == is_yes


def test_more_confidence_asks_for_more() -> None:
    changes = {"champion_scores": scores_that_miss(range(80)), "challenger_scores": scores_that_miss(range(75, 140))}
    lows = [
        ask(GateConfig(confidence=confidence), **changes).numbers["difference"]["low"]
        for confidence in (0.6, 0.95, 0.999)
    ]

    assert lows == sorted(lows, reverse=True)
    assert lows[0] > lows[2]


def test_floor_holds_without_a_champion_too() -> None:
    alone = {"champion": None, "champion_scores": None, "latency_ms": None}

    assert ask(**alone).is_yes
    verdict = ask(GateConfig(mcc_floor=0.7), **alone)
    assert verdict.reason == "its MCC of 0.667 is not above the floor of 0.700"


def test_one_label_for_all_rows_is_never_enough() -> None:
    """Seven of ten CoLA sentences are acceptable: such a model is right for 70 % and worth nothing."""
    verdict = ask(champion=None, champion_scores=None, challenger_scores=np.tile([[0.1, 0.9]], (ROWS, 1)).astype("f4"))

    assert verdict.reason == "its MCC of 0.000 is not above the floor of 0.000"


def test_same_weights_are_no_better() -> None:
    verdict = ask(is_same=True)

    assert verdict.reason == "it is no better: it has the weights of old, which is current"


def test_what_cannot_be_compared_is_for_a_person_to_decide() -> None:
    verdict = ask(champion_scores=None, latency_ms=None, obstacle="its labels are no, yes, the challenger's 0, 1")

    assert verdict.reason == (
        "it cannot be compared with old, which is current: its labels are no, yes, the challenger's 0, 1"
    )
    assert verdict.can_be_forced


@pytest.mark.parametrize("difference", [None, 0.01, float("nan")])
def test_golden_sentences_that_do_not_repeat_cannot_be_forced(difference: float | None) -> None:
    """Workers would not load it, and those that start would end."""
    verdict = ask(challenger_scores=scores_that_miss(range(50)), golden_difference=difference)

    assert not verdict.is_yes
    assert not verdict.can_be_forced
    assert verdict.reason.startswith("its golden sentences say no: ")


def test_few_rows_are_nothing_to_judge_on() -> None:
    """Two rows once put a version live that had an MCC of 0.13 on the champion's."""
    few = {
        "labels": LABELS[:40], "challenger_scores": scores_that_miss(range(1))[:40],
        "champion_scores": scores_that_miss(range(20))[:40],
    }  # fmt: skip

    verdict = ask(**few)
    assert verdict.reason == (
        "40 rows are too few to judge on, min_rows is 100: name more with --dataset (and --split)"
    )
    assert (verdict.is_yes, verdict.can_be_forced, verdict.numbers["gate"]["min_rows"]) == (False, True, 100)
    assert ask(GateConfig(min_rows=40), **few).is_yes
    assert not ask(GateConfig(min_rows=41), **few).is_yes


def own_rows(challenger_misses: range, champion_misses: range, *, rows: int = 200) -> OwnRows:
    return OwnRows(LABELS[:rows], scores_that_miss(challenger_misses)[:rows], scores_that_miss(champion_misses)[:rows])


def test_better_on_its_own_rows_and_worse_on_the_champions_is_refused() -> None:
    """A challenger brings its own rows along: it must not go live by being asked something else."""
    better = {"challenger_scores": scores_that_miss(range(10))}

    verdict = ask(**better, own=own_rows(range(60), range(20)))

    assert not verdict.is_yes
    assert verdict.can_be_forced
    assert outcomes(verdict)["risk on the champion's rows"] == "no"
    assert verdict.reason.startswith("on the 200 rows that old was evaluated on its MCC is 0.400 against 0.800, and on")
    assert verdict.numbers["champion_rows"]["difference"]["mcc"] == pytest.approx(-0.4)
    assert verdict.numbers["champion_rows"]["rows"] == 200


def test_on_the_champions_rows_it_need_not_be_ahead() -> None:
    verdict = ask(challenger_scores=scores_that_miss(range(10)), own=own_rows(range(20), range(20)))

    assert verdict.is_yes
    assert outcomes(verdict)["risk on the champion's rows"] == "ok"


def test_bar_holds_on_the_champions_rows_too() -> None:
    """As far as these rows tell, with the same confidence and the same margin."""
    changes = {"challenger_scores": scores_that_miss(range(10)), "own": own_rows(range(20, 42), range(20))}

    assert not ask(**changes).is_yes
    assert ask(GateConfig(margin=0.2), **changes).is_yes


def test_few_rows_of_the_champion_only_warn() -> None:
    """They could keep all later versions out."""
    verdict = ask(challenger_scores=scores_that_miss(range(10)), own=own_rows(range(20), range(0), rows=40))

    assert verdict.is_yes
    assert [(check.what, check.found) for check in verdict.checks if check.outcome == "warning"] == [
        ("risk on the champion's rows", "40 rows are too few to say")
    ]


def test_confidence_is_one_sided() -> None:
    """The 5th of a hundred resamples is the bar at 95 %, not the 2.5th."""
    changes = {"champion_scores": scores_that_miss(range(80)), "challenger_scores": scores_that_miss(range(75, 140))}
    predicted = [changes[name].argmax(-1) for name in ("champion_scores", "challenger_scores")]

    found = ask(GateConfig(confidence=0.95), **changes).numbers["difference"]

    asked = paired_difference(LABELS, *predicted, label_count=2, resamples=2_000, confidence=0.9)
    assert (found["low"], found["high"]) == pytest.approx((asked.low, asked.high), abs=1e-6)


def test_resamples_are_as_many_as_asked_for() -> None:
    changes = {"champion_scores": scores_that_miss(range(80)), "challenger_scores": scores_that_miss(range(75, 140))}
    predicted = [changes[name].argmax(-1) for name in ("champion_scores", "challenger_scores")]

    found = ask(GateConfig(resamples=100), **changes).numbers["difference"]

    asked = paired_difference(LABELS, *predicted, label_count=2, resamples=100, confidence=0.9)
    assert found["low"] == pytest.approx(asked.low, abs=1e-6)
    assert found["low"] != ask(GateConfig(resamples=3_000), **changes).numbers["difference"]["low"]


def test_slow_one_is_warned_about_and_goes_live() -> None:
    verdict = ask(challenger_scores=scores_that_miss(range(50)), latency_ms=(3.9, 3.0))

    assert verdict.is_yes
    assert [check.found for check in verdict.checks if check.outcome == "warning"] == [
        "1.30 x (3.90 ms against 3.00 ms)"
    ]


def test_same_scores_give_the_same_verdict() -> None:
    changes = {"challenger_scores": scores_that_miss(range(90))}

    assert ask(**changes) == ask(**changes)


def test_config_of_a_fit_has_the_bar_and_its_manifest_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text("gate:\n  margin: 0\n  mcc_floor: 0.3\n")

    recorded = FitConfig.load(file).model_dump(mode="json")["gate"]

    assert GateConfig.load(recorded) == GateConfig(margin=0, mcc_floor=0.3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gate:\n  margin: yes\n", r"nightly.yaml: gate.margin: .*got True"),
        ("gate:\n  floor: 0.3\n", r"nightly.yaml: gate.floor: there is no such setting"),
        ("gate: 3\n", r"nightly.yaml: gate: .*got 3"),
        ("gate:\n  latency_ratio: .inf\n", r"nightly.yaml: gate.latency_ratio: .*finite.*got inf"),
        ("weight_decay: .inf\n", r"nightly.yaml: weight_decay: .*finite.*got inf"),
        ("clip_norm: .nan\n", r"nightly.yaml: clip_norm: .*got nan"),
    ],
)
def test_wrong_bar_in_a_config_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text(content)

    with pytest.raises(UsageError, match=message):
        FitConfig.load(file)


def test_options_win_over_what_the_fit_recorded() -> None:
    config = GateConfig.load({"margin": 0.1, "mcc_floor": 0.2, "of_a_later_program": 1}, margin=0.05, confidence=None)

    assert (config.margin, config.mcc_floor, config.confidence) == (0.05, 0.2, 0.95)


@pytest.mark.parametrize(
    ("recorded", "options", "message"),
    [
        ({}, {"margin": -1.0}, "--margin: "),
        ({}, {"mcc_floor": 1.0}, "--mcc-floor: "),
        ({}, {"min_rows": 0}, "--min-rows: "),
        ({}, {"latency_ratio": float("inf")}, "--latency-ratio: "),
        ({}, {"margin": float("nan")}, "--margin: "),
        ({"confidence": 0.5}, {}, "the version's own gate setting confidence: "),
    ],
)
def test_impossible_setting_is_named(recorded: dict[str, float], options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        GateConfig.load(recorded, **options)

    assert caught.value.exit_code == ExitCode.USAGE
