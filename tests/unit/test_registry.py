"""What is published is whole, what is verified is unchanged, and current moves only from where it was seen."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode, GateRefusedError, InternalError, VerificationError, VersionNotFoundError
from scorequeue.registry import ManifestDraft, Registry
from tests.processes import until
from tests.tiny import make_tiny_base, publish_tiny

LABELS = ("LABEL_0", "LABEL_1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "model")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): label for index, label in enumerate(LABELS)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def draft(**changes: object) -> ManifestDraft:
    return ManifestDraft(**({"base_model": "tiny", "labels": LABELS, "max_length": 64} | changes))


def test_first_version_becomes_current_and_leaves_a_line(registry: Registry, tiny: Path) -> None:
    first = registry.publish(tiny, draft=draft())
    second = registry.publish(tiny, draft=draft(seed=1))

    assert registry.current() == first
    assert registry.versions() == [first, second]
    assert [(entry.from_version, entry.to_version) for entry in registry.history()] == [(None, first)]


def test_manifest_survives_the_way_to_disk(registry: Registry, tiny: Path) -> None:
    version = registry.publish(tiny, draft=draft(seed=7, metrics={"mcc": 0.25}, dataset={"name": "sample"}))

    manifest = registry.verify(version)

    assert (manifest.seed, manifest.metrics, manifest.labels) == (7, {"mcc": 0.25}, LABELS)
    assert manifest.created_at.utcoffset().total_seconds() == 0
    assert set(manifest.files) == {path.name for path in tiny.iterdir()}


def test_a_report_knows_its_version_and_is_verified_like_any_file(
    registry: Registry, tiny: Path, tmp_path: Path
) -> None:
    """A folder's old report is another version's: what is exported from one may be published anew."""
    folder = shutil.copytree(tiny, tmp_path / "exported")
    (folder / "report.html").write_text("the old one")

    version = registry.publish(folder, draft=draft(), report=lambda manifest: f"<h1>{manifest.version}</h1>")

    report = registry.path(version) / "report.html"
    assert report.read_text() == f"<h1>{version}</h1>"
    registry.verify(version)
    report.write_text("<h1>another</h1>")
    with pytest.raises(VerificationError, match=r"report\.html"):
        registry.verify(version)


def test_publish_leaves_no_trace_of_its_work(registry: Registry, tiny: Path) -> None:
    version = registry.publish(tiny, draft=draft())

    assert [path.name for path in (registry.root / "versions").iterdir()] == [version]
    assert sorted(path.name for path in registry.root.iterdir()) == ["current", "history.jsonl", "versions"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_is_found(registry: Registry, tiny: Path, name: str) -> None:
    version = registry.publish(tiny, draft=draft())
    file = registry.path(version) / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)

    with pytest.raises(VerificationError, match=name):
        registry.verify(version)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "manifest.json"])
def test_a_missing_file_is_named(registry: Registry, tiny: Path, name: str) -> None:
    version = registry.publish(tiny, draft=draft())
    (registry.path(version) / name).unlink()

    with pytest.raises(VerificationError, match=name):
        registry.verify(version)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_config.json", "model-00002.safetensors"])
def test_an_unlisted_file_is_refused(registry: Registry, tiny: Path, name: str) -> None:
    """transformers would load some of them instead of, or on top of, the verified weights."""
    version = registry.publish(tiny, draft=draft())
    (registry.path(version) / name).write_bytes(b"x")

    with pytest.raises(VerificationError, match=name):
        registry.verify(version)


def test_pickled_weights_are_never_published(registry: Registry, tiny: Path, tmp_path: Path) -> None:
    folder = copy(tiny, tmp_path / "copy")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    with pytest.raises(VerificationError, match=r"pytorch_model\.bin.*pickle"):
        registry.publish(folder, draft=draft())

    assert registry.versions() == []


def test_a_cut_off_weights_file_is_never_published(registry: Registry, tiny: Path, tmp_path: Path) -> None:
    folder = copy(tiny, tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(VerificationError, match="cut off"):
        registry.publish(folder, draft=draft())


def test_labels_that_the_config_does_not_have_are_refused(registry: Registry, tiny: Path) -> None:
    with pytest.raises(VerificationError, match="labels"):
        registry.publish(tiny, draft=draft(labels=("no", "yes")))


def test_a_half_written_folder_is_not_a_version(registry: Registry, tiny: Path) -> None:
    version = registry.publish(tiny, draft=draft())
    aside = registry.root / "versions" / ".incoming-0123456789abcdef"
    aside.mkdir()
    (aside / "model.safetensors").write_bytes(b"half")

    assert registry.versions() == [version]


def test_a_registry_that_cannot_be_written_is_our_fault(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "registry").write_text("a file where the folder should be")

    with pytest.raises(InternalError, match="cannot publish anything to"):
        Registry(tmp_path / "registry").publish(tiny, draft=draft())


def test_promote_moves_current_only_from_where_it_was_seen(registry: Registry, tiny: Path) -> None:
    first = registry.publish(tiny, draft=draft())
    second = registry.publish(tiny, draft=draft(seed=1))
    third = registry.publish(tiny, draft=draft(seed=2))

    registry.promote(second, expected=first, why="better", numbers={"mcc": 0.5})
    with pytest.raises(GateRefusedError, match=f"current is {second}, not {first}"):
        registry.promote(third, expected=first, why="also better")

    assert registry.current() == second
    assert [(entry.to_version, entry.numbers) for entry in registry.history()] == [(first, {}), (second, {"mcc": 0.5})]


def test_of_many_promotes_at_once_one_wins(registry: Registry, tiny: Path) -> None:
    first = registry.publish(tiny, draft=draft())
    rivals = [registry.publish(tiny, draft=draft(seed=seed)) for seed in range(1, 7)]
    won: list[str] = []

    def promote(version: str) -> None:
        try:
            registry.promote(version, expected=first, why="race")
        except GateRefusedError:
            return
        won.append(version)

    threads = [threading.Thread(target=promote, args=(version,)) for version in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert won == [registry.current()]
    assert len(registry.history()) == 2


def test_promote_refuses_a_version_that_does_not_verify(registry: Registry, tiny: Path) -> None:
    first = registry.publish(tiny, draft=draft())
    second = registry.publish(tiny, draft=draft(seed=1))
    (registry.path(second) / "config.json").write_text("{}")

    with pytest.raises(VerificationError, match=r"config\.json"):
        registry.promote(second, expected=first, why="better")

    assert registry.current() == first


def test_a_torn_history_line_hides_no_other(registry: Registry, tiny: Path) -> None:
    first = registry.publish(tiny, draft=draft())
    second = registry.publish(tiny, draft=draft(seed=1))
    with (registry.root / "history.jsonl").open("a") as file:
        file.write('{"at": "2026-')

    registry.promote(second, expected=first, why="better")

    assert [entry.to_version for entry in registry.history()] == [first, second]


@pytest.mark.parametrize(
    "name", ["../../etc", "", ".", "20261123T101500-1f3c9a/../x", "20261123T101500-1f3c9a\n", "/etc"]
)
def test_a_name_never_leads_out_of_the_registry(registry: Registry, tiny: Path, name: str) -> None:
    registry.publish(tiny, draft=draft())

    with pytest.raises(VersionNotFoundError):
        registry.path(name)


def test_a_manifest_cannot_name_files_outside_of_its_version(registry: Registry, tiny: Path) -> None:
    version = registry.publish(tiny, draft=draft())
    file = registry.path(version) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["../../../outside"] = "0" * 64
    file.write_text(json.dumps(manifest))

    with pytest.raises(VerificationError, match="outside"):
        registry.verify(version)


def test_an_empty_registry_says_what_to_do(registry: Registry) -> None:
    with pytest.raises(VersionNotFoundError, match="training fit") as caught:
        registry.resolve(None)

    assert caught.value.exit_code == ExitCode.NO_SUCH_VERSION
    assert registry.current() is None


def test_versions_of_one_second_keep_their_order(tmp_path: Path) -> None:
    published = [publish_tiny(tmp_path, seed=seed) for seed in range(3)]

    assert Registry(tmp_path).versions() == published


def test_a_damaged_pointer_is_not_followed(registry: Registry, tiny: Path) -> None:
    registry.publish(tiny, draft=draft())
    (registry.root / "current").write_text("../../../etc\n")

    with pytest.raises(VerificationError, match="should hold one version name"):
        registry.resolve(None)


def test_rollback_goes_back_one_by_one(registry: Registry, tiny: Path) -> None:
    first, second, third = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(3))
    registry.promote(second, expected=first, why="better")
    registry.promote(third, expected=second, why="better")

    assert (registry.previous(), registry.rollback(why="worse than it looked")) == (second, second)
    assert registry.rollback(why="no") == first
    with pytest.raises(VersionNotFoundError, match="nothing to go back to"):
        registry.rollback(why="no")

    assert registry.current() == first
    assert [(entry.action, entry.to_version) for entry in registry.history()][3:] == [
        ("rollback", second),
        ("rollback", first),
    ]


def test_rollback_passes_over_what_is_gone(registry: Registry, tiny: Path) -> None:
    first, second, third = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(3))
    registry.promote(second, expected=first, why="better")
    registry.promote(third, expected=second, why="better")
    shutil.rmtree(registry.path(second))

    assert registry.rollback(why="worse") == first


def test_lost_pointer_is_no_empty_registry(registry: Registry, tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next version would be live unjudged, whatever it is."""
    first, second = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(2))
    registry.promote(second, expected=first, why="better")
    (registry.root / "current").unlink()

    third = registry.publish(tiny, draft=draft(seed=2))

    assert registry.current() is None
    assert f"{third} is published, not current" in caplog.text
    assert "`training rollback` brings that back" in registry.loss()
    with pytest.raises(VersionNotFoundError, match=f"is gone, which named {second}: `training rollback`"):
        registry.resolve(None)
    assert registry.rollback(why="lost") == second
    assert registry.loss() == ""


def test_registry_in_which_nothing_went_live_has_lost_nothing(registry: Registry, tiny: Path) -> None:
    version = registry.publish(tiny, draft=draft())
    (registry.root / "current").unlink()
    (registry.root / "history.jsonl").unlink()
    registry.refuse(version, expected=None, why="worse", numbers={})

    assert registry.loss() == ""
    assert registry.publish(tiny, draft=draft()) == registry.current()


PROMOTE = """
import os, signal, sys
from pathlib import Path
import scorequeue.registry
from scorequeue.errors import GateRefusedError

scorequeue.registry.MARK_STALE_S = 0.4
root, version, expected, place, file = sys.argv[1:]
act = getattr(os, place)

def stop(descriptor, *more):
    if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.startswith(file):
        os.kill(os.getpid(), signal.SIGSTOP)
    return act(descriptor, *more)

setattr(os, place, stop)
try:
    scorequeue.registry.Registry(Path(root)).promote(version, expected=expected, why="better")
except GateRefusedError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("place", "file", "lines"),
    [("fsync", ".current-", 2), ("write", "history.jsonl", 3), ("fsync", "history.jsonl", 3)],
)
def test_promote_that_was_stopped_undoes_no_later_one(
    registry: Registry, tiny: Path, monkeypatch: pytest.MonkeyPatch, place: str, file: str, lines: int
) -> None:
    """A file server that hangs for a minute: whoever took over has decided since."""
    first, second, third = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(3))
    monkeypatch.setattr("scorequeue.registry.MARK_STALE_S", 0.4)
    process = subprocess.Popen(
        [sys.executable, "-c", PROMOTE, str(registry.root), second, first, place, file],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: is_stopped(process.pid), what="a promote that stands still")
        registry.promote(third, expected=first, why="better as well")
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()

    assert "another promote took over" in said
    assert (registry.current(), registry.previous()) == (third, first)
    assert len(registry.history()) == lines == len((registry.root / "history.jsonl").read_bytes().splitlines())
    assert third in [entry.to_version for entry in registry.history()]
    assert registry.rollback(why="worse") == first


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_no_change_of_current_lacks_its_line(registry: Registry, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback could not know of it."""
    first, second = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(2))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("scorequeue.registry.append_history", fail)
    with pytest.raises(InternalError, match="No space left"):
        registry.promote(second, expected=first, why="better")

    assert registry.current() == first


def test_rollback_never_brings_back_what_is_damaged(registry: Registry, tiny: Path) -> None:
    first, second = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(2))
    registry.promote(second, expected=first, why="better")
    (registry.path(first) / "config.json").write_text("{}")

    with pytest.raises(VerificationError, match=r"config\.json"):
        registry.rollback(why="worse")

    assert registry.current() == second


def test_rollback_mends_a_damaged_pointer(registry: Registry, tiny: Path) -> None:
    """Whoever finds it torn is told to; what the history says was current comes back."""
    first, second = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(2))
    registry.promote(second, expected=first, why="better")
    (registry.root / "current").write_bytes(b"\xff")

    assert registry.rollback(why="torn") == second
    assert registry.rollback(why="worse") == first


def test_promote_of_what_was_pruned_meanwhile_is_refused(
    registry: Registry, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified, then taken away by somebody who held the mark first."""
    first, second = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(2))
    verify = registry.verify
    monkeypatch.setattr(registry, "verify", lambda version: (verify(version), shutil.rmtree(registry.path(version))))

    with pytest.raises(VersionNotFoundError):
        registry.promote(second, expected=first, why="better")

    assert registry.current() == first
    assert len(registry.history()) == 1


def test_refusal_leaves_a_line_and_nothing_else(registry: Registry, tiny: Path) -> None:
    first, second = (registry.publish(tiny, draft=draft(seed=seed)) for seed in range(2))

    registry.refuse(second, expected=first, why="worse", numbers={"mcc": 0.1})

    assert (registry.current(), registry.previous()) == (first, None)
    line = registry.history()[-1]
    assert (line.action, line.from_version, line.to_version, line.numbers) == ("refuse", first, second, {"mcc": 0.1})


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
