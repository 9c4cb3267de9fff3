from __future__ import annotations

import dataclasses
import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worker.models import LoadedModel, load_model, make_fake_model

from scorequeue.errors import DeviceSickError, RedisUnavailableError
from scorequeue.jobs import ErrorCode, Lane
from scorequeue.manifest import GoldenSentence
from scorequeue.registry import Registry
from tests.tiny import GOLDEN_TEXTS, make_tiny_base, publish_tiny
from worker import budget
from worker.backends import DeviceFullError, PaddedBatch, Running, Scores
from worker.backends.fake import FakeBackend
from worker.backends.torch import TorchBackend
from worker.budget import SMALLEST_BUDGET, TokenBudget
from worker.scorer import ChunkScores, ChunkWork, Scorer
from worker.tokenizing import FolderTokenizer

WAIT_S = 20.0
POISON = "poison"
BAD_NUMBERS = "bad numbers"
ZERO_WIDTH_SPACE = "\u200b"


class Faulty(FakeBackend):
    """A device with faults: rows that raise or have no finite scores, little memory, a gate, a note of each batch."""

    def __init__(self) -> None:
        super().__init__()
        model = make_fake_model()
        self.checksum = {text: int(model.encode([text]).token_ids[0]) for text in (POISON, BAD_NUMBERS)}
        self.most_tokens: int | None = None
        self.failures_left = 10**9
        self.is_broken = False
        self.extra_rows = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[PaddedBatch] = []

    def begin(self, batch: PaddedBatch) -> Running:  # type: ignore[override]
        self.batches.append(batch)
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if self.most_tokens is not None and self.failures_left and batch.input_ids.size > self.most_tokens:
            self.failures_left -= 1
            raise DeviceFullError("too large")
        if self.is_broken or self.checksum[POISON] in batch.input_ids[:, 0]:
            raise RuntimeError("the device says no")
        return FaultyRunning(self, batch, super().begin(batch).scores())


class FaultyRunning:
    def __init__(self, backend: Faulty, batch: PaddedBatch, scores: Scores) -> None:
        self._scores = np.concatenate([scores, scores[: backend.extra_rows]])
        self._scores[: batch.rows][batch.input_ids[:, 0] == backend.checksum[BAD_NUMBERS]] = np.nan

    def scores(self) -> Scores:
        return self._scores


class Harness:
    """A running scorer, and what came out of it."""

    def __init__(self, model: LoadedModel, **options: Any) -> None:
        self.model = model
        self.done: list[ChunkScores] = []
        self.sick: list[DeviceSickError | RedisUnavailableError] = []
        self._changed = threading.Condition()
        self.scorer = Scorer(on_sick=self._note_sick, **{"token_budget": 256, **options})
        self.scorer.start()

    def submit(
        self, key: object, texts: list[str], *, lane: Lane = Lane.BULK, model: LoadedModel | None = None
    ) -> bool:
        model = model or self.model
        return self.scorer.submit(ChunkWork(key, lane, model, model.encode(texts), self._note_done))

    def wait(self, chunks: int) -> dict[Any, ChunkScores]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.done) >= chunks, WAIT_S), f"{len(self.done)} of {chunks}"
            return {done.key: done for done in self.done}

    def wait_sick(self) -> DeviceSickError | RedisUnavailableError:
        with self._changed:
            assert self._changed.wait_for(lambda: self.sick, WAIT_S)
            return self.sick[0]

    def _note_done(self, done: ChunkScores) -> None:
        with self._changed:
            self.done.append(done)
            self._changed.notify_all()

    def _note_sick(self, error: DeviceSickError | RedisUnavailableError) -> None:
        with self._changed:
            self.sick.append(error)
            self._changed.notify_all()


MakeHarness = Callable[..., Harness]


@pytest.fixture
def device() -> Faulty:
    return Faulty()


@pytest.fixture
def make_harness(device: Faulty) -> Iterator[MakeHarness]:
    golden = GoldenSentence(text="golden", scores=tuple(make_fake_model().score_now(["golden"])[0].tolist()))
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        made.append(Harness(dataclasses.replace(make_fake_model(), backend=device, golden=(golden,)), **options))
        return made[-1]

    yield make
    device.gate.set()
    for harness in made:
        harness.scorer.drain(WAIT_S)


@pytest.fixture
def harness(make_harness: MakeHarness) -> Harness:
    return make_harness()


def sentences(count: int, *, start: int = 0) -> list[str]:
    return [f"sentence {number} " + "and so on " * (number % 9) for number in range(start, start + count)]


def test_scores_come_back_in_the_order_of_each_chunk(harness: Harness) -> None:
    chunks = {number: sentences(37, start=number * 37) for number in range(12)}

    for number, texts in chunks.items():
        harness.submit(number, texts)

    for number, done in harness.wait(12).items():
        np.testing.assert_array_equal(done.scores, make_fake_model().score_now(chunks[number]))
        assert done.failed == {}


def test_real_model_gives_the_scores_of_rows_scored_alone(tmp_path: Path) -> None:
    """Sorting, padding and neighbours must not show in the result; 1e-5 is float32's own noise."""
    model = load_model(Registry(tmp_path), publish_tiny(tmp_path), device="cpu", dtype="float32")
    texts = [text for number in range(30) for text in (*GOLDEN_TEXTS, "the dog " * (number + 1))]
    harness = Harness(model)

    harness.submit("bulk", texts)
    harness.submit("express", texts[:5], lane=Lane.EXPRESS)
    done = harness.wait(2)

    alone = np.concatenate([model.score_now([text]) for text in texts])
    np.testing.assert_allclose(done["bulk"].scores, alone, atol=1e-5)
    np.testing.assert_allclose(done["express"].scores, alone[:5], atol=1e-5)
    assert harness.scorer.drain(WAIT_S) == []


def test_a_lone_row_runs_at_once(harness: Harness, device: Faulty) -> None:
    """A quiet queue must not add latency: nothing else has to arrive."""
    harness.submit("lone", ["Hello there."])

    harness.wait(1)

    assert [batch.rows for batch in device.batches] == [1]


def test_rows_gather_while_the_device_is_busy(harness: Harness, device: Faulty) -> None:
    device.gate.clear()
    harness.submit(0, ["first"])
    assert device.entered.acquire(timeout=WAIT_S)

    for number in range(1, 9):
        harness.submit(number, ["later"], lane=Lane.EXPRESS)
    device.gate.set()
    harness.wait(9)

    assert [batch.rows for batch in device.batches] == [1, 8]


def test_express_joins_the_batch_after_the_one_on_the_device(harness: Harness, device: Faulty) -> None:
    device.gate.clear()
    harness.submit("bulk", sentences(2_000))
    assert device.entered.acquire(timeout=WAIT_S)

    harness.submit("lone", ["Is this held back?"], lane=Lane.EXPRESS)
    device.gate.set()
    harness.wait(2)

    assert harness.done[0].key == "lone"
    checksum = harness.model.encode(["Is this held back?"]).token_ids[0]
    assert checksum in device.batches[1].input_ids[:, 0]


def test_rows_of_different_versions_never_share_a_batch(harness: Harness, device: Faulty) -> None:
    other_device = Faulty()
    other = make_fake_model(version="other", labels=("a", "b"))
    other = dataclasses.replace(other, backend=other_device)
    device.gate.clear()
    harness.submit("first", ["first"])
    assert device.entered.acquire(timeout=WAIT_S)

    harness.submit(1, sentences(20))
    harness.submit(2, sentences(20), model=other)
    harness.submit(3, ["one more"], lane=Lane.EXPRESS, model=other)
    device.gate.set()
    harness.wait(4)

    assert sum(batch.rows for batch in other_device.batches) == 21


def test_a_poison_row_hurts_itself_only(harness: Harness) -> None:
    texts = [*sentences(50), POISON, *sentences(49, start=50)]

    harness.submit("chunk", texts)
    done = harness.wait(1)["chunk"]

    assert {row: error.code for row, error in done.failed.items()} == {50: ErrorCode.SCORING_FAILED}
    expected = make_fake_model().score_now(texts)
    np.testing.assert_array_equal(np.delete(done.scores, 50, axis=0), np.delete(expected, 50, axis=0))
    assert np.isnan(done.scores[50]).all()
    assert harness.scorer.stats.failed_rows == 1


def test_a_row_without_finite_scores_fails_alone(harness: Harness) -> None:
    harness.submit(0, [*sentences(20), BAD_NUMBERS])
    harness.submit(1, sentences(20))
    done = harness.wait(2)

    assert list(done[0].failed) == [20]
    assert done[1].failed == {}
    assert np.isfinite(done[0].scores[:20]).all()


def test_a_row_of_no_tokens_fails_alone_and_says_why(tmp_path: Path) -> None:
    """Nothing to score is no fault of the device: it used to end every worker that took the row."""
    folder = make_tiny_base(tmp_path / "tiny")
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))  # no special tokens
    backend = TorchBackend(folder, device="cpu", dtype="float32")
    model = LoadedModel("v", ("a", "b"), backend, FolderTokenizer(folder, max_length=64))
    texts = ["the dog slept", ZERO_WIDTH_SPACE, "a cat", "the letters", "she said so", ZERO_WIDTH_SPACE]
    harness = Harness(model)

    harness.submit("many", texts)
    harness.submit("lone", [ZERO_WIDTH_SPACE], lane=Lane.EXPRESS)
    done = harness.wait(2)

    assert {key: sorted(chunk.failed) for key, chunk in done.items()} == {"many": [1, 5], "lone": [0]}
    assert "nothing to read" in done["lone"].failed[0].message
    assert np.isfinite(done["many"].scores).all(axis=1).tolist() == [True, False, True, True, True, False]
    assert harness.sick == []
    harness.scorer.drain(WAIT_S)


def test_a_sick_device_counts_nothing_as_failed(harness: Harness, device: Faulty) -> None:
    """The rows are innocent: another worker scores them."""
    device.is_broken = True

    harness.submit("chunk", sentences(20))

    assert "golden sentences" in str(harness.wait_sick())
    assert harness.done == []
    assert not harness.submit("late", ["Too late."])
    assert harness.scorer.drain(WAIT_S) == ["chunk"]
    assert harness.scorer.stats.failed_rows == 0


def test_a_wrong_number_of_scores_is_never_passed_on(harness: Harness, device: Faulty) -> None:
    device.extra_rows = 1

    harness.submit("chunk", sentences(8))

    harness.wait_sick()
    assert harness.done == []


def test_batches_that_fail_and_golden_sentences_are_signs_of_life(harness: Harness, device: Faulty) -> None:
    """A worker that looks for many guilty rows is busy, not stuck: the watchdog must leave it alone."""
    seen: list[float] = []
    begin = device.begin

    def note_life(batch: PaddedBatch) -> Running:
        seen.append(harness.scorer.stats.last_batch_at)
        return begin(batch)

    device.begin = note_life  # type: ignore[method-assign]
    harness.submit("chunk", [POISON] * 4)
    harness.wait(1)

    # 4 rows, 2, 1, golden, ...: what comes behind a failed batch or golden sentences sees that they ended.
    assert len(seen) == 11
    assert sorted(set(seen)) == seen, "each of them moved the time"
    assert harness.scorer.stats.last_batch_at > seen[-1]
    assert harness.scorer.stats.batches == 0


def test_memory_that_runs_out_halves_the_budget_and_loses_no_row(device: Faulty, make_harness: MakeHarness) -> None:
    harness = make_harness(token_budget=1_024)
    device.most_tokens = 600

    harness.submit("chunk", sentences(500))
    done = harness.wait(1)["chunk"]

    assert done.failed == {}
    np.testing.assert_array_equal(done.scores, make_fake_model().score_now(sentences(500)))
    assert harness.scorer.token_budget == 512
    assert harness.scorer.stats.memory_errors > 0


def test_a_short_shortage_of_memory_slows_nobody_for_ever(
    device: Faulty, make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour on the device takes its memory for a second; the worker runs for weeks after that."""
    harness = make_harness(token_budget=1_024)
    device.most_tokens = 0
    device.failures_left = 4
    monkeypatch.setattr(budget, "RETRY_S", 0.0)

    harness.submit("during", sentences(500))
    assert harness.wait(1)["during"].failed == {}
    low = harness.scorer.token_budget
    for number in range(100):
        harness.submit(number, sentences(1_000))
    harness.wait(101)

    assert (low, harness.scorer.token_budget) == (SMALLEST_BUDGET, 1_024)


def test_each_version_has_a_budget_of_its_own(device: Faulty, make_harness: MakeHarness) -> None:
    """The first version's suits a model of its size: a larger one would hold express rows up, or not fit."""
    harness = make_harness(token_budget=1_024)
    other_device = Faulty()
    other_device.most_tokens = 600
    other = make_fake_model(version="other")
    other = dataclasses.replace(other, backend=other_device, budget=TokenBudget(4_096))

    harness.submit("other", sentences(1_000), model=other)
    harness.wait(1)
    assert harness.scorer.token_budget == 512
    harness.submit("first", sentences(1_000))
    harness.wait(2)

    assert harness.scorer.token_budget == 1_024
    assert max(batch.input_ids.size for batch in device.batches) <= 1_024
    assert 2_048 < max(batch.input_ids.size for batch in other_device.batches) <= 4_096


def test_a_row_that_found_no_memory_runs_once_more(harness: Harness, device: Faulty) -> None:
    device.most_tokens = 0
    device.failures_left = 1
    harness.submit("short of memory for a moment", ["An innocent row."])
    done = harness.wait(1)
    assert done["short of memory for a moment"].failed == {}

    large = "x" * 400
    device.most_tokens, device.failures_left = 90, 10
    harness.submit("too large for the device", [large])
    done = harness.wait(2)

    assert list(done["too large for the device"].failed) == [0]
    assert sum(batch.width > 90 for batch in device.batches) == 2


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is let go of only by the garbage collector is let go of too late."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("a row is at fault")])
def test_what_a_failed_batch_had_on_the_device_is_let_go_before_its_halves_run(
    tmp_path: Path, error: RuntimeError
) -> None:
    """Else the halves of a batch that did not fit find no memory either, and innocent rows fail."""
    model = load_model(Registry(tmp_path), publish_tiny(tmp_path), backend="torch", device="cpu", dtype="float32")
    forward = model.backend._model.forward  # type: ignore[attr-defined]
    activations: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def run(**inputs: torch.Tensor) -> Any:
        alive.append(sum(activation() is not None for activation in activations))
        hidden = torch.zeros(1_000)
        activations.append(weakref.ref(hidden))
        if len(inputs["input_ids"]) > len(GOLDEN_TEXTS):
            raise type(error)(*error.args)
        return forward(**inputs)

    model.backend._model.forward = run  # type: ignore[attr-defined]
    harness = Harness(model, token_budget=10_000)
    harness.submit("chunk", ["the dog slept"] * 32)
    done = harness.wait(1)["chunk"]

    assert alive == [0] * len(alive)
    assert len(alive) == 1 + 2 + 4 + 8
    assert done.failed == {}
    harness.scorer.drain(WAIT_S)


def test_drain_finishes_the_batch_on_the_device_and_names_the_rest(harness: Harness, device: Faulty) -> None:
    device.gate.clear()
    harness.submit("running", ["short"])
    assert device.entered.acquire(timeout=WAIT_S)
    harness.submit("waiting", sentences(10))
    unfinished: list[Any] = []
    draining = threading.Thread(target=lambda: unfinished.extend(harness.scorer.drain(WAIT_S)))

    draining.start()
    until = time.monotonic() + WAIT_S
    while harness.submit("refused", ["?"]):
        assert time.monotonic() < until
    device.gate.set()
    draining.join(WAIT_S)

    assert [done.key for done in harness.done] == ["running"]
    assert "waiting" in unfinished
    assert "running" not in unfinished


def test_drain_does_not_wait_for_a_batch_that_hangs(harness: Harness, device: Faulty) -> None:
    device.gate.clear()
    harness.submit("hanging", ["short"])
    assert device.entered.acquire(timeout=WAIT_S)

    assert harness.scorer.drain(0.01) == ["hanging"]


def test_room_is_bounded_and_comes_back(harness: Harness, device: Faulty) -> None:
    """A worker must not claim more than it can score soon."""
    device.gate.clear()
    room = harness.scorer.room(Lane.BULK)
    harness.submit("all of it", sentences(room))

    assert harness.scorer.room(Lane.BULK) == 0
    assert not harness.scorer.wait_for_room(Lane.BULK, timeout_s=0.01)
    assert harness.scorer.room(Lane.EXPRESS) > 0

    device.gate.set()
    assert harness.scorer.wait_for_room(Lane.BULK, timeout_s=WAIT_S, rows=room)


def test_two_batches_are_in_flight_where_the_device_takes_them() -> None:
    """A GPU has its next batch before the last one is done."""

    class Deep(Faulty):
        depth = 2

        def begin(self, batch: PaddedBatch) -> Running:  # type: ignore[override]
            self.begun = getattr(self, "begun", 0) + 1
            return DeepRunning(self, super().begin(batch), self.begun)

    class DeepRunning:
        def __init__(self, backend: Deep, running: Running, number: int) -> None:
            self._backend, self._running, self._number = backend, running, number

        def scores(self) -> Scores:
            lead.append(self._backend.begun - self._number)
            return self._running.scores()

    lead: list[int] = []
    harness = Harness(dataclasses.replace(make_fake_model(), backend=Deep()))
    harness.submit("chunk", sentences(200))
    harness.wait(1)

    assert lead == [1] * (len(lead) - 1) + [0]
    assert len(lead) > 3
    harness.scorer.drain(WAIT_S)


def test_figures_add_up(harness: Harness) -> None:
    texts = sentences(300)

    harness.submit("chunk", texts)
    harness.wait(1)

    stats = harness.scorer.stats
    assert (stats.rows, stats.tokens) == (300, int(harness.model.encode(texts).lengths.sum()))
    assert stats.tokens <= stats.padded_tokens <= stats.tokens * 1.2
    assert 0 < stats.longest_batch_s <= stats.forward_s
    assert harness.scorer.is_idle
