"""A fit that stopped goes on as if it had not: same weights, same figures, same curves."""

from __future__ import annotations

import csv
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
from scorequeue.registry import Registry
from tests.tiny import make_tiny_base
from training import sample
from training.checkpoints import DurableCheckpointIO, StepSeeds
from training.config import FitConfig
from training.fit import FitResult, fit
from training.runs import LAST, Run, find
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

    result = fit(config, resume=find(LAST, runs=config.runs))

    assert [point.epoch for point in result.curves.epochs] == [1, 2, 3]


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
