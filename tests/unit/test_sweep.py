from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from tests.tiny import make_tiny_base
from worker.backends import DeviceFullError, PaddedBatch, Running
from worker.backends.fake import FakeBackend
from worker.backends.torch import TorchBackend
from worker.budget import SMALLEST_BUDGET
from worker.device import sweep
from worker.device.sweep import Point, budget_key, choose, find_budget, measure


class Timed(FakeBackend):
    """A device whose time for a batch is given, on a clock of its own."""

    name = "timed"

    def __init__(self, seconds: Callable[[int], float], *, most_tokens: int = 10**9) -> None:
        super().__init__()
        self.seconds = seconds
        self.most_tokens = most_tokens
        self.now = 0.0
        self.sizes: list[int] = []

    def begin(self, batch: PaddedBatch) -> Running:
        if batch.input_ids.size > self.most_tokens:
            raise DeviceFullError("too large")
        self.sizes.append(batch.input_ids.size)
        self.now += self.seconds(batch.input_ids.size)
        return super().begin(batch)

    def clock(self) -> float:
        return self.now


def swept(device: Timed) -> list[Point]:
    return list(measure(device, clock=device.clock))


def test_the_smallest_budget_on_the_flat_part_is_taken() -> None:
    """A fixed cost of 0.1 ms beside 1 us a token: 4,096 tokens reach 98 % of the limit, 2,048 do 95 %."""
    device = Timed(lambda tokens: 0.0001 + tokens * 1e-6)

    points = swept(device)

    assert choose(points) == 4_096
    assert device.sizes == sorted(device.sizes)


@pytest.mark.parametrize(
    ("speeds", "depth", "chosen"),
    [
        # Four budgets from 256 on, in tokens/s.
        ([32_800, 35_400, 36_800, 37_500], 3, 512),  # 1,024 is on the flat part, but keeps express waiting for 84 ms
        ([32_800, 35_400, 36_800, 37_500], 1, 1_024),  # with one batch in flight it does not
        ([6_800, 8_100, 8_000, 8_000], 1, 512),  # 256 would cost a sixth of the speed
        ([680, 800, 810, 805], 1, 512),  # a slow model is slow at every size
    ],
)
def test_express_rows_wait_less_where_that_costs_little(speeds: list[int], depth: int, chosen: int) -> None:
    points = [Point(256 << n, (256 << n) / speed, depth) for n, speed in enumerate(speeds)]

    assert choose(points) == chosen


def test_a_gpu_gives_up_more_speed_for_express_rows() -> None:
    """One process cannot tokenise as fast as that device scores."""
    points = [Point(256 << n, (256 << n) / speed) for n, speed in enumerate([14_400, 15_660, 17_100, 18_000])]

    assert (choose(points), choose(points, is_fast=True)) == (1_024, 512)


def test_a_device_that_is_slow_at_every_size_gets_the_smallest() -> None:
    device = Timed(lambda tokens: tokens * 2e-3)

    points = swept(device)

    assert [point.token_budget for point in points] == [SMALLEST_BUDGET]
    assert choose(points) == SMALLEST_BUDGET


def test_larger_batches_are_not_tried_once_they_gain_nothing() -> None:
    device = Timed(lambda tokens: max(tokens, 1_024) * 1e-6)

    assert [point.token_budget for point in swept(device)] == [256, 512, 1_024, 2_048, 4_096]


def test_the_sweep_ends_where_the_memory_does() -> None:
    device = Timed(lambda tokens: 0.01, most_tokens=2_000)

    assert choose(swept(device)) == 1_024


def test_the_fastest_of_several_runs_counts() -> None:
    """A neighbour on the machine makes one run slow, and none fast."""
    slow: Iterator[float] = iter([0.5] + [0.0] * 1_000)
    device = Timed(lambda tokens: tokens * 1e-6 + next(slow))

    assert swept(device)[0].batch_s == pytest.approx(256e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_base(tmp_path / "model")


def test_a_budget_is_measured_once(folder: Path, tmp_path: Path) -> None:
    device = Timed(lambda tokens: 0.001)
    first = find_budget(device, folder, cache_dir=tmp_path / "cache")
    device.sizes.clear()

    assert find_budget(device, folder, cache_dir=tmp_path / "cache") == first
    assert device.sizes == []


def test_a_refreshed_checkpoint_has_the_budget_of_the_one_before(folder: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "refreshed", seed=1)
    larger = make_tiny_base(tmp_path / "larger", labels=3)
    device = FakeBackend()

    assert budget_key(device, other) == budget_key(device, folder)
    assert budget_key(device, larger) != budget_key(device, folder)
    assert budget_key(TorchBackend(folder, device="cpu"), folder) != budget_key(device, folder)


def test_weights_in_shards_have_the_budget_of_the_same_model_in_one_file(folder: Path, tmp_path: Path) -> None:
    """A version may be published so; it must load although there is no model.safetensors."""
    sharded = tmp_path / "sharded"
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(sharded, max_shard_size="5KB")

    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert budget_key(FakeBackend(), sharded) == budget_key(FakeBackend(), folder)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "[" * 100_000, '{"a": 1}', '{"KEY": {}}']
    + [f'{{"KEY": {value}}}' for value in ('"many"', "Infinity", "1e999", "NaN", "true", "1", "-5")],
)
def test_a_damaged_cache_is_measured_anew(folder: Path, tmp_path: Path, content: str) -> None:
    device = Timed(lambda tokens: 0.001)
    (tmp_path / sweep.FILE_NAME).write_text(content.replace("KEY", budget_key(device, folder)))

    budget = find_budget(device, folder, cache_dir=tmp_path)

    assert json.loads((tmp_path / sweep.FILE_NAME).read_text())[budget_key(device, folder)] == budget


def test_a_later_version_has_a_kept_budget_or_the_one_of_the_version_before(folder: Path, tmp_path: Path) -> None:
    """Measured beside running work it would come out wrong, and hold that work up."""
    device = Timed(lambda tokens: tokens * 2e-3)

    assert find_budget(device, folder, cache_dir=tmp_path, otherwise=700) == 700
    sweep.keep(8_192, key=budget_key(device, folder), cache_dir=tmp_path)
    assert find_budget(device, folder, cache_dir=tmp_path, otherwise=700) == 8_192
    assert device.sizes == []


def test_a_cache_that_cannot_be_written_stops_nobody(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert find_budget(Timed(lambda tokens: 0.001), folder, cache_dir=tmp_path / "file") >= SMALLEST_BUDGET
