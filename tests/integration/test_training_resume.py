"""A fit that stopped goes on as if it had not: same weights, same figures, same curves."""

from __future__ import annotations

import csv
import errno
import fcntl
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import training.fit
import training.loop
from scorequeue.errors import InputError, InternalError, UsageError
from scorequeue.marks import read_holder
from scorequeue.registry import Registry
from tests.tiny import make_tiny_base, publish_tiny
from training import sample
from training.checkpoints import DurableCheckpointIO, StepSeeds
from training.config import FitConfig
from training.curves import CurveRecorder, Curves
from training.fit import FitResult, fit
from training.runs import LAST, MARK_FILE, Run, find
from training.sources import DEV_FILE, TRAIN_FILE

STEPS = 13
"""In an epoch; two are run."""


class Stopped(Exception):
    """What stops a fit here, at a step; tests/faults kills processes."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_tiny_base(folder / "base")
    for name, rows in zip((TRAIN_FILE, DEV_FILE), sample.make(seed=0, train_pairs=100, dev_pairs=20), strict=True):
        (folder / name).write_text("".join(f"made\t{label}\t\t{text}\n" for text, label in rows), "utf-8")
    return folder


def configure(material: Path, folder: Path, **settings: Any) -> FitConfig:
    usual = {"epochs": 2, "lr": 1e-3, "batch_size": 16, "checkpoint_every_s": 0, "precision": "32-true"}
    paths = {"dataset": str(material), "base_model": str(material / "base")}
    return FitConfig.load(**{**paths, **usual, **settings}, registry=folder / "registry", runs=folder / "runs")


@pytest.fixture(scope="module")
def unbroken(material: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("unbroken")
    return fit(configure(material, folder)), read_weights(folder)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    registry = Registry(folder / "registry")
    (version,) = registry.versions()
    return load_file(registry.path(version) / "model.safetensors")


def _stop(step: int, patch: pytest.MonkeyPatch) -> None:
    seeds = StepSeeds.on_train_batch_start

    def stopping(self: StepSeeds, trainer: Any, *rest: Any) -> None:
        seeds(self, trainer, *rest)
        if trainer.global_step == step:
            patch.undo()
            raise Stopped

    patch.setattr(StepSeeds, "on_train_batch_start", stopping)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Stop the next fit when so many steps are done."""
    return lambda step: _stop(step, monkeypatch)


@pytest.fixture(scope="module")
def stopped_once(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit that stopped in mid-epoch, after one that was good enough to keep."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        _stop(STEPS + 5, patch)
        with pytest.raises(Stopped):
            fit(configure(material, folder))
    return folder


@pytest.fixture
def stopped(material: Path, stopped_once: Path, tmp_path: Path) -> FitConfig:
    """The settings of the stopped fit, which has moved here with all that it wrote."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return configure(material, tmp_path)


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, 2 * STEPS - 1])
def test_a_resumed_fit_ends_as_an_unbroken_one(
    step: int, unbroken, material: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    """First steps, last steps, and the seam of two epochs are where the places differ."""
    expected, weights = unbroken
    config = configure(material, tmp_path)
    stop_at(step)
    with pytest.raises(Stopped):
        fit(config)
    assert Registry(config.registry).versions() == []

    config = config.model_copy(update={"checkpoint_every_s": 1e6})
    result = fit(config, resume=find(LAST, runs=config.runs))

    found = read_weights(tmp_path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (result.mcc, result.accuracy, result.loss) == (expected.mcc, expected.accuracy, expected.loss)
    assert result.curves == expected.curves


def test_a_fit_that_stopped_while_it_validated_ends_as_an_unbroken_one(
    unbroken, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning does not resume exactly between an epoch's last step and its validation: nothing is saved there."""
    expected, weights = unbroken
    config = configure(material, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CurveRecorder, "on_validation_end", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            fit(config)

    result = fit(config, resume=find(LAST, runs=config.runs))

    assert all(torch.equal(found, weights[name]) for name, found in read_weights(tmp_path).items())
    assert result.curves == expected.curves


def test_a_run_that_was_moved_goes_on_all_the_same(unbroken, stopped: FitConfig, tmp_path: Path) -> None:
    """A volume is mounted elsewhere today; the best epoch so far must not be forgotten for that."""
    fit(stopped, resume=find(LAST, runs=stopped.runs))

    _, weights = unbroken
    assert all(torch.equal(found, weights[name]) for name, found in read_weights(tmp_path).items())


def test_early_stopping_counts_on_through_a_resume(
    material: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    """With a learning rate of nearly nothing no epoch is better than the first."""
    config = configure(material, tmp_path, lr=1e-12, head_lr=1e-12, epochs=8, patience=2)
    stop_at(STEPS * 2 + 3)
    with pytest.raises(Stopped):
        fit(config)

    run = find(LAST, runs=config.runs)
    result = fit(config, resume=run)

    assert [point.epoch for point in result.curves.epochs] == [1, 2, 3]
    assert run.record.best == "best-epoch=0.ckpt", "the best one so far is known too: a tie is no gain"


def test_log_files_have_no_gap_and_no_double_after_a_resume(stopped: FitConfig) -> None:
    run = find(LAST, runs=stopped.runs)
    with (run.folder / "csv" / "metrics.csv").open("a") as file:
        file.write("torn")  # what a kill in mid-line leaves

    result = fit(stopped, resume=run)

    with (run.folder / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [(int(row["step"]) + 1, float(row["train_loss"])) for row in rows if row["train_loss"]]
    figures = [(int(row["step"]) + 1, float(row["val_mcc"])) for row in rows if row["val_mcc"]]
    assert losses == [(point.step, pytest.approx(point.train_loss)) for point in result.curves.steps]
    assert figures == [(point.step, pytest.approx(point.val_mcc)) for point in result.curves.epochs]


def test_a_fit_that_had_only_to_publish_does_not_train_again(
    material: Path, tmp_path: Path, unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(material, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training.fit, "publish", lambda *_, **__: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            fit(config)
    monkeypatch.setattr(training.loop, "run_trainer", lambda *_, **__: pytest.fail("it trained"))

    result = fit(config, resume=find(LAST, runs=config.runs))

    expected, weights = unbroken
    assert all(torch.equal(found, weights[name]) for name, found in read_weights(tmp_path).items())
    assert asdict(result.curves) == asdict(expected.curves)
    assert result.mcc == expected.mcc


def test_a_fit_is_not_published_twice(
    material: Path, tmp_path: Path, stopped: FitConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the version's rename and the note of it, the run is still known as published."""
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            fit(stopped, resume=find(LAST, runs=stopped.runs))
    (version,) = Registry(stopped.registry).versions()

    with pytest.raises(UsageError, match=f"was published as {version}; there is nothing to resume"):
        fit(stopped, resume=find(LAST, runs=stopped.runs))

    assert Registry(stopped.registry).versions() == [version]
    with pytest.raises(UsageError, match="nothing to resume in"):
        find(LAST, runs=stopped.runs)


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 3), ("seed", 1), ("batch_size", 8), ("lr", 2e-3), ("precision", "bf16-mixed")]
)
def test_other_settings_are_refused_by_name(name: str, value: Any, stopped: FitConfig) -> None:
    """The schedule depends on the epochs, too: a longer run is another run."""
    other = stopped.model_copy(update={name: value})

    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} is {value}, but .* was started with "):
        fit(other, resume=find(LAST, runs=stopped.runs))


def test_other_data_is_refused(material: Path, tmp_path: Path, stopped: FitConfig) -> None:
    file = material / DEV_FILE
    before = file.read_text()
    file.write_text(before + "made\t1\t\tOne more.\n")
    try:
        with pytest.raises(UsageError, match="has changed since"):
            fit(stopped, resume=find(LAST, runs=stopped.runs))
    finally:
        file.write_text(before)


def test_a_run_at_work_is_left_alone(stopped: FitConfig) -> None:
    run = find(LAST, runs=stopped.runs)

    with Run(run.folder) as busy:
        busy.take()

        with pytest.raises(UsageError, match="is being fitted by another process"):
            find(LAST, runs=stopped.runs)
        with pytest.raises(UsageError, match="is being fitted by another process"):
            fit(stopped, resume=Run(run.folder))


def test_a_run_of_another_host_is_gone_on_with_when_its_holder_seems_dead(stopped: FitConfig) -> None:
    """From here nobody can see whether that process lives; the message says how long that takes."""
    run = find(LAST, runs=stopped.runs)
    mark = run.folder / MARK_FILE
    mark.write_text('{"host": "node-2", "pid": 7, "since": "2026-11-25T02:15:00+00:00", "token": "t"}')

    said = r"\(process 7 on node-2 since .*\); wait for it to end, or 40 s if it was killed"
    with pytest.raises(UsageError, match=said):
        find(LAST, runs=stopped.runs)

    os.utime(mark, (0, 0))
    assert find(LAST, runs=stopped.runs).folder == run.folder


def test_no_lock_of_the_file_system_is_needed(stopped: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """runs/ may be on a volume of several hosts, where `flock` is refused, or known to one host alone."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)

    with find(LAST, runs=stopped.runs) as run:
        run.take()

        with pytest.raises(UsageError, match="is being fitted by another process"):
            Run(run.folder).take()


@pytest.mark.parametrize("every_s", [0.0, 1e6])
def test_a_fit_that_lost_its_run_publishes_nothing(
    every_s: float, stopped: FitConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was stopped for so long that another one goes on with the run: two would write the same files."""
    run = find(LAST, runs=stopped.runs)
    seeds = StepSeeds.on_train_batch_start

    def losing(self: StepSeeds, trainer: Any, *rest: Any) -> None:
        seeds(self, trainer, *rest)
        if trainer.global_step == STEPS + 8:
            (run.folder / MARK_FILE).write_text('{"host": "node-2", "pid": 7, "since": "", "token": "other"}')

    monkeypatch.setattr(StepSeeds, "on_train_batch_start", losing)
    with pytest.raises(UsageError, match="was taken over by another process while this one was stopped"):
        fit(stopped.model_copy(update={"checkpoint_every_s": every_s}), resume=run)

    assert Registry(stopped.registry).versions() == []
    assert read_holder(run.folder / MARK_FILE).token == "other"
    if every_s == 0:
        assert DurableCheckpointIO().load_checkpoint(run.resume_file)["global_step"] == STEPS + 8, "the other's now"


def test_a_refused_resume_leaves_the_run_free(stopped: FitConfig) -> None:
    with pytest.raises(UsageError, match="--epochs"):
        fit(stopped.model_copy(update={"epochs": 3}), resume=find(LAST, runs=stopped.runs))

    assert not find(LAST, runs=stopped.runs).is_taken()


def test_a_damaged_run_is_not_in_the_way_of_an_older_one(stopped: FitConfig, tmp_path: Path) -> None:
    run = find(LAST, runs=stopped.runs)
    damaged = stopped.runs / "29991231T000000-torn"
    damaged.mkdir()
    (damaged / "run.json").write_text("{")

    assert find(LAST, runs=stopped.runs).folder == run.folder

    shutil.rmtree(run.folder)
    with pytest.raises(UsageError, match=r"nothing to resume in .*29991231T000000-torn/run\.json cannot be read"):
        find(LAST, runs=stopped.runs)


def test_damaged_versions_are_not_in_the_way(stopped: FitConfig) -> None:
    """They are looked at to see whether the run was published; what cannot be read was not this run's, just written."""
    versions = [publish_tiny(stopped.registry) for _ in range(2)]
    torn, broken = (Registry(stopped.registry).path(version) / "manifest.json" for version in versions)
    torn.write_text("{")
    broken.unlink()
    broken.mkdir()

    assert fit(stopped, resume=find(LAST, runs=stopped.runs)).version not in versions


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"steps": [{}], "epochs": []}', b"\xff", None])
def test_lost_curves_do_not_keep_a_fit_from_being_published(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = CurveRecorder()
    if content is not None:
        (tmp_path / "curves.json").write_bytes(content)

    recorder.read(tmp_path)

    assert recorder.curves == Curves()
    assert "curves.json cannot be read" in caplog.text


def test_curves_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """The record that names the best epoch is written behind them: a power cut must not leave half of them."""
    recorder = CurveRecorder()
    recorder.write(tmp_path)
    before = (tmp_path / "curves.json").read_bytes()
    points = [{"step": step, "train_loss": 0.5, "lr": 0.1} for step in range(10_000)]
    recorder.load_state_dict({"steps": points, "epochs": []})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InternalError, match=r"cannot write .*curves\.json: .*make room"):
            recorder.write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert (tmp_path / "curves.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.json"]


def test_nothing_to_resume_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing to resume in"):
        find(LAST, runs=tmp_path / "runs")
    with pytest.raises(UsageError, match="there is no such folder"):
        find("runs/none", runs=tmp_path)
    with pytest.raises(InputError, match="is no run"):
        find(str(tmp_path), runs=tmp_path)


def test_a_torn_checkpoint_is_named(stopped: FitConfig) -> None:
    """Ours are never torn by a kill; a copy may be."""
    run = find(LAST, runs=stopped.runs)
    content = run.resume_file.read_bytes()
    run.resume_file.write_bytes(content[: len(content) // 2])

    with pytest.raises(InputError, match=r"resume\.ckpt is not a whole checkpoint"):
        fit(stopped, resume=run)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    file = tmp_path / "resume.ckpt"
    storage = DurableCheckpointIO()
    storage.save_checkpoint({"step": 1, "weights": torch.zeros(10)}, file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InternalError, match=r"cannot write checkpoint .*resume\.ckpt: .*make room"):
            storage.save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert storage.load_checkpoint(file)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["resume.ckpt"]
