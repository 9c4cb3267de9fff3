"""Refreshes that something comes between: a kill, a stop, another program, a registry that cannot be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import training.fit
import training.promote
import training.refresh
from scorequeue.errors import InternalError, MarkHeldError, VersionError
from scorequeue.marks import read_holder
from scorequeue.registry import Registry
from tests.tiny import make_tiny_base, publish_tiny, rows_that_suit
from training import sample
from training.config import FitConfig
from training.refresh import refresh
from training.runs import Run
from training.sources import DEV_FILE, LABELS, TRAIN_FILE

GOOD, FAIR, BAD = 0, 1, 2
"""Seeds of tiny classifiers, from good to bad on rows that suit the first."""

OTHER_HOLDER = '{"host": "node-2", "pid": 7, "since": "2026-11-25T02:15:00+00:00", "token": "other"}'


class Killed(Exception):
    """What ends a refresh here at a place; tests/faults kills processes."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refreshed")
    make_tiny_base(folder / "base")
    for name, rows in zip((TRAIN_FILE, DEV_FILE), sample.make(seed=0, train_pairs=20, dev_pairs=10), strict=True):
        (folder / name).write_text("".join(f"made\t{label}\t\t{text}\n" for text, label in rows), "utf-8")
    return folder


@pytest.fixture
def configure(material: Path, tmp_path: Path) -> Callable[..., FitConfig]:
    def make(**settings: Any) -> FitConfig:
        usual = {"dataset": str(material), "base_model": str(material / "base"), "epochs": 1, "logger": "csv"}
        return FitConfig.load(**{**usual, **settings}, registry=tmp_path / "registry", runs=tmp_path / "runs")

    return make


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, FitConfig], None]:
    """Run a refresh that ends where it would call a function."""

    def run(module: Any, name: str, config: FitConfig) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, **__: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                refresh(config)

    return run


@pytest.fixture(scope="module")
def good_rows() -> Any:
    return rows_that_suit(GOOD)


@pytest.fixture
def contest(tmp_path: Path, good_rows: Any) -> tuple[Registry, str, str, str]:
    """A registry with a bad version live, and a fair and a good one to come."""
    root = tmp_path / "registry"
    bad, fair, good = (publish_tiny(root, seed=seed, rows=good_rows) for seed in (BAD, FAIR, GOOD))
    return Registry(root), bad, fair, good


def test_a_killed_warm_start_is_gone_on_with_whatever_the_order_of_its_labels(
    configure: Callable[..., FitConfig], kill_at: Callable[[Any, str, FitConfig], None]
) -> None:
    config = configure(warm_start=True)
    parent = publish_tiny(config.registry, labels=LABELS[::-1])
    kill_at(training.fit, "publish", config)

    result = refresh(config)

    assert result.version is not None
    assert Registry(config.registry).manifest(result.version).parent == parent
    assert len(list(config.runs.iterdir())) == 1


def test_a_version_that_was_not_judged_is_judged_by_the_next_refresh(
    configure: Callable[..., FitConfig], kill_at: Callable[[Any, str, FitConfig], None]
) -> None:
    """Fitting takes hours and judging seconds; a kill between the two must not cost the hours."""
    config = configure()
    registry = Registry(config.registry)
    publish_tiny(config.registry)
    kill_at(training.refresh, "_judge", config)
    unjudged = registry.versions()[-1]

    judged = refresh(config)
    after = registry.versions()
    fitted = refresh(config)

    assert (judged.version, after[-1]) == (unjudged, unjudged)
    assert judged.verdict is not None
    assert fitted.version not in after, "one that was judged is done with"


def test_a_killed_fit_whose_checkpoint_is_damaged_is_begun_anew(
    configure: Callable[..., FitConfig], kill_at: Callable[[Any, str, FitConfig], None]
) -> None:
    """It would keep every later refresh out: the same settings find the same run again each night."""
    kill_at(training.fit, "publish", configure())
    (damaged,) = configure().runs.rglob("best-*.ckpt")
    damaged.write_bytes(damaged.read_bytes()[:1000])

    result = refresh(configure())

    assert result.promoted
    assert len(list(configure().runs.iterdir())) == 2


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_champion_ends_a_refresh_before_it_fits(damage: str, configure: Callable[..., FitConfig]) -> None:
    """Refused versions every night, each with exit 0, would hide it."""
    config = configure()
    registry = Registry(config.registry)
    champion = registry.path(publish_tiny(config.registry))
    if damage == "missing":
        shutil.rmtree(champion)
    else:
        (champion / "config.json").write_text("{}")

    with pytest.raises(VersionError, match=champion.name):
        refresh(config)

    assert not config.runs.exists()


def test_other_settings_do_not_take_the_version_that_was_not_judged(
    configure: Callable[..., FitConfig], kill_at: Callable[[Any, str, FitConfig], None]
) -> None:
    publish_tiny(configure().registry)
    kill_at(training.refresh, "_judge", configure())
    before = Registry(configure().registry).versions()

    assert refresh(configure(seed=1)).version not in before


def test_a_version_that_its_run_does_not_know_of_is_judged_too(
    configure: Callable[..., FitConfig], kill_at: Callable[[Any, str, FitConfig], None]
) -> None:
    """Killed between the version's rename and the note of it in the run's record."""
    config = configure()
    publish_tiny(config.registry)
    kill_at(Run, "finish", config)
    versions = Registry(config.registry).versions()

    result = refresh(config)

    assert result.version == versions[-1]
    assert result.verdict is not None
    assert Registry(config.registry).versions() == versions


def test_a_killed_warm_start_is_left_alone_when_another_version_is_live(
    configure: Callable[..., FitConfig], kill_at: Callable[[Any, str, FitConfig], None]
) -> None:
    config = configure(warm_start=True)
    old, new = (publish_tiny(config.registry, seed=seed) for seed in (0, 1))
    kill_at(training.fit, "publish", config)
    Registry(config.registry).promote(new, expected=old, why="a person was faster")

    result = refresh(config)

    assert Registry(config.registry).manifest(str(result.version)).parent == new


def test_a_killed_fit_is_left_alone_when_the_data_has_changed(
    configure: Callable[..., FitConfig],
    kill_at: Callable[[Any, str, FitConfig], None],
    material: Path,
    tmp_path: Path,
) -> None:
    config = configure(dataset=str(shutil.copytree(material, tmp_path / "data")))
    kill_at(training.fit, "publish", config)
    with (tmp_path / "data" / TRAIN_FILE).open("a") as file:
        file.write("made\t1\t\tOne more.\n")

    assert refresh(config).version is not None
    assert len(list(config.runs.iterdir())) == 2


def test_a_version_is_judged_again_where_what_is_live_changed_meanwhile(
    contest: tuple[Registry, str, str, str], configure: Callable[..., FitConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who promotes during the refresh: the verdict was about another champion, not this one."""
    registry, bad, fair, good = contest
    hold = training.promote.hold

    def interrupted(*arguments: Any, **named: Any) -> Any:
        found = hold(*arguments, **named)
        if registry.current() == bad:
            registry.promote(fair, expected=bad, why="a person was faster")
        return found

    monkeypatch.setattr(training.promote, "hold", interrupted)
    monkeypatch.setattr(training.refresh, "_fit", lambda *_, **__: good)

    result = refresh(configure())

    assert (result.promoted, result.previous, registry.current()) == (True, fair, good)
    assert f"of {fair} on the same" in result.reason


def test_a_refresh_that_lost_its_mark_promotes_nothing(
    contest: tuple[Registry, str, str, str], configure: Callable[..., FitConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped for so long that another one began; what that puts live must not be replaced by older work."""
    registry, bad, _, good = contest

    def stopped_for_long(*_: Any, **__: Any) -> str:
        (registry.root / ".refreshing").write_text(OTHER_HOLDER)
        return good

    monkeypatch.setattr(training.refresh, "_fit", stopped_for_long)

    result = refresh(configure())

    assert (result.version, result.promoted, registry.current()) == (good, False, bad)
    assert "another refresh took over" in result.reason
    assert read_holder(registry.root / ".refreshing").token == "other"


@pytest.mark.parametrize(("times", "promoted"), [(1, True), (9, False)])
def test_a_registry_that_is_kept_busy_is_asked_again(
    times: int,
    promoted: bool,
    contest: tuple[Registry, str, str, str],
    configure: Callable[..., FitConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prune on a slow volume holds the registry's mark; a whole fit must not be given up for that."""
    registry, bad, _, good = contest
    move, waits = Registry._move, iter(range(times))

    def busy(self: Registry, *rest: Any) -> None:
        if next(waits, None) is not None:
            raise MarkHeldError(".promoting is held by process 7 on node-2")
        move(self, *rest)

    monkeypatch.setattr(Registry, "_move", busy)
    monkeypatch.setattr(training.refresh, "_fit", lambda *_, **__: good)

    result = refresh(configure())

    assert (result.promoted, registry.current()) == (promoted, good if promoted else bad)
    assert promoted or result.reason == f"{good} is published, not judged: .promoting is held by process 7 on node-2"


def test_how_a_version_became_current_without_the_gate_is_said(
    contest: tuple[Registry, str, str, str], configure: Callable[..., FitConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, bad, _, good = contest
    monkeypatch.setattr(training.refresh, "_fit", lambda *_, **__: registry.current())

    first = refresh(configure())
    registry.promote(good, expected=bad, why="a person was faster")
    later = refresh(configure())

    assert (first.promoted, first.previous, first.reason) == (True, None, "it is the first: nothing was current before")
    assert (later.promoted, later.previous) == (True, bad)
    assert later.reason == "another program has put it live already"


def test_a_registry_that_cannot_be_written_is_named(configure: Callable[..., FitConfig], tmp_path: Path) -> None:
    (tmp_path / "odd" / ".refreshing").mkdir(parents=True)
    for folder in (Path("/sys"), tmp_path / "odd"):
        with pytest.raises(InternalError, match=rf"registry {folder} cannot be written: .*--registry"):
            refresh(configure().model_copy(update={"registry": folder}))
