"""A fit that starts from what is live."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scorequeue.errors import UsageError, VerificationError, VersionNotFoundError
from scorequeue.registry import Registry
from tests.tiny import publish_tiny
from training import sample
from training.config import FitConfig
from training.fit import fit
from training.predict import Predictor

LABELS = ("unacceptable", "acceptable")


def configure(folder: Path, **settings: object) -> FitConfig:
    rows, dev = sample.make(seed=0, train_pairs=20, dev_pairs=10)
    for name, part in (("train.csv", rows), ("dev.csv", dev)):
        lines = [f'"{text}",{LABELS[label]}\n' for text, label in part]
        (folder / name).write_text("text,label\n" + "".join(lines), "utf-8")
    usual = {"epochs": 1, "warm_start": True, "dataset": str(folder), "precision": "32-true", "logger": "csv"}
    return FitConfig.load(**{**usual, **settings}, registry=folder / "registry", runs=folder / "runs")


def test_it_starts_from_the_current_version_and_names_it(tmp_path: Path) -> None:
    """With a rate of nearly nothing the new version scores as its parent: weights, head and tokenizer were taken."""
    parent = publish_tiny(tmp_path / "registry")

    result = fit(configure(tmp_path, lr=1e-12, head_lr=1e-12))

    registry = Registry(tmp_path / "registry")
    manifest = registry.manifest(str(result.version))
    assert (manifest.parent, manifest.base_model, manifest.max_length) == (parent, "tiny", 64)
    assert manifest.tracking["run"].endswith("-tiny")
    texts = ["The dog slept.", "Dog the slept the."]
    old, new = (Predictor(registry.path(version)).score(texts) for version in (parent, str(result.version)))
    assert new.numpy() == pytest.approx(old.numpy(), abs=1e-5)


def test_labels_in_another_order_are_still_the_same_labels(tmp_path: Path) -> None:
    """Data that is learned with its labels swapped would make a good version a very bad one."""
    publish_tiny(tmp_path / "registry", labels=LABELS)
    publish_tiny(tmp_path / "swapped", labels=LABELS[::-1])

    straight = fit(configure(tmp_path, lr=1e-12, head_lr=1e-12))
    swapped = fit(configure(tmp_path, lr=1e-12, head_lr=1e-12).model_copy(update={"registry": tmp_path / "swapped"}))

    assert swapped.mcc == pytest.approx(-straight.mcc, abs=1e-6)
    assert abs(straight.mcc) > 0.01
    assert Registry(tmp_path / "swapped").manifest(str(swapped.version)).labels == LABELS[::-1]


def test_a_base_model_that_is_left_aside_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish_tiny(tmp_path / "registry")
    caplog.set_level(logging.INFO)

    fit(configure(tmp_path))
    assert "--base-model" not in caplog.text
    fit(configure(tmp_path, base_model="bert-tiny"))
    assert "--warm-start starts from the current version: --base-model is left aside" in caplog.text


def test_what_cannot_be_started_from_says_why(tmp_path: Path) -> None:
    config = configure(tmp_path)
    with pytest.raises(VersionNotFoundError, match="has no current version"):
        fit(config)
    version = publish_tiny(tmp_path / "registry", labels=("bad", "good"))
    with pytest.raises(UsageError, match=r"has the labels bad, good, .* start from a base model instead"):
        fit(config)
    (tmp_path / "registry" / "versions" / version / "config.json").write_text("{}")
    with pytest.raises(VerificationError, match=r"config\.json"):
        fit(config)
    assert not (tmp_path / "runs").exists()
