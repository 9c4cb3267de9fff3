"""A scorer with a real device process whose device has faults, see ``tests.faulty_device``."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorequeue.errors import DeviceSickError, StoppingError, VerificationError
from scorequeue.jobs import ErrorCode, Lane
from scorequeue.registry import Registry
from tests.faulty_device import (
    BAD_NUMBERS,
    BAD_VERSION,
    HANGS,
    KILLER_VERSION,
    KILLS,
    RAISES,
    RUINS,
    STUCK,
    STUCK_VERSION,
    Control,
    checksum,
)
from tests.processes import until
from tests.tiny import GOLDEN_TEXTS, publish_tiny
from worker import budget
from worker.backends import Encodings
from worker.device import process
from worker.device.loading import load_model, make_fake_model
from worker.device.messages import LoadRequest
from worker.device.process import DeviceProcess
from worker.scorer import Scorer
from worker.tokenizing import TokenizerFiles
from worker.windows import ChunkScores, ChunkWork, Room

WAIT_S = 30.0
LABELS = ("unacceptable", "acceptable")


class Harness:
    """A running scorer, and what came out of it."""

    def __init__(self, request: LoadRequest, files: TokenizerFiles | None = None) -> None:
        self.done: dict[Any, ChunkScores] = {}
        self.sick: list[Exception] = []
        self.room = Room()
        self.tokenizer = (files or TokenizerFiles()).open()
        self._changed = threading.Condition()
        self.device = DeviceProcess(request)
        self.scorer = Scorer(
            request.version,
            labels=LABELS,
            files=files or TokenizerFiles(),
            device=self.device,
            room=self.room,
            on_sick=self._note_sick,
        )

    def start(self) -> Harness:
        self.scorer.start().result(WAIT_S)
        return self

    def submit(self, key: object, texts: list[str], *, lane: Lane = Lane.BULK) -> bool:
        def on_done(done: ChunkScores) -> None:
            with self._changed:
                assert key not in self.done, "a chunk is passed on once"
                self.done[key] = done
                self._changed.notify_all()

        self.room.take(lane, len(texts))
        return self.scorer.submit(ChunkWork(key, lane, self.tokenizer.encode(texts), on_done))

    def wait(self, chunks: int) -> dict[Any, ChunkScores]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.done) >= chunks, WAIT_S), f"{len(self.done)} of {chunks}"
            return self.done

    def wait_sick(self) -> Exception:
        with self._changed:
            assert self._changed.wait_for(lambda: self.sick, WAIT_S)
            return self.sick[0]

    def join(self) -> None:
        """Wait for the end of the scorer's thread."""
        if self.scorer._thread.ident is not None:
            self.scorer._thread.join(WAIT_S)
        assert not self.scorer._thread.is_alive()

    def _note_sick(self, error: Exception) -> None:
        with self._changed:
            self.sick.append(error)
            self._changed.notify_all()


MakeHarness = Callable[..., Harness]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


@pytest.fixture
def make_harness(control: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeHarness]:
    monkeypatch.setattr(process, "CHILD_MODULE", "tests.faulty_device")
    made: list[Harness] = []

    def make(version: str = "v", token_budget: int = 256) -> Harness:
        request = LoadRequest(control.folder, version, cache_dir=control.folder, token_budget=token_budget)
        made.append(Harness(request))
        return made[-1]

    yield make
    for harness in made:
        harness.scorer.drain(0)
        harness.join()
        assert harness.device.pid is None or not Path(f"/proc/{harness.device.pid}").exists(), "it is reaped"


@pytest.fixture
def harness(make_harness: MakeHarness) -> Harness:
    return make_harness().start()


def sentences(count: int, *, start: int = 0) -> list[str]:
    return [f"sentence {number} " + "and so on " * (number % 9) for number in range(start, start + count)]


def expect_all_but(done: ChunkScores, texts: list[str], failed: dict[int, ErrorCode]) -> None:
    """The named rows failed with their codes, and each other row has its own scores."""
    assert {row: error.code for row, error in done.failed.items()} == failed
    expected = make_fake_model().score_now(texts)
    expected[list(failed)] = np.nan
    np.testing.assert_array_equal(done.scores, expected)


def test_scores_come_back_in_the_order_of_each_chunk(harness: Harness) -> None:
    chunks = {number: sentences(37, start=number * 37) for number in range(12)}

    for number, texts in chunks.items():
        harness.submit(number, texts)

    for number, done in harness.wait(12).items():
        expect_all_but(done, chunks[number], {})


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_real_model_gives_the_scores_of_rows_scored_alone(tmp_path: Path, backend: str) -> None:
    """Sorting, padding and neighbours must not show in the result; 1e-5 is float32's own noise."""
    registry = Registry(tmp_path)
    version = publish_tiny(tmp_path)
    model = load_model(registry, version, backend="torch", device="cpu", dtype="float32")
    texts = [text for number in range(30) for text in (*GOLDEN_TEXTS, "the dog " * (number + 1))]
    files = TokenizerFiles(registry.path(version), registry.manifest(version).max_length)
    request = LoadRequest(tmp_path, version, backend, "cpu", "float32", cache_dir=tmp_path, token_budget=256)
    harness = Harness(request, files).start()

    harness.submit("bulk", texts)
    harness.submit("express", texts[:5], lane=Lane.EXPRESS)
    done = harness.wait(2)

    alone = np.concatenate([model.score_now([text]) for text in texts])
    np.testing.assert_allclose(done["bulk"].scores, alone, atol=1e-5)
    np.testing.assert_allclose(done["express"].scores, alone[:5], atol=1e-5)
    assert harness.scorer.drain(WAIT_S) == []


def test_a_lone_row_runs_at_once(harness: Harness, control: Control) -> None:
    """A quiet queue must not add latency: nothing else has to arrive."""
    harness.submit("lone", ["Hello there."])

    harness.wait(1)

    assert [batch["rows"] for batch in control.batches()] == [1]


def test_express_joins_the_batch_after_those_on_the_device(harness: Harness, control: Control) -> None:
    """Rows gather while the device is busy, and express goes first."""
    control.set("gate")
    harness.submit("bulk", sentences(2_000))
    until(lambda: len(control.batches()) == 1, what="a batch on the device")

    for number in range(8):
        harness.submit(number, [f"Is this held back? {number}"], lane=Lane.EXPRESS)
    control.clear("gate")
    harness.wait(9)

    assert list(harness.done)[-1] == "bulk"
    third = control.batches()[2]["firsts"]
    assert {checksum(f"Is this held back? {number}") for number in range(8)} <= set(third)
    assert len(third) > 8, "bulk rows ride along"


@pytest.mark.parametrize(
    ("guilty", "code"),
    [(RAISES, ErrorCode.SCORING_FAILED), (KILLS, ErrorCode.WORKER_LOST), (RUINS, ErrorCode.WORKER_LOST)],
)
def test_a_row_that_raises_or_kills_hurts_itself_only(harness: Harness, guilty: str, code: ErrorCode) -> None:
    """Promise 5, with two batches in flight when it happens."""
    chunks = {0: [*sentences(50), guilty, *sentences(49, start=50)], 1: sentences(100, start=200), 2: sentences(300)}

    for key, texts in chunks.items():
        harness.submit(key, texts)
    done = harness.wait(3)

    expect_all_but(done[0], chunks[0], {50: code})
    expect_all_but(done[1], chunks[1], {})
    expect_all_but(done[2], chunks[2], {})
    assert harness.scorer.stats.failed_rows == 1
    assert harness.scorer.stats.device_restarts == (0 if guilty == RAISES else 3), "once in a batch, twice alone"
    assert harness.sick == []


@pytest.mark.parametrize("guilty", [HANGS, STUCK])
def test_a_row_that_hangs_is_found(harness: Harness, monkeypatch: pytest.MonkeyPatch, guilty: str) -> None:
    """It ends as a failed row, and what comes after it is not taken for hung, though slower than a look."""
    monkeypatch.setattr(process, "HANGS_S", 0.6)
    chunks = {0: [*sentences(5), guilty], 1: sentences(30, start=5)}

    for key, texts in chunks.items():
        harness.submit(key, texts)
    done = harness.wait(2)

    expect_all_but(done[0], chunks[0], {5: ErrorCode.WORKER_LOST})
    expect_all_but(done[1], chunks[1], {})
    assert "no answer" in done[0].failed[5].message
    assert harness.scorer.stats.device_restarts == 3


def test_batches_after_a_hang_have_their_full_time(
    harness: Harness, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silence before a hang was found must not count against the batches that follow."""
    monkeypatch.setattr(process, "HANGS_S", 1.2)
    control.set("gate")
    for key in ("on the device", "behind it", "waiting"):
        harness.submit(key, [key] * (2 if key == "waiting" else 1))
    until(lambda: harness.scorer.stats.device_restarts == 1, what="a device process that hangs")
    control.set("slow", 0.6)
    control.clear("gate")

    done = harness.wait(3)

    assert [chunk.failed for chunk in done.values()] == [{}, {}, {}]
    assert harness.scorer.stats.device_restarts == 1


def test_a_row_without_finite_scores_fails_alone(harness: Harness) -> None:
    texts = [*sentences(20), BAD_NUMBERS]

    harness.submit(0, texts)
    harness.submit(1, sentences(20))
    done = harness.wait(2)

    expect_all_but(done[0], texts, {20: ErrorCode.SCORING_FAILED})
    expect_all_but(done[1], sentences(20), {})


def test_a_device_process_killed_at_random_loses_no_row(harness: Harness) -> None:
    """The kernel kills it where memory is short: no row is at fault."""
    texts = sentences(400)
    chance = random.Random(7)
    killed: set[int] = set()
    sent = 0

    while len(killed) < 8:
        harness.submit(sent, texts)
        harness.submit(sent + 1, texts[:20], lane=Lane.EXPRESS)
        sent += 2
        threading.Event().wait(chance.uniform(0, 0.03))  # anywhere in the work
        pid = harness.device.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        harness.wait(sent)

    for key, done in harness.done.items():
        expect_all_but(done, texts if key % 2 == 0 else texts[:20], {})
    assert harness.sick == []


def test_an_idle_device_process_that_is_killed_is_started_anew(harness: Harness) -> None:
    pid = harness.device.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    until(lambda: harness.device.pid != pid, what="another process")
    harness.submit("after", sentences(3))

    expect_all_but(harness.wait(1)["after"], sentences(3), {})


STOPPED = """
import sys
from pathlib import Path
from worker.device import process
process.CHILD_MODULE, process.HANGS_S = "tests.faulty_device", 0.6
from tests.unit.test_scorer import *
folder = Path(sys.argv[1])
harness = Harness(LoadRequest(folder, "v", cache_dir=folder, token_budget=256)).start()
harness.submit("chunk", sentences(100))
print("begun", flush=True)
harness.wait(1)
harness.submit("after", sentences(1))
harness.wait(2)
print(harness.scorer.stats.device_restarts, harness.device.hangs_after_s)
harness.scorer.drain(1)
"""


def test_a_worker_that_was_stopped_does_not_take_its_device_for_hung(control: Control) -> None:
    """Seconds pass for a worker under SIGSTOP or a paused container, but it has not waited for an answer."""
    control.set("gate")
    worker = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(control.folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    with worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        until(lambda: len(control.batches()) == 1, what="a batch on the device")
        worker.send_signal(signal.SIGSTOP)
        threading.Event().wait(3)  # five times as long as a hung device gets
        control.clear("gate")
        worker.send_signal(signal.SIGCONT)

        restarts, hangs_after_s = worker.stdout.readline().split()

    assert restarts == "0"
    assert float(hangs_after_s) < 20, "nor does it wait so much longer from now on"


@pytest.mark.parametrize("guilty", [[], [RAISES]])
def test_a_sick_device_counts_nothing_as_failed(harness: Harness, control: Control, guilty: list[str]) -> None:
    """The rows are innocent: another worker scores them."""
    control.set("sick")

    harness.submit("chunk", [*sentences(20), *guilty])

    assert "golden" in str(harness.wait_sick())
    assert harness.done == {}
    assert not harness.submit("late", ["Too late."])
    assert harness.scorer.drain(WAIT_S) == ["chunk"]
    assert harness.scorer.stats.failed_rows == 0
    assert len(harness.sick) == 1


def test_a_wrong_number_of_scores_is_never_passed_on(harness: Harness, control: Control) -> None:
    control.set("extra", 1)

    harness.submit("chunk", sentences(8))

    harness.wait_sick()
    assert harness.done == {}


def test_memory_that_runs_out_halves_the_budget_and_loses_no_row(control: Control, make_harness: MakeHarness) -> None:
    harness = make_harness(token_budget=1_024).start()
    control.set("memory", 600, 1_000)

    harness.submit("chunk", sentences(500))

    expect_all_but(harness.wait(1)["chunk"], sentences(500), {})
    assert harness.scorer.token_budget == 512
    assert harness.scorer.stats.memory_errors > 0


def test_a_short_shortage_of_memory_slows_the_worker_for_a_while_only(
    control: Control, make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour on the device takes its memory for a second; the worker runs for weeks after that."""
    monkeypatch.setattr(budget, "RETRY_S", 0.0)
    monkeypatch.setattr(budget, "CLEAN_BATCHES", 30)
    harness = make_harness(token_budget=1_024).start()
    control.set("memory", 600, 2)

    harness.submit("during", sentences(500))
    assert harness.wait(1)["during"].failed == {}
    low = harness.scorer.token_budget
    for number in range(5):
        harness.submit(number, sentences(1_000))
    harness.wait(6)

    assert (low, harness.scorer.token_budget) == (512, 1_024)


def test_a_row_that_found_no_memory_runs_once_more(harness: Harness, control: Control) -> None:
    control.set("memory", 0, 2)
    harness.submit("short of memory for a moment", ["An innocent row."])
    assert harness.wait(1)["short of memory for a moment"].failed == {}

    control.set("memory", 90, 10)
    harness.submit("too large for the device", ["x" * 400])
    done = harness.wait(2)["too large for the device"]

    assert {row: error.code for row, error in done.failed.items()} == {0: ErrorCode.SCORING_FAILED}


def test_rows_that_the_tokenizer_gave_up_fail_beside_their_neighbours(harness: Harness) -> None:
    from worker.tokenizing import UNREAD

    rows = harness.tokenizer.encode(sentences(3))
    done: list[ChunkScores] = []
    harness.scorer.submit(
        ChunkWork("k", Lane.BULK, Encodings(rows.token_ids, rows.lengths, rows.truncated, {1: UNREAD}), done.append)
    )

    until(lambda: bool(done), what="a chunk")

    expect_all_but(done[0], sentences(3), {1: ErrorCode.SCORING_FAILED})
    assert done[0].failed[1] == UNREAD


def test_drain_finishes_what_is_on_the_device_and_names_the_rest(harness: Harness, control: Control) -> None:
    control.set("gate")
    harness.submit("running", ["short"])
    until(lambda: len(control.batches()) == 1, what="a batch on the device")
    harness.submit("waiting", sentences(400))
    unfinished: list[Any] = []
    draining = threading.Thread(target=lambda: unfinished.extend(harness.scorer.drain(WAIT_S)))

    draining.start()
    until(lambda: not harness.submit("refused", ["?"]), what="a scorer that refuses")
    control.clear("gate")
    draining.join(WAIT_S)

    assert list(harness.done) == ["running"]
    assert unfinished[0] == "waiting"


def test_drain_does_not_wait_for_a_batch_that_hangs_and_gives_its_room_back(make_harness: MakeHarness) -> None:
    """A version that makes room must not take part of the worker's with it."""
    harness = make_harness(token_budget=1_024).start()
    room = harness.room.left(Lane.BULK)
    harness.submit("hanging", [*sentences(80), HANGS])
    assert harness.room.left(Lane.BULK) < room

    assert harness.scorer.drain(0.01) == ["hanging"]
    assert harness.scorer.drain(0.01) == [], "given back once"

    until(lambda: harness.room.left(Lane.BULK) == room, what="all of the room")


def test_room_is_bounded_and_comes_back(harness: Harness, control: Control) -> None:
    """A worker must not claim more than it can score soon."""
    control.set("gate")
    room = harness.room.left(Lane.BULK)
    harness.submit("all of it", sentences(room))
    assert harness.room.left(Lane.BULK) == 0
    assert harness.room.left(Lane.EXPRESS) > 0

    control.clear("gate")
    harness.wait(1)

    until(lambda: harness.room.left(Lane.BULK) >= room, what="room")


@pytest.mark.parametrize("version", [STUCK_VERSION, "v"])
def test_close_ends_a_version_that_loads_or_recovers(make_harness: MakeHarness, version: str) -> None:
    """A worker that is told to stop waits for no version."""
    harness = make_harness(version)
    loaded = harness.scorer.start()
    if version == "v":
        loaded.result(WAIT_S)
        harness.submit("killers", [KILLS] * 200)
        until(lambda: harness.scorer.stats.device_restarts > 1, what="a device process that is tried again")
    else:
        until(lambda: harness.device.pid is not None, what="a process that loads")

    harness.scorer.close()
    harness.join()

    if version == STUCK_VERSION:
        assert isinstance(loaded.exception(WAIT_S), StoppingError)
    else:
        assert harness.scorer.drain(0) == ["killers"]
    assert harness.sick == []


def test_a_scorer_that_is_closed_before_it_starts_loads_nothing(make_harness: MakeHarness) -> None:
    harness = make_harness()
    harness.scorer.close()

    assert isinstance(harness.scorer.start().exception(WAIT_S), StoppingError)
    assert harness.device.pid is None


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [(BAD_VERSION, VerificationError, "the version is damaged"), (KILLER_VERSION, DeviceSickError, "signal 9")],
)
def test_a_version_that_cannot_be_loaded_says_why(
    make_harness: MakeHarness, version: str, error: type[Exception], words: str
) -> None:
    harness = make_harness(version)

    with pytest.raises(error, match=words):
        harness.scorer.start().result(WAIT_S)

    assert not harness.submit("late", ["?"])


def test_figures_add_up(harness: Harness) -> None:
    texts = sentences(300)

    harness.submit("chunk", texts)
    harness.wait(1)

    stats = harness.scorer.stats
    assert (stats.rows, stats.tokens) == (300, int(harness.tokenizer.encode(texts).lengths.sum()))
    assert stats.tokens <= stats.padded_tokens <= stats.tokens * 1.2
    assert 0 < stats.longest_batch_s <= stats.forward_s
    assert harness.scorer.is_idle
