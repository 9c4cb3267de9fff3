from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scorequeue.errors import (
    DeviceSickError,
    ScoreCountError,
    UsageError,
    VerificationError,
    VersionNotFoundError,
)
from scorequeue.manifest import GoldenSentence
from scorequeue.registry import Registry
from tests.tiny import GOLDEN_TEXTS, publish_tiny
from worker.backends import DeviceFullError, PaddedBatch, Running
from worker.backends.fake import FakeBackend
from worker.device.loading import load_model, make_fake_model


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    publish_tiny(tmp_path)
    return Registry(tmp_path)


def test_a_version_gives_its_golden_scores(registry: Registry) -> None:
    version = registry.resolve(None)

    model = load_model(registry, version, device="cpu", dtype="float32")

    wanted = [sentence.scores for sentence in registry.manifest(version).golden]
    assert (model.version, model.labels) == (version, ("unacceptable", "acceptable"))
    np.testing.assert_allclose(model.score_now(GOLDEN_TEXTS), wanted, atol=1e-5)


@pytest.mark.parametrize("score", [0.01, float("nan")])
def test_a_device_that_scores_otherwise_is_sick(registry: Registry, score: float) -> None:
    model = load_model(registry, registry.resolve(None), device="cpu", dtype="float32")

    wrong = GoldenSentence.model_construct(text=model.golden[0].text, scores=(1 - score, score))

    with pytest.raises(DeviceSickError, match="within"):
        dataclasses.replace(model, golden=(wrong,)).check_golden()


@pytest.mark.parametrize(("dtype", "is_advised"), [("bfloat16", True), ("float32", False)])
def test_float32_is_advised_to_those_who_do_not_use_it(registry: Registry, dtype: str, is_advised: bool) -> None:
    model = load_model(registry, registry.resolve(None), backend="torch", device="cpu", dtype=dtype)
    wrong = GoldenSentence(text=model.golden[0].text, scores=(0.99, 0.01))

    with pytest.raises(DeviceSickError) as caught:
        dataclasses.replace(model, golden=(wrong,)).check_golden()

    assert ("--dtype float32" in str(caught.value)) == is_advised


class Small(FakeBackend):
    """A device with memory for so many tokens in a batch."""

    def __init__(self, most_tokens: int) -> None:
        super().__init__()
        self.most_tokens = most_tokens
        self.sizes: list[int] = []

    def begin(self, batch: PaddedBatch) -> Running:
        self.sizes.append(batch.input_ids.size)
        if batch.input_ids.size > self.most_tokens:
            raise DeviceFullError("out of memory")
        return super().begin(batch)


@pytest.mark.parametrize(("wanted", "fits"), [(512, 512), (16_384, 1_024)])
def test_warming_up_keeps_to_the_budget_and_lowers_it_to_what_fits(wanted: int, fits: int) -> None:
    """A small GPU serves with small batches. It used to be warmed up with large ones, whatever was asked for."""
    backend = Small(1_200)

    found, batch_s = dataclasses.replace(make_fake_model(), backend=backend).warm_up(wanted)

    assert found == fits
    assert batch_s > 0
    assert max(backend.sizes) <= wanted


def test_a_device_without_memory_for_a_small_batch_is_sick() -> None:
    model = dataclasses.replace(make_fake_model(), backend=Small(100))

    with pytest.raises(DeviceSickError, match="out of memory"):
        model.warm_up(16_384)


def test_a_device_that_raises_is_sick() -> None:
    model = dataclasses.replace(make_fake_model(), golden=(GoldenSentence(text="a", scores=(0.5, 0.5)),), labels=("a",))

    with pytest.raises(DeviceSickError) as caught:
        model.check_golden()

    assert isinstance(caught.value.__cause__, ScoreCountError)


def test_an_altered_version_is_not_loaded(registry: Registry) -> None:
    version = registry.resolve(None)
    with (registry.path(version) / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\0\0\0\0")

    with pytest.raises(VerificationError, match="sha256"):
        load_model(registry, version)


def test_unknown_backends_and_versions_are_named(registry: Registry) -> None:
    with pytest.raises(UsageError, match="tensorflow"):
        load_model(registry, registry.resolve(None), backend="tensorflow")
    with pytest.raises(VersionNotFoundError):
        load_model(registry, "20200101T000000-abcdef")


def test_the_fake_backend_takes_labels_from_the_registry(tmp_path: Path) -> None:
    version = publish_tiny(tmp_path, labels=("a", "b", "c"))

    model = load_model(Registry(tmp_path), version, backend="fake")

    assert isinstance(model.backend, FakeBackend)
    assert model.score_now(["x", "y"]).shape == (2, 3)
