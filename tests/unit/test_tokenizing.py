"""Tokenising in threads and in processes, and texts that no tokenizer survives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from scorequeue.jobs import ErrorCode
from tests.faulty_device import HANGS, KILLS, RAISES
from tests.processes import until
from tests.tiny import make_tiny_base
from worker import tokenizing
from worker.backends import Encodings
from worker.tokenizing import TokenizerFiles, TokenizerPool, encode_apart, encode_here

TEXTS = [f"The dog number {number} slept on the sofa. " * (number % 4 + 1) for number in range(50)]
UNREADABLE = "half of a character: \ud800"

MakePool = Callable[[bool], TokenizerPool]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFiles:
    return TokenizerFiles(make_tiny_base(tmp_path_factory.mktemp("tiny")), max_length=40)


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    made: list[TokenizerPool] = []
    fatal: list[BaseException] = []

    def make(in_processes: bool) -> TokenizerPool:
        made.append(TokenizerPool(in_processes=in_processes, on_fatal=fatal.append))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
    until(lambda: not children(), what="the end of all children")
    assert fatal == []


_others: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def _children_of_other_tests() -> None:
    _others.clear()
    _others.update(psutil.Process().children())


def children() -> list[psutil.Process]:
    """Those of this test, and those that were not reaped, too."""
    return [child for child in psutil.Process().children() if child not in _others]


def encode_in(pool: TokenizerPool, files: TokenizerFiles, texts: list[str]) -> Encodings:
    """Tokenise in one of the pool's threads."""
    found: list[Encodings] = []
    is_done = threading.Event()

    def task() -> None:
        try:
            found.extend(pool.encode(files, [texts]))
        finally:
            is_done.set()

    pool.submit(task)
    assert is_done.wait(60)
    return found[0]


def expect_all_but(found: Encodings, files: TokenizerFiles, texts: list[str], failed: dict[int, ErrorCode]) -> None:
    """The named texts failed, and each other one has the tokens that it has alone."""
    assert {row: error.code for row, error in found.failed.items()} == failed
    rows = np.split(found.token_ids, found.starts[1:])
    assert len(rows) == len(found.truncated) == len(texts)
    for row, text in enumerate(texts):
        if row not in failed:
            alone = encode_here(files, [text])
            assert (rows[row].tolist(), found.truncated[row]) == (alone.token_ids.tolist(), alone.truncated[0])


@pytest.mark.parametrize("in_processes", [False, True])
def test_tokens_are_the_same_in_threads_and_in_processes(
    files: TokenizerFiles, make_pool: MakePool, in_processes: bool
) -> None:
    found = encode_in(make_pool(in_processes), files, TEXTS)

    expect_all_but(found, files, TEXTS, {})
    assert found.truncated.any()
    assert bool(children()) == in_processes


@pytest.mark.parametrize("in_processes", [False, True])
def test_a_text_that_the_tokenizer_refuses_fails_alone(
    files: TokenizerFiles, make_pool: MakePool, in_processes: bool
) -> None:
    texts = [*TEXTS[:20], UNREADABLE, *TEXTS[20:]]

    found = encode_in(make_pool(in_processes), files, texts)

    expect_all_but(found, files, texts, {20: ErrorCode.SCORING_FAILED})


@pytest.mark.parametrize(
    ("guilty", "code", "texts"),
    [
        (RAISES, ErrorCode.SCORING_FAILED, 300),
        (KILLS, ErrorCode.WORKER_LOST, 300),
        (KILLS, ErrorCode.WORKER_LOST, 1),
        (HANGS, ErrorCode.WORKER_LOST, 3),
    ],
)
def test_the_text_that_a_tokenizer_does_not_survive_is_found(
    monkeypatch: pytest.MonkeyPatch, guilty: str, code: ErrorCode, texts: int
) -> None:
    """It would end one worker after the other."""
    monkeypatch.setattr(tokenizing, "CHILD_MODULE", "tests.faulty_tokenizer")
    monkeypatch.setattr(tokenizing, "ANSWER_S", 1.5)
    chunk = [f"text {number}" for number in range(texts)]
    chunk[texts // 2] = guilty

    found = encode_apart(TokenizerFiles(), chunk)

    expect_all_but(found, TokenizerFiles(), chunk, {texts // 2: code})
    assert children() == []


def test_a_process_that_is_lost_is_replaced(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "CHILD_MODULE", "tests.faulty_tokenizer")
    monkeypatch.setattr(tokenizing, "usable_cpus", lambda: 1)
    pool, files = make_pool(True), TokenizerFiles()
    texts = [*TEXTS, KILLS]

    expect_all_but(encode_in(pool, files, texts), files, texts, {50: ErrorCode.WORKER_LOST})
    expect_all_but(encode_in(pool, files, TEXTS), files, TEXTS, {})


def test_a_pool_knows_how_long_a_text_has_kept_a_thread(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the worker's own process nothing but the worker's end helps; in another one it is killed."""
    gate = threading.Event()

    def encode(files: TokenizerFiles, texts: list[str]) -> Encodings:
        gate.wait(60)
        return TokenizerFiles().open().encode(texts)

    monkeypatch.setattr(tokenizing, "encode_here", encode)
    pool = make_pool(False)
    assert pool.longest_s() == 0

    thread = threading.Thread(target=pool.encode, args=(TokenizerFiles(), [["text"]]))
    thread.start()
    until(lambda: pool.longest_s() > 0.05, what="a text that takes long")
    gate.set()
    thread.join(60)

    assert pool.longest_s() == 0


def test_what_a_task_does_not_expect_ends_the_worker() -> None:
    fatal: list[BaseException] = []
    pool = TokenizerPool(in_processes=False, on_fatal=fatal.append)

    pool.submit(lambda: 1 // 0)  # type: ignore[arg-type, return-value]

    until(lambda: bool(fatal), what="a fatal error")
    assert isinstance(fatal[0], ZeroDivisionError)
    pool.close()
