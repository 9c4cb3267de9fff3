from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker.models import IDLE_S, LOST_LOADING, RETRY_S, LoadedModel, ModelShelf, load_model, make_fake_model

from scorequeue.errors import (
    DeviceSickError,
    RedisUnavailableError,
    ScoreCountError,
    UsageError,
    VerificationError,
    VersionNotFoundError,
)
from scorequeue.manifest import GoldenSentence
from scorequeue.registry import Registry
from tests.tiny import GOLDEN_TEXTS, publish_tiny
from worker.backends import DeviceFullError, PaddedBatch, Running
from worker.backends.fake import FakeBackend, FakeRunning
from worker.backends.torch import TorchBackend
from worker.budget import TokenBudget


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    publish_tiny(tmp_path)
    return Registry(tmp_path)


class Loads:
    """A loader that remembers, and fails for versions that start with ``bad``."""

    def __init__(self) -> None:
        self.versions: list[str] = []

    def __call__(self, version: str) -> LoadedModel:
        self.versions.append(version)
        if version.startswith("bad"):
            raise VerificationError(f"{version} is broken")
        return make_fake_model(version=version)


class Pointer:
    """What ``current`` names."""

    def __init__(self, version: str | None) -> None:
        self.version = version

    def __call__(self) -> str | None:
        return self.version


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        threading.Event().wait(0.005)


def ask(shelf: ModelShelf, version: str) -> None:
    """Ask for a version, and let the ledger have heard of it."""
    shelf.request(version)
    shelf.told(shelf.refusals())


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

    def begin(self, batch: PaddedBatch) -> FakeRunning:
        self.sizes.append(batch.input_ids.size)
        if batch.input_ids.size > self.most_tokens:
            raise DeviceFullError("out of memory")
        return super().begin(batch)


@pytest.mark.parametrize(("wanted", "fits"), [(512, 512), (16_384, 1_024)])
def test_warming_up_keeps_to_the_budget_and_lowers_it_to_what_fits(wanted: int, fits: int) -> None:
    """A small GPU serves with small batches. It used to be warmed up with large ones, whatever was asked for."""
    budget, backend = TokenBudget(wanted), Small(1_200)

    dataclasses.replace(make_fake_model(), backend=backend, budget=budget).warm_up()

    assert budget.tokens == fits
    assert max(backend.sizes) <= wanted


def test_a_device_without_memory_for_a_small_batch_is_sick() -> None:
    model = dataclasses.replace(make_fake_model(), backend=Small(100), budget=TokenBudget(16_384))

    with pytest.raises(DeviceSickError, match="out of memory"):
        model.warm_up()


def test_a_version_is_warmed_up_with_the_budget_that_is_found(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    begin = TorchBackend.begin

    def note(backend: TorchBackend, batch: PaddedBatch) -> Running:
        sizes.append(batch.input_ids.size)
        return begin(backend, batch)

    monkeypatch.setattr(TorchBackend, "begin", note)
    model = load_model(
        registry, registry.resolve(None), backend="torch", device="cpu", find_budget=lambda backend, folder: 3_000
    )

    assert model.budget is not None
    assert model.budget.tokens == 3_000
    assert 2_900 < max(sizes) <= 3_000


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


def test_first_version_is_current_unless_named() -> None:
    assert ModelShelf(Loads(), Pointer("v1")).load_first().version == "v1"
    assert ModelShelf(Loads(), Pointer("v1")).load_first("v0").version == "v0"
    with pytest.raises(VersionNotFoundError, match="training fit"):
        ModelShelf(Loads(), Pointer(None)).load_first()


def test_new_jobs_get_another_version_only_when_it_is_ready() -> None:
    """A promote under load must never leave a worker without a version."""
    pointer = Pointer("v1")
    seen: list[tuple[str, list[str]]] = []

    def load(version: str) -> LoadedModel:
        if version == "v2":
            seen.append((shelf.current_version, shelf.ready_versions()))
        return make_fake_model(version=version)

    shelf = ModelShelf(load, pointer)
    shelf.load_first()

    pointer.version = "v2"
    shelf.look()

    assert seen == [("v1", ["v1"])]
    assert (shelf.current_version, shelf.ready_versions()) == ("v2", ["v2", "v1"])


def test_a_version_that_fails_leaves_the_old_one_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pointer, loads = Pointer("v1"), Loads()
    clock = [0.0]
    shelf = ModelShelf(loads, pointer, clock=lambda: clock[0])
    shelf.load_first()

    pointer.version = "bad2"
    with caplog.at_level(logging.ERROR):
        for now in (0.0, 2.0, RETRY_S):
            clock[0] = now
            ask(shelf, "bad2")
            shelf.look()

    assert (shelf.current_version, shelf.ready_versions()) == ("v1", ["v1"])
    assert shelf.failed_versions() == {"bad2": "bad2 is broken"}
    assert [record.message for record in caplog.records] == ["version cannot be used; the old one stays"]
    assert loads.versions == ["v1", "bad2", "bad2"]


def test_a_requested_version_takes_the_place_of_the_least_recently_used() -> None:
    shelf = ModelShelf(Loads(), Pointer("v1"))
    shelf.load_first()
    for version in ("old1", "old2"):
        ask(shelf, version)
        shelf.look()

    assert shelf.ready_versions() == ["v1", "old2"]
    with pytest.raises(VersionNotFoundError, match="old1"):
        shelf.get("old1")


def test_an_older_version_goes_when_its_last_job_is_done() -> None:
    pointer, clock, busy = Pointer("v1"), [0.0], {"v1"}
    shelf = ModelShelf(Loads(), pointer, has_work=busy.__contains__, clock=lambda: clock[0])
    shelf.load_first()
    shelf.get("v1")
    pointer.version = "v2"
    shelf.look()

    clock[0] = 2 * IDLE_S
    shelf.look()
    assert shelf.ready_versions() == ["v2", "v1"]

    shelf.get("v1")
    busy.clear()
    shelf.look()
    assert shelf.ready_versions() == ["v2", "v1"], "its chunks may still be on the device"

    clock[0] += IDLE_S
    shelf.look()
    assert shelf.ready_versions() == ["v2"]


def test_a_ledger_that_is_away_drops_nothing() -> None:
    def has_work(version: str) -> bool:
        raise RedisUnavailableError("away")

    pointer = Pointer("v1")
    shelf = ModelShelf(Loads(), pointer, has_work=has_work)
    shelf.load_first()
    for version in ("v2", "v3"):
        pointer.version = version
        shelf.look()

    assert shelf.ready_versions() == ["v2", "v1"]


def test_of_many_promotions_during_one_job_the_first_and_the_last_are_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two fit on the device. Taking each of them up would throw the running job's version out each time."""
    pointer, clock, busy = Pointer("v0"), [0.0], {"v0"}

    def load(version: str) -> LoadedModel:
        assert len(shelf.ready_versions()) <= 1
        loaded.append(version)
        return make_fake_model(version=version)

    loaded: list[str] = []
    shelf = ModelShelf(load, pointer, has_work=busy.__contains__, clock=lambda: clock[0])
    shelf.load_first()
    with caplog.at_level(logging.WARNING):
        for number in range(1, 21):
            pointer.version = f"v{number}"
            clock[0] += IDLE_S
            shelf.look()
            shelf.get("v0")
    assert (loaded, shelf.current_version) == (["v0", "v1"], "v1")
    assert [record.message for record in caplog.records] == [
        "a new version waits until the jobs of an older one are done"
    ]

    busy.clear()
    clock[0] += IDLE_S
    shelf.look()

    assert (loaded, shelf.current_version) == (["v0", "v1", "v20"], "v20")
    assert shelf.ready_versions() == ["v20", "v1"]


def test_a_version_that_is_not_there_costs_no_loaded_one() -> None:
    """Whoever names a version that never was must not take one from the jobs that use it."""
    loads, asked = Loads(), []

    def check(version: str) -> None:
        asked.append(version)
        if version.startswith("bad"):
            raise VersionNotFoundError(f"no {version}")

    shelf = ModelShelf(loads, Pointer("v1"), check=check)
    shelf.load_first()
    for version in ("old1", "bad2"):
        ask(shelf, version)
        shelf.look()

    assert shelf.ready_versions() == ["v1", "old1"]
    assert shelf.failed_versions() == {"bad2": "no bad2"}
    assert (loads.versions, asked) == (["v1", "old1"], ["bad2"]), "checked only where another one would have to go"


def test_a_failure_is_reported_while_it_is_news(caplog: pytest.LogCaptureFixture) -> None:
    """Jobs end after ten minutes of such reports: one that nobody has confirmed since says nothing."""
    clock = [0.0]
    shelf = ModelShelf(Loads(), Pointer("v1"), clock=lambda: clock[0])
    shelf.load_first()
    ask(shelf, "bad2")
    shelf.look()

    clock[0] = 2 * RETRY_S - 1
    assert shelf.failed_versions() == {"bad2": "bad2 is broken"}
    clock[0] = 2 * RETRY_S
    assert shelf.failed_versions() == {}
    assert shelf._failed == {}, "whoever names many versions that never were must not fill the memory"


def test_a_failure_is_reported_while_the_version_is_tried_again() -> None:
    """A load may take minutes until it fails; the ten minutes must not begin anew with each."""
    clock = [0.0]
    seen: list[dict[str, str]] = []

    def load(version: str) -> LoadedModel:
        if version == "v1":
            return make_fake_model(version=version)
        seen.append(shelf.failed_versions())
        clock[0] += 3 * RETRY_S
        seen.append(shelf.failed_versions())
        raise VerificationError("broken")

    shelf = ModelShelf(load, Pointer("v1"), clock=lambda: clock[0])
    shelf.load_first()
    for _ in range(2):
        ask(shelf, "bad2")
        shelf.look()
        clock[0] += RETRY_S

    assert seen == [{}, {}, {"bad2": "broken"}, {"bad2": "broken"}]
    assert shelf.failed_versions() == {"bad2": "broken"}


def test_the_follower_outlives_a_registry_that_is_away() -> None:
    pointer = Pointer("v1")
    is_away = threading.Event()
    was_asked = threading.Event()

    def read_current() -> str | None:
        if is_away.is_set():
            was_asked.set()
            raise OSError("the share is gone")
        return pointer()

    shelf = ModelShelf(Loads(), read_current, poll_s=0.01)
    shelf.load_first()
    shelf.follow()
    is_away.set()
    assert was_asked.wait(10)
    pointer.version = "v2"
    is_away.clear()

    wait_for(lambda: shelf.current_version == "v2")
    shelf.stop()


def test_a_damaged_current_keeps_no_requested_version_out(caplog: pytest.LogCaptureFixture) -> None:
    """Jobs that name a healthy version would end as failed after ten minutes, for a reason that is none."""
    errors: list[Exception | None] = [None]

    def read_current() -> str:
        if errors[0] is not None:
            raise errors[0]
        return "v1"

    shelf = ModelShelf(Loads(), read_current)
    shelf.load_first()
    errors[0] = VerificationError("current holds something else")
    ask(shelf, "v2")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            shelf.look()

    assert (shelf.ready_versions(), shelf.refusals()) == (["v1", "v2"], {})
    assert shelf.registry_error == "current holds something else"
    errors[0] = OSError("the share is gone")
    with caplog.at_level(logging.WARNING):
        shelf.look()
        shelf.look()
    assert len(caplog.records) == 2, "once for each reason"
    errors[0] = None
    shelf.look()
    assert shelf.registry_error == ""


def test_a_version_that_is_loaded_while_the_worker_stops_comes_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that drains must not begin with another version."""
    pointer = Pointer("v1")

    def load(version: str) -> LoadedModel:
        if version != "v1":
            shelf.stop()
        if version == "bad2":
            raise VerificationError("broken off")
        return make_fake_model(version=version)

    for version in ("v2", "bad2"):
        shelf = ModelShelf(load, pointer)
        pointer.version = "v1"
        shelf.load_first()
        pointer.version = version
        with caplog.at_level(logging.WARNING):
            shelf.look()
            shelf.look()

        assert (shelf.current_version, shelf.ready_versions(), shelf.failed_versions()) == ("v1", ["v1"], {})
    assert caplog.records == []


def test_a_request_wakes_the_follower_at_once() -> None:
    shelf = ModelShelf(Loads(), Pointer("v1"), poll_s=3_600)
    shelf.load_first()
    shelf.follow()

    ask(shelf, "old")

    wait_for(lambda: "old" in shelf.ready_versions())
    shelf.stop()


def test_a_version_is_loaded_only_after_the_ledger_has_heard_of_it() -> None:
    """One that ends every worker that loads it is given up by what they said before."""
    loads = Loads()
    shelf = ModelShelf(loads, Pointer("v1"))
    shelf.load_first()
    shelf.request("killer")
    shelf.look()
    assert (loads.versions, shelf.refusals()) == (["v1"], {"killer": LOST_LOADING})

    shelf.told({"another"})
    shelf.look()
    assert loads.versions == ["v1"]
    shelf.told(shelf.refusals())
    shelf.look()

    assert (loads.versions, shelf.refusals()) == (["v1", "killer"], {})


def test_a_load_that_is_under_way_is_told_of() -> None:
    told: list[dict[str, str]] = []

    def load(version: str) -> LoadedModel:
        told.append(shelf.refusals())
        return make_fake_model(version=version)

    shelf = ModelShelf(load, Pointer("v1"))
    shelf.load_first()
    ask(shelf, "old")
    shelf.look()

    assert told == [{}, {"old": LOST_LOADING}]
    assert shelf.failed_versions() == {}, "what is only loading has not failed"
