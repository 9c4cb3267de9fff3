"""``training list``, ``show`` and ``diff``: what a person sees before and after a version goes live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scorequeue.errors import ExitCode, UsageError
from scorequeue.registry import Registry
from tests.tiny import publish_tiny, rows_that_suit
from training.contest import Rows
from training.diff import compare, find_flips
from training.predict import Predictor
from training.quiet import quiet_libraries


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Three versions: the second went live and was rolled back, the third was refused."""
    registry = Registry(tmp_path_factory.mktemp("made") / "registry")
    with quiet_libraries():
        rows = rows_that_suit(0)
        fair = publish_tiny(registry.root, seed=1, rows=rows, training_config={"lr": 1e-4, "gate": {"margin": 0.02}})
        good = publish_tiny(registry.root, seed=0, rows=rows, training_config={"lr": 3e-4, "gate": {"margin": 0.02}})
        bad = publish_tiny(registry.root, seed=2)
    registry.promote(good, expected=fair, why="better", forced=True)
    registry.rollback(why="too strict")
    registry.refuse(bad, expected=fair, why="worse", numbers={})
    return registry


def run(registry: Registry, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", *arguments],
        env=os.environ | {"SCOREQUEUE_REGISTRY": str(registry.root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_list_says_how_it_went_with_each(registry: Registry) -> None:
    _, good, bad = registry.versions()

    lines = run(registry, "list").splitlines()[1:]
    rows = json.loads(run(registry, "list", "--json"))

    assert [line.split()[0] for line in lines] == ["*", good, bad]
    assert [line.rsplit("  ", 1)[1].strip() for line in lines] == ["brought back", "rolled back", "refused"]
    assert [row["went"] for row in rows] == ["brought back", "rolled back", "refused"]
    assert [row["is_current"] for row in rows] == [True, False, False]
    assert rows[1]["metrics"]["mcc"] == registry.manifest(good).metrics["mcc"]
    assert rows[2]["last"]["why"] == "worse"


def test_show_tells_the_life_of_a_version(registry: Registry) -> None:
    _, good, _ = registry.versions()

    shown = run(registry, "show", good)

    assert f"folder            {registry.path(good)}\n" in shown
    assert "forced: better\n" in shown
    assert "rolled back: too strict\n" in shown


def test_damaged_version_hides_no_other(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    first, second = publish_tiny(registry.root, seed=0), publish_tiny(registry.root, seed=1)
    (registry.path(first) / "manifest.json").write_text("{")

    lines = run(registry, "list").splitlines()
    rows = json.loads(run(registry, "list", "--json"))

    assert "damaged" in lines[1]
    assert "manifest.json" in lines[1]
    assert second in lines[2]
    assert [("error" in row, row["version"]) for row in rows] == [(True, first), (False, second)]


def test_diff_judges_both_on_the_same_rows(registry: Registry) -> None:
    fair, good, _ = registry.versions()

    found = compare(registry, fair, good)

    assert found.rows_from == good
    assert [figures.mcc for figures in found.figures] == pytest.approx(
        [registry.manifest(version).metrics["mcc"] for version in (fair, good)]
    )
    assert found.difference.low < found.figures[1].mcc - found.figures[0].mcc < found.difference.high
    assert [(change.name, change.first, change.second) for change in found.changes] == [
        ("seed", 1, 0), ("config.lr", 1e-4, 3e-4),
    ]  # fmt: skip


def test_flips_are_the_sentences_that_change_their_label(registry: Registry) -> None:
    """Counted and scored anew with each version's own folder."""
    fair, good, _ = registry.versions()

    flips = compare(registry, fair, good).flips

    kinds = [flip.kind for flip in flips]
    assert kinds == sorted(kinds, key=["harm", "gain", "other"].index)
    assert {"harm", "gain"} == set(kinds)
    texts = [flip.text for flip in flips]
    before, after = (Predictor(registry.path(version)).score(texts).numpy() for version in (fair, good))
    assert (before.argmax(-1) != after.argmax(-1)).all()
    place = [("unacceptable", "acceptable").index(flip.label) for flip in flips]
    assert [flip.second_score for flip in flips] == pytest.approx(after[np.arange(len(flips)), place], abs=1e-6)
    harm = [flip.first_score - flip.second_score for flip in flips if flip.kind == "harm"]
    assert harm == sorted(harm, reverse=True)


def test_flip_between_two_wrong_labels_comes_last() -> None:
    def scores(*labels: int) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[list(labels)]

    rows = Rows(("a", "b", "c", "d"), np.array([0, 0, 0, 0]), "made")

    flips = find_flips(rows, scores(1, 1, 0, 0), scores(2, 0, 1, 0), labels=("x", "y", "z"))

    assert [(flip.text, flip.kind, flip.first_label, flip.second_label) for flip in flips] == [
        ("c", "harm", "x", "y"),
        ("b", "gain", "y", "x"),
        ("a", "other", "y", "z"),
    ]


def test_diff_for_people_and_for_programs(registry: Registry) -> None:
    fair, good, _ = registry.versions()

    printed = run(registry, "diff", "current", good, "--flips", "2")
    parsed = json.loads(run(registry, "diff", fair, good, "--json"))

    assert printed.startswith(f"300 rows of {good}\n")
    assert "right -> wrong: " in printed
    assert "2 of them shown" in printed
    assert "config.lr" in printed
    assert parsed["metrics"]["second"]["mcc"] == pytest.approx(registry.manifest(good).metrics["mcc"])
    assert len(parsed["flips"]) > 10


def test_versions_of_other_labels_are_not_compared(registry: Registry) -> None:
    other = publish_tiny(registry.root, seed=0, labels=("no", "yes"))

    with pytest.raises(UsageError, match=r"labels should be the same but .* has no, yes"):
        compare(registry, registry.versions()[0], other)


def test_unknown_version_says_where_to_look(registry: Registry) -> None:
    run(registry, "diff", "current", "20200101T000000-000000", code=ExitCode.NO_SUCH_VERSION)
