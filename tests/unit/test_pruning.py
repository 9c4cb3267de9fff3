"""Old versions go whole or not at all, and none that anybody needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scorequeue.errors import MarkHeldError, VerificationError
from scorequeue.marks import Mark
from scorequeue.pruning import prune
from scorequeue.registry import ManifestDraft, Registry
from tests.tiny import make_tiny_base

DRAFT = ManifestDraft(base_model="tiny", labels=("LABEL_0", "LABEL_1"), max_length=64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "model")
    config = folder / "config.json"
    config.write_text(config.read_text()[:-2] + ', "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}')
    return folder


@pytest.fixture
def registry(tmp_path: Path, tiny: Path) -> Registry:
    """Six versions; the first is current."""
    registry = Registry(tmp_path / "registry")
    for _ in range(6):
        registry.publish(tiny, draft=DRAFT)
    return registry


def hidden(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.root / "versions").iterdir() if path.name.startswith("."))


def test_newest_stay_and_what_is_needed(registry: Registry) -> None:
    """Current, the way back, and what jobs and workers have, whatever their age."""
    a, b, c, d, e, f = registry.versions()
    registry.promote(b, expected=a, why="better")
    registry.promote(c, expected=b, why="better")

    found = prune(registry, keep=1, find_in_use=lambda: {d: "job 7 is pinned to it", f: "it is new anyway"})

    assert found.removed == (a, e)
    assert found.spared == {
        b: "rollback would bring it back", c: "it is current", d: "job 7 is pinned to it",
    }  # fmt: skip
    assert registry.versions() == [b, c, d, f]
    assert registry.rollback(why="still there") == b
    assert hidden(registry) == []


def test_way_back_that_is_gone_is_not_what_is_kept(registry: Registry) -> None:
    """What rollback would really bring back counts, not what the history names."""
    a, b, c, *_ = registry.versions()
    registry.promote(b, expected=a, why="better")
    registry.promote(c, expected=b, why="better")
    registry.path(b).rename(registry.root / "versions" / ".pruned-b")

    assert a in prune(registry, keep=1, find_in_use=dict).spared
    assert registry.rollback(why="further back") == a


def test_dry_run_removes_nothing(registry: Registry) -> None:
    before = registry.versions()

    found = prune(registry, keep=2, find_in_use=dict, is_dry_run=True)

    assert found.removed == tuple(before[1:4])
    assert registry.versions() == before


def test_fewer_versions_than_are_to_stay(registry: Registry) -> None:
    assert prune(registry, keep=100, find_in_use=dict).removed == ()
    assert prune(Registry(registry.root / "none"), keep=1, find_in_use=dict).removed == ()


def test_leftovers_of_killed_programs_go(registry: Registry) -> None:
    """Those of a prune at once, those of a publish after a day: a younger one may still be written."""
    versions = registry.root / "versions"
    for name in (".pruned-old", ".incoming-old", ".incoming-now"):
        (versions / name).mkdir()
        (versions / name / "model.safetensors").write_bytes(b"half")
    for path in (versions / ".incoming-old" / "model.safetensors", versions / ".incoming-old"):
        os.utime(path, (0, 0))

    found = prune(registry, keep=100, find_in_use=dict)

    assert found.leftovers == (".incoming-old", ".pruned-old")
    assert hidden(registry) == [".incoming-now"]


def test_damaged_pointer_removes_nothing(registry: Registry) -> None:
    """Nobody knows then what is current."""
    before = registry.versions()
    (registry.root / "current").write_text("?")

    with pytest.raises(VerificationError, match="rollback"):
        prune(registry, keep=1, find_in_use=dict)

    assert registry.versions() == before


def test_promote_and_prune_do_not_meet(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorequeue.registry.MARK_WAIT_S", 0.0)

    with Mark(registry.root / ".promoting", stale_s=60), pytest.raises(MarkHeldError):
        prune(registry, keep=1, find_in_use=dict)

    assert len(registry.versions()) == 6


def test_what_is_in_use_is_asked_when_nothing_else_is_left_to_wait_for(registry: Registry) -> None:
    """A job that was submitted while the prune waited for its turn keeps its version."""
    asked = []

    def find_in_use() -> dict[str, str]:
        asked.append((registry.root / ".promoting").exists())
        return dict.fromkeys(registry.versions(), "a job is pinned to it")

    assert prune(registry, keep=1, find_in_use=find_in_use).removed == ()
    assert asked == [True]


def test_prune_that_lost_its_turn_removes_nothing(registry: Registry) -> None:
    """It was stopped, and somebody else has been let in, who may have put an old version live."""
    before = registry.versions()

    def lose() -> dict[str, str]:
        (registry.root / ".promoting").unlink()
        return {}

    assert prune(registry, keep=1, find_in_use=lose).removed == ()
    assert registry.versions() == before


def test_file_that_is_open_elsewhere_goes_with_the_next_prune(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server keeps what another host has open, under another name, until that closes it."""
    _, second, *_ = registry.versions()
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda path, **_: None)
        found = prune(registry, keep=4, find_in_use=dict)

    assert found.removed == (second,)
    assert len(found.undeleted) == 1
    again = prune(registry, keep=4, find_in_use=dict)
    assert (again.leftovers, again.undeleted) == (found.undeleted, ())
