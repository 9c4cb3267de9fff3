"""``training promote`` and ``rollback`` as a scheduler runs them: real versions, real scores, real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.tiny import publish_tiny, rows_that_suit
from training import sources
from training.contest import compare_golden
from training.gate_config import GateConfig
from training.predict import Predictor
from training.promote import promote
from training.quiet import quiet_libraries
from training.sources import Part, Split

GOOD, FAIR, BAD = 0, 1, 2
"""Seeds of tiny classifiers with an MCC of about 0.6, 0.2 and 0.0 on rows that suit the first."""


@dataclass
class Site:
    """A registry, and its versions by what they are."""

    registry: Registry
    fair: str
    bad: str
    good: str
    twin: str
    bare: str
    foreign: str

    def run(self, *arguments: str, code: int = ExitCode.DONE, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments),
            cwd=self.registry.root.parent,
            env=os.environ | {"SCOREQUEUE_REGISTRY": str(self.registry.root)} | environment,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "training.cli", *arguments]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("made") / "registry"
    with quiet_libraries():
        rows = rows_that_suit(GOOD)
        fair, bad, good = (publish_tiny(root, seed=seed, rows=rows) for seed in (FAIR, BAD, GOOD))
        twin = publish_tiny(root, seed=FAIR, rows=rows)
        bare = publish_tiny(root, seed=BAD)
        foreign = publish_tiny(root, seed=GOOD, labels=("no", "yes"))
    return Site(Registry(root), fair, bad, good, twin, bare, foreign)


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    """A copy, with the fair one live."""
    shutil.copytree(made.registry.root, tmp_path / "registry")
    return Site(**{**vars(made), "registry": Registry(tmp_path / "registry")})


def test_better_goes_live_worse_is_refused_and_one_command_goes_back(site: Site) -> None:
    """The whole point: every night the better one goes live by itself, a worse one never does."""
    promoted = site.run("promote", site.good)
    assert site.registry.current() == site.good
    assert f"{site.good} is current: MCC 0.6" in promoted.stdout

    refused = site.run("promote", site.bad, code=ExitCode.GATE_REFUSED)
    assert site.registry.current() == site.good
    assert refused.stderr.splitlines()[-1].startswith(f"Error: {site.bad} was not promoted: its MCC of -0.0")

    back = site.run("rollback", "--why", "too strict")
    assert (back.stdout, site.registry.current()) == (f"{site.fair}\n", site.fair)

    entries = site.registry.history()[1:]
    assert [(entry.action, entry.from_version, entry.to_version) for entry in entries] == [
        ("promote", site.fair, site.good),
        ("refuse", site.good, site.bad),
        ("rollback", site.good, site.fair),
    ]
    assert entries[0].numbers["champion"]["mcc"] == pytest.approx(
        site.registry.manifest(site.fair).metrics["mcc"], abs=1e-6
    )
    assert entries[1].numbers["difference"]["mcc"] < -0.4
    assert entries[1].numbers["rows_from"] == site.bad
    assert entries[2].why == "too strict"


def test_json_is_one_object_also_of_a_refusal(site: Site) -> None:
    refused = json.loads(site.run("promote", site.bad, "--json", code=ExitCode.GATE_REFUSED).stdout)
    promoted = json.loads(site.run("promote", site.good, "--json", "--quiet").stdout)

    assert (refused["promoted"], promoted["promoted"], promoted["previous"]) == (False, True, site.fair)
    assert [check["what"] for check in promoted["checks"]] == [
        "golden sentences", "rows", "MCC", "gain", "risk", "latency",
    ]  # fmt: skip


def test_force_leaves_its_trace(site: Site) -> None:
    site.run("promote", site.bad, "--force", "--why", "a rule of law")

    entry = site.registry.history()[-1]
    assert (site.registry.current(), entry.forced, entry.why) == (site.bad, True, "a rule of law")
    assert "is not above" in entry.numbers["verdict"]
    assert entry.numbers["difference"]["mcc"] < 0


def test_force_without_a_reason_is_wrong_usage(site: Site) -> None:
    assert "--force needs --why" in site.run("promote", site.bad, "--force", code=ExitCode.USAGE).stderr
    assert len(site.registry.history()) == 1


def test_twin_of_the_current_one_is_no_better(site: Site) -> None:
    outcome = promote(site.registry, site.twin, config=GateConfig())

    assert outcome.verdict.reason == f"it is no better: it has the weights of {site.fair}, which is current"
    assert outcome.error().exit_code == ExitCode.GATE_REFUSED


def test_current_one_stays_so_and_leaves_no_line(site: Site) -> None:
    """A scheduler that runs it again has done nothing wrong."""
    assert site.run("promote", site.fair).stdout == f"{site.fair} is current already\n"
    assert len(site.registry.history()) == 1


def test_rows_are_the_champions_where_the_challenger_has_none(site: Site) -> None:
    numbers = promote(site.registry, site.bare, config=GateConfig()).verdict.numbers

    assert (numbers["rows_from"], numbers["rows"]) == (site.fair, 300)


def cut(rows: Split, *, start: int = 0, stop: int | None = None) -> Split:
    return Split(rows.texts[start:stop], rows.labels[start:stop])


def test_challenger_does_not_choose_what_it_is_asked(site: Site) -> None:
    """Judged on rows that suit it alone, a version with an MCC of 0 on the champion's went live."""
    stranger = publish_tiny(site.registry.root, seed=BAD, rows=rows_that_suit(BAD))

    outcome = promote(site.registry, stranger, config=GateConfig())
    chosen = promote(site.registry, stranger, config=GateConfig(mcc_floor=-1), part=Part("sample"))

    assert not outcome.promoted
    assert outcome.verdict.reason.startswith(f"on the 300 rows that {site.fair} was evaluated on its MCC is ")
    (entry, _) = site.registry.history()[-2:]
    assert entry.numbers["difference"]["mcc"] > 0.2
    own = entry.numbers["champion_rows"]
    assert own["champion"]["mcc"] == pytest.approx(site.registry.manifest(site.fair).metrics["mcc"], abs=1e-6)
    assert own["challenger"]["mcc"] == pytest.approx(site.registry.manifest(site.bad).metrics["mcc"], abs=1e-6)
    assert "champion_rows" not in chosen.verdict.numbers, "a person has chosen the rows"


def test_rows_of_data_that_grew_have_the_champions_among_them(site: Site) -> None:
    """The usual night: nothing more is asked of a version than to be better on all of them."""
    rows = rows_that_suit(GOOD)
    site.registry.promote(
        publish_tiny(site.registry.root, seed=FAIR, rows=cut(rows, start=30)), expected=site.fair, why="yesterday"
    )

    outcome = promote(site.registry, site.good, config=GateConfig())

    assert outcome.promoted
    assert "champion_rows" not in outcome.verdict.numbers


def test_rows_that_left_the_data_are_asked_too(site: Site) -> None:
    tomorrow = publish_tiny(site.registry.root, seed=GOOD, rows=cut(rows_that_suit(GOOD), start=100), max_length=48)

    numbers = promote(site.registry, tomorrow, config=GateConfig()).verdict.numbers

    assert (numbers["rows"], numbers["champion_rows"]["rows"]) == (200, 300)
    assert numbers["champion_rows"]["difference"]["mcc"] > 0.2
    assert site.registry.current() == tomorrow


def test_few_rows_are_refused_and_an_option_allows_them(site: Site) -> None:
    few = publish_tiny(site.registry.root, seed=GOOD, rows=cut(rows_that_suit(GOOD), stop=60), max_length=48)

    refused = site.run("promote", few, code=ExitCode.GATE_REFUSED)
    site.run("promote", few, "--min-rows", "60")

    assert "60 rows are too few to judge on, min_rows is 100" in refused.stderr
    assert site.registry.current() == few


def test_without_any_rows_a_dataset_is_asked_for(site: Site) -> None:
    (site.registry.root / "current").write_text(site.bare + "\n")

    said = site.run("promote", site.foreign, code=ExitCode.USAGE)

    assert "no evaluated rows to judge on; name some with --dataset" in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_dataset_is_judged_on_instead(site: Site) -> None:
    said = json.loads(
        site.run("promote", site.good, "--dataset", "sample", "--json", code=ExitCode.GATE_REFUSED).stdout
    )

    assert said["numbers"]["rows_from"] == "dataset sample, split dev"
    assert said["numbers"]["rows"] == len(sources.load_split("sample", "dev", seed=0))


def test_other_labels_cannot_be_compared(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"The dog slept {n} times.,{('no', 'yes')[n % 2]}\n" for n in range(40)))

    outcome = promote(
        site.registry, site.foreign, config=GateConfig(mcc_floor=-1, min_rows=1), part=Part(str(file), "all")
    )

    assert not outcome.promoted
    assert "its labels are unacceptable, acceptable, the challenger's no, yes" in outcome.verdict.reason


def test_order_of_the_labels_does_not_matter(site: Site) -> None:
    """The same labels, output the other way round: the columns are matched by name."""
    turned = publish_tiny(site.registry.root, seed=GOOD, labels=("acceptable", "unacceptable"))

    outcome = promote(site.registry, turned, config=GateConfig(mcc_floor=-1))

    metrics = site.registry.manifest(site.good).metrics
    assert outcome.verdict.numbers["challenger"]["mcc"] == pytest.approx(-metrics["mcc"], abs=1e-6)
    assert outcome.verdict.numbers["champion"]["mcc"] == pytest.approx(
        site.registry.manifest(site.fair).metrics["mcc"], abs=1e-6
    )


def test_bar_is_an_option_a_variable_and_a_setting_of_the_fit(site: Site) -> None:
    """``gate:`` in the config of a fit goes along in its manifest."""
    recorded = {"gate": {"mcc_floor": 0.9, "margin": 0.03}}
    strict = publish_tiny(site.registry.root, seed=GOOD, rows=rows_that_suit(GOOD), training_config=recorded)

    refused = site.run("promote", strict, code=ExitCode.GATE_REFUSED, SCOREQUEUE_GATE_CONFIDENCE="0.8")
    site.run("promote", strict, "--mcc-floor", "0.1", SCOREQUEUE_GATE_MCC_FLOOR="0.8")

    assert "floor of 0.900" in refused.stderr
    assert "above -0.030 with 80 % confidence" in refused.stdout
    assert site.registry.current() == strict


def test_of_two_trainers_at_once_one_is_told_to_judge_again(site: Site) -> None:
    """Both are better than what they saw; the second was not judged against the first."""
    rival = publish_tiny(site.registry.root, seed=GOOD, rows=rows_that_suit(GOOD), max_length=48)
    processes = [
        subprocess.Popen(
            command("promote", version, "--registry", str(site.registry.root)), stderr=subprocess.PIPE, text=True
        )
        for version in (site.good, rival)
    ]
    said = {process.wait(100): process.communicate()[1] for process in processes}

    assert set(said) == {ExitCode.DONE, ExitCode.GATE_REFUSED}
    assert "judge it again" in said[ExitCode.GATE_REFUSED] or "is not above" in said[ExitCode.GATE_REFUSED]
    assert site.registry.current() in (site.good, rival)
    assert [entry.action for entry in site.registry.history()].count("promote") == 2


def test_one_golden_sentence_that_does_not_repeat_is_enough(site: Site) -> None:
    """The largest difference counts: the other sentences agree."""
    manifest = site.registry.manifest(site.good)
    last = manifest.golden[-1]
    turned = last.model_copy(update={"scores": (last.scores[0] + 0.02, last.scores[1] - 0.02)})
    predictor = Predictor(site.registry.path(site.good))

    assert compare_golden(predictor, manifest.golden) < 1e-5
    assert compare_golden(predictor, [*manifest.golden[:-1], turned]) == pytest.approx(0.02, abs=1e-5)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_lost_pointer_lets_nothing_in_unjudged(site: Site, content: bytes | None) -> None:
    """Gone or damaged: what cannot be read has not been beaten. A person decides, or goes back."""
    pointer = site.registry.root / "current"
    pointer.unlink() if content is None else pointer.write_bytes(content)

    refused = promote(site.registry, site.good, config=GateConfig())
    assert "it cannot be compared with what was current: " in refused.error().args[0]
    assert "`training rollback`" in refused.error().args[0]
    assert site.registry.pointed() is None

    site.run("promote", site.good, "--force", "--why", "the pointer was lost")
    assert (site.registry.current(), site.registry.previous()) == (site.good, site.fair)


def test_damaged_champion_is_no_reason_to_put_anything_live(site: Site) -> None:
    """Nobody can say that it is better; a person can."""
    weights = site.registry.path(site.fair) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    refused = site.run("promote", site.good, code=ExitCode.GATE_REFUSED)
    assert str(weights) in refused.stderr

    site.run("promote", site.good, "--force", "--why", "the other one is broken")
    assert site.registry.current() == site.good


def test_rollback_to_nowhere_says_so(site: Site) -> None:
    said = site.run("rollback", code=ExitCode.NO_SUCH_VERSION)

    assert said.stderr.startswith("Error: nothing to go back to")
    assert len(said.stderr.splitlines()) == 1
