"""Suspect chunks: row by row, each one noted before it runs, nothing beside it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import pytest
from worker.loading import LoadedModel
from worker.models import make_fake_model
from worker.suspects import LedgerNotes, SuspectChunk

from scorequeue.errors import ProtocolTooNewError, RedisFullError, RedisRefusedError, RedisUnavailableError
from scorequeue.jobs import ErrorCode, Lane
from scorequeue.records import Lease
from tests.unit.test_scorer import POISON, WAIT_S, Faulty, Harness, sentences
from worker.backends import Encodings, PaddedBatch, Running, Scores
from worker.backends.fake import FakeTokenizer

UNREADABLE = "the tokenizer panics"


class Panicking(FakeTokenizer):
    """A tokenizer that fails as a Rust panic does: not with an Exception."""

    def encode(self, texts: Sequence[str]) -> Encodings:
        if UNREADABLE in texts:
            raise BaseException("panicked at src/lib.rs")
        return super().encode(texts)


class Notebook:
    """Notes in memory, with what was on the device when each was written."""

    def __init__(self, device: Faulty) -> None:
        self.device = device
        self.lines: list[tuple[Hashable, int] | None] = []
        self.batches_before: list[int] = []
        self.refuses: Callable[[int], bool] = lambda _: False

    def write(self, key: Hashable, row: int) -> bool:
        if self.refuses(row):
            return False
        self.lines.append((key, row))
        self.batches_before.append(len(self.device.batches))
        return True

    def clear(self) -> None:
        self.lines.append(None)
        self.batches_before.append(len(self.device.batches))


@pytest.fixture
def device() -> Faulty:
    return Faulty()


@pytest.fixture
def notebook(device: Faulty) -> Notebook:
    return Notebook(device)


@pytest.fixture
def harness(device: Faulty, notebook: Notebook) -> Iterator[Harness]:
    model = dataclasses.replace(make_fake_model(), backend=device, tokenizer=Panicking())
    harness = Harness(model, notes=notebook)
    yield harness
    device.gate.set()
    harness.scorer.drain(WAIT_S)


def suspect(
    harness: Harness, texts: list[str], *, key: Hashable = "suspect", row_deaths: dict[int, int] | None = None
) -> SuspectChunk:
    return SuspectChunk(
        key,
        lane=Lane.BULK,
        model=harness.model,
        texts=texts,
        rows=[10 + position for position in range(len(texts))],
        row_deaths=row_deaths or {},
        on_done=harness._note_done,
    )


def scores_of(model: LoadedModel, texts: list[str]) -> object:
    return make_fake_model().score_now(texts)


def test_rows_run_alone_and_each_is_noted_before(harness: Harness, device: Faulty, notebook: Notebook) -> None:
    texts = sentences(5)

    harness.scorer.submit_suspect(suspect(harness, texts))
    done = harness.wait(1)["suspect"]

    assert [batch.rows for batch in device.batches] == [1] * 5
    assert notebook.lines == [line for row in range(5) for line in (("suspect", 10 + row), None)]
    assert notebook.batches_before == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5], "each row runs between its note and the next line"
    np.testing.assert_array_equal(done.scores, scores_of(harness.model, texts))
    assert done.failed == {}


def test_row_that_was_noted_in_two_deaths_is_not_run_again(harness: Harness, device: Faulty) -> None:
    texts = sentences(4)

    harness.scorer.submit_suspect(suspect(harness, texts, row_deaths={12: 2, 11: 1}))
    done = harness.wait(1)["suspect"]

    assert {row: error.code for row, error in done.failed.items()} == {2: ErrorCode.WORKER_LOST}
    assert len(device.batches) == 3
    assert np.isnan(done.scores[2]).all()
    np.testing.assert_array_equal(done.scores[[0, 1, 3]], scores_of(harness.model, [texts[row] for row in (0, 1, 3)]))


def test_chunk_of_guilty_rows_alone_is_whole_at_once(harness: Harness, device: Faulty) -> None:
    harness.scorer.submit_suspect(suspect(harness, ["a"], row_deaths={10: 2}))

    assert set(harness.wait(1)["suspect"].failed) == {0}
    assert device.batches == []


def test_row_that_raises_or_cannot_be_read_fails_alone(harness: Harness) -> None:
    texts = [*sentences(2), POISON, UNREADABLE, *sentences(2, start=2)]

    harness.scorer.submit_suspect(suspect(harness, texts))
    done = harness.wait(1)["suspect"]

    assert {row: error.code for row, error in done.failed.items()} == dict.fromkeys((2, 3), ErrorCode.SCORING_FAILED)
    assert harness.sick == []


def test_express_runs_between_two_rows_with_none_noted(harness: Harness, device: Faulty, notebook: Notebook) -> None:
    """A lone sentence does not wait for the chunk's end; should the worker die with it, no row is blamed for that."""
    device.gate.clear()
    harness.scorer.submit_suspect(suspect(harness, sentences(6)))
    assert device.entered.acquire(timeout=WAIT_S)
    harness.submit("lone", ["Is this held back?"], lane=Lane.EXPRESS)
    device.gate.set()
    harness.wait(2)

    assert harness.done[0].key == "lone"
    at = notebook.lines.index(None)
    assert notebook.lines[:at] == [("suspect", 10)]
    express = device.batches[notebook.batches_before[at]]
    assert express.input_ids[0, 0] == harness.model.encode(["Is this held back?"]).token_ids[0]


def test_nothing_joins_a_noted_row_on_a_device_that_takes_two_batches(
    device: Faulty, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the next batch begins before the last one ends, and its death would be the noted row's."""
    monkeypatch.setattr(device, "depth", 2, raising=False)
    harness = Harness(dataclasses.replace(make_fake_model(), backend=device), notes=notebook)
    in_flight: list[object] = []
    beside: list[object] = []
    begin = device.begin

    def watched(batch: PaddedBatch) -> Running:
        running = begin(batch)
        beside.extend(in_flight if notebook.lines and notebook.lines[-1] is not None else [])
        in_flight.append(batch)
        return Watched(running, lambda: in_flight.remove(batch))

    monkeypatch.setattr(device, "begin", watched)
    for number in range(20):
        harness.submit(number, ["express"], lane=Lane.EXPRESS)
    harness.scorer.submit_suspect(suspect(harness, sentences(5)))
    for number in range(20, 40):
        harness.submit(number, ["express"], lane=Lane.EXPRESS)

    harness.wait(41)
    harness.scorer.drain(WAIT_S)

    assert beside == []
    assert notebook.lines == [line for row in range(5) for line in (("suspect", 10 + row), None)]


class Watched:
    """A batch that says when its scores are taken."""

    def __init__(self, running: Running, on_done: Callable[[], None]) -> None:
        self._running = running
        self._on_done = on_done

    def scores(self) -> Scores:
        scores = self._running.scores()
        self._on_done()
        return scores


def test_nothing_is_tokenised_beside_a_noted_row(harness: Harness, device: Faulty, notebook: Notebook) -> None:
    """A text that crashes the tokenizer in another thread would have its death put on the noted row."""
    lines_at_work: list[object] = []
    device.gate.clear()
    harness.scorer.submit_suspect(suspect(harness, sentences(2)))
    assert device.entered.acquire(timeout=WAIT_S)

    def tokenise() -> None:
        with harness.scorer.beside_noted_rows():
            lines_at_work.append(notebook.lines[-1])

    thread = threading.Thread(target=tokenise)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    device.gate.set()
    thread.join(WAIT_S)

    assert lines_at_work == [None]
    harness.wait(1)


def test_rows_noted_in_a_death_run_last(harness: Harness, notebook: Notebook) -> None:
    """A host that dies soon after each start would hit the same innocent row twice."""
    harness.scorer.submit_suspect(suspect(harness, sentences(4), row_deaths={10: 1, 12: 1}))
    harness.wait(1)

    assert [line[1] for line in notebook.lines if line is not None] == [11, 13, 10, 12]


def test_express_does_not_keep_a_suspect_chunk_waiting_for_ever(harness: Harness, device: Faulty) -> None:
    device.gate.clear()
    for number in range(40):  # of different versions, so that each is a batch
        model = dataclasses.replace(harness.model, version=str(number))
        harness.submit(number, ["express"], lane=Lane.EXPRESS, model=model)
    harness.scorer.submit_suspect(suspect(harness, sentences(3)))
    device.gate.set()
    harness.wait(41)

    assert [done.key for done in harness.done].index("suspect") < 20


def test_bulk_waits_until_the_chunk_is_done(harness: Harness, device: Faulty, notebook: Notebook) -> None:
    device.gate.clear()
    harness.submit("first", sentences(3))
    assert device.entered.acquire(timeout=WAIT_S)
    harness.scorer.submit_suspect(suspect(harness, sentences(3)))
    harness.submit("bulk", sentences(50))
    device.gate.set()
    harness.wait(3)

    assert [done.key for done in harness.done] == ["first", "suspect", "bulk"]
    assert notebook.lines[-1] is None, "no row is noted while bulk runs"


def test_chunk_whose_lease_is_lost_is_dropped(harness: Harness, notebook: Notebook) -> None:
    notebook.refuses = lambda row: row == 12
    harness.scorer.submit_suspect(suspect(harness, sentences(5), key="lost"))
    harness.submit("other", sentences(3))
    harness.wait(1)

    assert [done.key for done in harness.done] == ["other"]
    assert harness.scorer.suspects == 0


def test_drain_gives_back_the_chunk_after_the_row_on_the_device(harness: Harness, device: Faulty) -> None:
    device.gate.clear()
    harness.scorer.submit_suspect(suspect(harness, sentences(5)))
    assert device.entered.acquire(timeout=WAIT_S)

    threading.Timer(0.05, device.gate.set).start()
    unfinished = harness.scorer.drain(WAIT_S)

    assert unfinished == ["suspect"]
    assert harness.done == []
    assert len(device.batches) == 1
    assert not harness.scorer.submit_suspect(suspect(harness, sentences(1)))


class MoodyLedger:
    """Answers a note or its clearing with one error after another, then well."""

    def __init__(self, *errors: RedisUnavailableError) -> None:
        self.errors = list(errors)
        self.notes: LedgerNotes | None = None
        self.was_waiting: list[bool] = []

    def note(self, worker_id: str, lease: Lease, row: int) -> bool:
        self._answer()
        return True

    def clear_note(self, worker_id: str) -> None:
        self._answer()

    def _answer(self) -> None:
        assert self.notes is not None
        self.was_waiting.append(self.notes.is_waiting)
        if self.errors:
            raise self.errors.pop(0)


def make_notes(ledger: MoodyLedger) -> LedgerNotes:
    ledger.notes = LedgerNotes(ledger, "w1", stopping=threading.Event())  # type: ignore[arg-type]
    return ledger.notes


LEASE = Lease("0" * 32, 0, "token")


def test_note_waits_for_redis_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever wonders why a worker does nothing finds the reason in its log, and finds the rest of it too."""
    ledger = MoodyLedger(RedisUnavailableError("away"), RedisFullError("full"), RedisUnavailableError("away"))
    notes = make_notes(ledger)

    with caplog.at_level(logging.WARNING):
        assert notes.write(LEASE, 3)

    assert ledger.was_waiting == [False, True, True, True]
    assert not notes.is_waiting
    assert [record.message for record in caplog.records] == ["a suspect row waits until Redis has noted it"]


@pytest.mark.parametrize("error", [RedisRefusedError("NOPERM"), ProtocolTooNewError("newer")])
def test_note_that_is_refused_is_not_waited_for(error: RedisUnavailableError) -> None:
    """No time cures it: the worker would hold its leases, and its device, for ever."""
    with pytest.raises(type(error)):
        make_notes(MoodyLedger(error)).write(LEASE, 3)
    with pytest.raises(type(error)):
        make_notes(MoodyLedger(error)).clear()


def test_refused_note_ends_the_scorer_with_its_own_error(harness: Harness, notebook: Notebook) -> None:
    """The device is well, and what an operator reads must not say otherwise."""

    def refuses(_: int) -> bool:
        raise ProtocolTooNewError("a newer program serves the namespace")

    notebook.refuses = refuses
    harness.scorer.submit_suspect(suspect(harness, sentences(2)))

    assert isinstance(harness.wait_sick(), ProtocolTooNewError)
    assert harness.scorer.drain(WAIT_S) == ["suspect"]


def test_waiting_for_a_note_is_not_a_stuck_device(harness: Harness, device: Faulty, notebook: Notebook) -> None:
    """Redis may be away for long; the watchdog must not end a worker that waits for it."""
    gate, asked = threading.Event(), threading.Event()

    def refuses(_: int) -> bool:
        asked.set()
        return not gate.wait(WAIT_S)

    notebook.refuses = refuses
    harness.scorer.submit_suspect(suspect(harness, sentences(1)))
    assert asked.wait(WAIT_S)

    assert harness.scorer.stalled_s(now=1e12) == 0
    device.gate.clear()
    gate.set()
    assert device.entered.acquire(timeout=WAIT_S)
    assert harness.scorer.stalled_s(now=1e12) > 1e11
