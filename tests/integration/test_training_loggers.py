"""Where curves go: what TensorBoard itself says of our logs, and loggers that are not there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scorequeue.errors import DivergedError, MissingExtraError
from scorequeue.registry import Registry
from tests.processes import until
from tests.servers import free_port
from tests.tiny import make_tiny_base
from training import sample
from training.config import FitConfig
from training.curves import Curves
from training.fit import FitResult, fit
from training.loggers import make_loggers
from training.model import SentenceClassifier
from training.runs import LAST, find
from training.sources import DEV_FILE, TRAIN_FILE


def configure(folder: Path, **settings: Any) -> FitConfig:
    make_tiny_base(folder / "base")
    for name, rows in zip((TRAIN_FILE, DEV_FILE), sample.make(seed=0, train_pairs=100, dev_pairs=20), strict=True):
        (folder / name).write_text("".join(f"made\t{label}\t\t{text}\n" for text, label in rows), "utf-8")
    usual = {"epochs": 2, "lr": 1e-3, "batch_size": 16, "dataset": str(folder), "base_model": str(folder / "base")}
    return FitConfig.load(**{**usual, **settings}, registry=folder / "registry", runs=folder / "runs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loggers")


@pytest.fixture(scope="module")
def fitted(folder: Path) -> FitResult:
    return fit(configure(folder))


@pytest.fixture(scope="module")
def tensorboard(folder: Path, fitted: FitResult) -> Iterator[str]:
    """A real TensorBoard on the runs folder; yields the address of its data."""
    port = free_port()
    with (folder / "tensorboard.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "tensorboard.main",
                "--logdir",
                folder / "runs",
                "--port",
                str(port),
            ],
            stdout=log,
            stderr=log,
        )
        address = f"http://127.0.0.1:{port}/data"
        try:
            until(lambda: answers(f"{address}/environment") or process.poll() is not None, timeout_s=60)
            yield address
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        get(url)
    except OSError:
        return False
    return True


def get(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def test_tensorboard_shows_the_curves(tensorboard: str, fitted: FitResult) -> None:
    until(lambda: bool(get(f"{tensorboard}/plugin/scalars/tags")), what="a run in TensorBoard")

    ((run, tags),) = get(f"{tensorboard}/plugin/scalars/tags").items()
    assert {"train_loss", "lr", "val_mcc", "val_loss", "val_accuracy"} <= set(tags)
    points = get(f"{tensorboard}/plugin/scalars/scalars?run={run}&tag=val_mcc")
    assert [value for _, _, value in points] == pytest.approx([point.val_mcc for point in fitted.curves.epochs])


def test_tensorboard_shows_the_hyperparameters(tensorboard: str, fitted: FitResult) -> None:
    experiment = get(f"{tensorboard}/plugin/hparams/experiment", {"experimentName": ""})

    assert {"lr", "batch_size", "seed", "dataset"} <= {entry["name"] for entry in experiment["hparamInfos"]}
    assert {"best_val_mcc", "best_val_accuracy"} <= {entry["name"]["tag"] for entry in experiment["metricInfos"]}


def test_the_manifest_says_where_the_curves_are(folder: Path, fitted: FitResult) -> None:
    manifest = Registry(folder / "registry").manifest(str(fitted.version))
    (run,) = (folder / "runs").iterdir()

    assert manifest.tracking.pop("run_id")
    assert manifest.tracking == {"logger": "tensorboard", "run": run.name, "url": str(run)}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.filterwarnings("ignore")
def test_a_tracker_goes_on_with_its_run_or_says_what_it_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its package it names the install line; with it the whole path is run, as on a machine that has it."""
    config = configure(tmp_path, logger=name, epochs=1)
    if importlib.util.find_spec(name) is None:
        with pytest.raises(MissingExtraError, match=rf'pip install "scorequeue\[{name}\]"'):
            fit(config)
        return
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    result = fit(config)

    tracking = Registry(config.registry).manifest(str(result.version)).tracking
    assert (tracking["logger"], bool(tracking["tracker_id"])) == (name, True)
    (run,) = [path for path in config.runs.iterdir() if path.is_dir()]
    again = make_loggers(name, folder=run, curves=Curves(), tracker_id=tracking["tracker_id"])
    assert (again[0].experiment.id if name == "wandb" else again[0].run_id) == tracking["tracker_id"]
    if name == "mlflow":
        history = again[0].experiment.get_metric_history(tracking["tracker_id"], "val_mcc")
        assert [metric.value for metric in history] == pytest.approx([point.val_mcc for point in result.curves.epochs])
    else:
        again[0].experiment.finish()


def test_a_loss_that_is_no_number_ends_the_fit_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of training on NaN would publish a model that never learned."""
    config = configure(tmp_path)
    step = SentenceClassifier.training_step

    def spoil(self: SentenceClassifier, batch: Any, index: int) -> torch.Tensor:
        return step(self, batch, index) * (float("inf") if self.trainer.global_step == 4 else 1.0)

    monkeypatch.setattr(SentenceClassifier, "training_step", spoil)

    with pytest.raises(DivergedError, match=r"the training loss is nan at step \d+ \(epoch 1\).* lower --lr") as caught:
        fit(config)

    assert "\n" not in str(caught.value)
    assert Registry(config.registry).versions() == []
    with pytest.raises(Exception, match="nothing to resume"):
        find(LAST, runs=config.runs)


def test_a_fit_that_cannot_improve_stops_early(tmp_path: Path) -> None:
    result = fit(configure(tmp_path, lr=1e-12, head_lr=1e-12, epochs=9, patience=2, logger="csv"))

    assert [point.epoch for point in result.curves.epochs] == [1, 2, 3]
