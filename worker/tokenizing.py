"""Texts to token ids with the ``tokenizers`` library directly, several chunks at once.

On a CPU, threads of the worker's process are enough: the library lets go of the GIL. For a GPU each thread has a child
process (``python -m worker.tokenizing``). A text that ends or hangs the tokenizer is found in such a child as well.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from scorequeue.errors import VerificationError
from scorequeue.jobs import ErrorCode, RowError
from worker.backends import Encodings, fake
from worker.batching import rows_at_once
from worker.child import Child, ChildLostError, connect_to_parent
from worker.cpu import usable_cpus

CHILD_MODULE = "worker.tokenizing"

START_S = 60.0
"""Seconds that such a process may take to start."""

ANSWER_S = 10.0
"""Seconds that a child may take for the texts of a chunk: they are thousands in a second."""

MOST_THREADS = 4
"""Threads that tokenise for a CPU: the model needs the cores."""

MOST_PROCESSES = 16
"""Processes that tokenise for a GPU: 12 brought 300,000 rows/s, about what the rest of the worker can hand on."""

SPARE_CORES = 3
"""Cores of a GPU's host that are left to the worker, its device process and Redis."""

FEW = 4
"""Texts that go one by one: waking the library's threads for them costs twice as much as it saves."""

UNREAD = RowError(
    ErrorCode.SCORING_FAILED, "the model's tokenizer finds nothing to read in this text: it has no token left"
)


class TokenizingError(Exception):
    """The tokenizer failed on some texts."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A checkpoint folder with a tokenizer (None: the fake backend's) and the most tokens in a row.

    A process opens it for itself.
    """

    folder: Path | None = None
    max_length: int = 128

    def open(self) -> Tokenizer:
        """Read it.

        Raises:
            VerificationError: The folder has no tokenizer.json or config.json that can be read.
        """
        if self.folder is None:
            return fake.FakeTokenizer(self.max_length)
        return FolderTokenizer(self.folder, max_length=self.max_length)


class FolderTokenizer:
    """The tokenizer of a checkpoint folder.

    Padding and truncation are ours, whatever tokenizer.json says: MiniLM's own pads every row to 128 tokens.

    Attributes:
        pad_id: The id that fills rows up; positions that hold it are masked as well.
        max_length: Most tokens in a row, special tokens and padding included.

    Raises:
        VerificationError: The folder has no tokenizer.json or config.json that can be read.
    """

    def __init__(self, folder: Path, *, max_length: int) -> None:
        self.max_length = max_length
        try:
            self._tokenizer = RustTokenizer.from_file(str(folder / "tokenizer.json"))
            pad_id = json.loads((folder / "config.json").read_bytes()).get("pad_token_id")
        # `tokenizers` raises bare Exception for a file that it cannot read.
        except Exception as error:
            raise VerificationError(f"{folder} has no usable tokenizer.json and config.json: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.pad_id = int(pad_id) if pad_id is not None else 0

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenise texts, special tokens included; one that is too long loses its end, not its last special token."""
        if len(texts) <= FEW:
            encoded = [self._tokenizer.encode(text) for text in texts]
        else:
            encoded = self._tokenizer.encode_batch_fast(list(texts))
        rows = [encoding.ids for encoding in encoded]
        # Only where the tokenizer adds no special tokens, and its normalizer leaves nothing of a text.
        failed = {} if all(rows) else {at: UNREAD for at, ids in enumerate(rows) if not ids}
        for at in failed:
            rows[at] = [self.pad_id]
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        token_ids = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        truncated = np.zeros(len(rows), np.bool_)
        # Only a row of exactly the greatest length can have lost something; asking every row would cost a list each.
        for row in np.flatnonzero(lengths >= self.max_length):
            truncated[row] = bool(encoded[row].overflowing)
        return Encodings(token_ids, lengths, truncated, failed)


Tokenizer = FolderTokenizer | fake.FakeTokenizer


class TokenizerPool:
    """Threads that tokenise chunks, each with a process of its own if one interpreter is not enough.

    Args:
        in_processes: Whether the device is so fast that the work needs processes.
        on_fatal: Called with what a task did not expect; the worker must end then.
    """

    def __init__(self, *, in_processes: bool, on_fatal: Callable[[BaseException], None]) -> None:
        cores = usable_cpus()
        self.threads = max(1, min(MOST_PROCESSES, cores - SPARE_CORES) if in_processes else min(MOST_THREADS, cores))
        self._in_processes = in_processes
        self._on_fatal = on_fatal
        self._own = threading.local()
        self._begun_at: dict[int, float] = {}  # by thread
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_closed = False
        for number in range(self.threads):
            threading.Thread(target=self._run, name=f"tokenizer-{number}", daemon=True).start()

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task, which calls ``encode``, in one of the threads."""
        self._tasks.put(task)

    def longest_s(self) -> float:
        """Seconds for which the oldest call of ``encode`` that has not returned has run; 0 without one."""
        begun = list(self._begun_at.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def encode(self, files: TokenizerFiles, chunks: Sequence[Sequence[str]]) -> list[Encodings]:
        """Tokenise the texts of chunks, in the calling thread's process if it has one. Bad texts fail alone."""
        me = threading.get_ident()
        process: TokenizerProcess | None = getattr(self._own, "process", None)
        self._begun_at[me] = time.monotonic()
        try:
            return process.encode(files, chunks) if process else [encode_here(files, texts) for texts in chunks]
        except (TokenizingError, ChildLostError):
            self._begun_at.pop(me)
            return [encode_apart(files, texts) for texts in chunks]
        finally:
            self._begun_at.pop(me, None)

    def close(self) -> None:
        """Begin no more tasks; those that run end by themselves, and the processes after them."""
        self._is_closed = True
        for _ in range(self.threads):
            self._tasks.put(lambda: None)  # wakes a thread that waits

    def _run(self) -> None:
        with ExitStack() as leaving:
            try:
                if self._in_processes:
                    self._own.process = leaving.enter_context(closing(TokenizerProcess()))
                while not self._is_closed:
                    self._tasks.get()()
            except BaseException as error:
                self._on_fatal(error)


class TokenizerProcess:
    """A child process that tokenises, started anew when it is lost; for one thread."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._child = Child(CHILD_MODULE)
        if self._child.receive(START_S) is None:  # else it is there, and its start takes no time of an answer
            self._child.close()
            raise ChildLostError(f"it did not start within {START_S:.0f} s")

    def encode(self, files: TokenizerFiles, chunks: Sequence[Sequence[str]]) -> list[Encodings]:
        """Tokenise the texts of chunks there; raises TokenizingError, or ChildLostError without an answer in time."""
        try:
            answer: list[Encodings] | TokenizingError = self._child.call((files, chunks), timeout_s=ANSWER_S)
        except ChildLostError:
            self._child.close()
            self._start()
            raise
        if isinstance(answer, TokenizingError):
            raise answer
        return answer

    def close(self) -> None:
        """End it."""
        self._child.close()


def encode_here(files: TokenizerFiles, texts: Sequence[str]) -> Encodings:
    """Tokenise texts in this process; raises TokenizingError if the tokenizer raises."""
    try:
        return opened(files).encode(texts)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic inside `tokenizers` is no Exception
        raise TokenizingError(f"the tokenizer could not read this row ({type(error).__name__})") from error


@functools.lru_cache(maxsize=4)
def opened(files: TokenizerFiles) -> Tokenizer:
    """Return a tokenizer, read once in each process."""
    return files.open()


def encode_apart(files: TokenizerFiles, texts: Sequence[str]) -> Encodings:
    """Tokenise texts of which one may end, hang or fail the tokenizer, in a child process of their own.

    Groups of texts are tried until the guilty ones stand alone. One that raises fails with ``scoring_failed``, one that
    ends the process twice alone with ``worker_lost``.
    """
    with closing(TokenizerProcess()) as process:
        found = list(_encode_pieces(process, files, texts))
    starts = np.cumsum([0, *(piece.rows for piece in found)]).tolist()
    return Encodings(
        np.concatenate([piece.token_ids for piece in found]),
        np.concatenate([piece.lengths for piece in found]),
        np.concatenate([piece.truncated for piece in found]),
        {start + at: why for start, piece in zip(starts, found, strict=False) for at, why in piece.failed.items()},
    )


def _encode_pieces(
    process: TokenizerProcess, files: TokenizerFiles, texts: Sequence[str], *, is_again: bool = False
) -> Iterator[Encodings]:
    try:
        yield from process.encode(files, [texts])
        return
    except TokenizingError as error:
        why = RowError(ErrorCode.SCORING_FAILED, str(error))
    except ChildLostError as error:
        why = RowError(ErrorCode.WORKER_LOST, f"the process that tokenised this row was lost: {error}")
    if len(texts) > 1:
        size = rows_at_once(len(texts))
        for start in range(0, len(texts), size):
            yield from _encode_pieces(process, files, texts[start : start + size])
    elif why.code is ErrorCode.WORKER_LOST and not is_again:
        yield from _encode_pieces(process, files, texts, is_again=True)
    else:
        pad_id = np.array([opened(files).pad_id], np.int32)
        yield Encodings(pad_id, np.ones(1, np.int32), np.zeros(1, np.bool_), {0: why})


def main() -> None:
    """Tokenise for the worker until it goes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with closing(connect_to_parent()) as connection:
        connection.send("ready")
        while True:
            try:
                files, chunks = connection.recv()
            except EOFError:
                return
            try:
                connection.send([encode_here(files, texts) for texts in chunks])
            except TokenizingError as error:
                connection.send(error)


if __name__ == "__main__":
    from worker.tokenizing import main as run  # what it sends must be no class of a module named __main__

    run()
