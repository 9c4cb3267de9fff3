"""Texts to token ids with the ``tokenizers`` library directly, several chunks at once.

On a CPU, threads of the worker's process are enough: the library lets go of the GIL. A GPU wants more rows than one
interpreter can hand on, so there each thread has a child process (``python -m worker.tokenizing``) that tokenises for
it. A text that ends or hangs the tokenizer is found in such a child as well: see ``encode_apart``.
"""

from __future__ import annotations

import functools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from scorequeue.errors import VerificationError
from scorequeue.jobs import ErrorCode, RowError
from worker.backends import Encodings
from worker.child import Child, ChildLostError, connect_to_parent
from worker.cpu import usable_cpus

CHILD_MODULE = "worker.tokenizing"

ANSWER_S = 10.0
"""Seconds that a child may take for the texts of a chunk: they are thousands in a second."""

MOST_THREADS = 4
"""Threads that tokenise for a CPU: the model needs the cores."""

MOST_PROCESSES = 16
"""Processes that tokenise for a GPU: 12 brought 300,000 rows/s on 16 cores of an H100's host, which is about what the
rest of the worker can hand on."""

SPARE_CORES = 3
"""Cores of a GPU's host that are left to the worker, its device process and Redis."""

SINGLY = 256
"""Texts that are tried one by one once one of them is known to end the tokenizer; of more, groups first."""

_THREAD_NAME = "tokenizer"

FEW = 4
"""Texts that go one by one: waking the library's threads for them costs twice as much as it saves."""

UNREAD = RowError(
    ErrorCode.SCORING_FAILED, "the model's tokenizer finds nothing to read in this text: it has no token left"
)


class TokenizingError(Exception):
    """The tokenizer failed on some texts."""


class Tokenizer(Protocol):
    """What turns texts into rows of token ids.

    Attributes:
        pad_id: The id that fills rows up; positions that hold it are masked as well.
        max_length: Most tokens in a row, special tokens and padding included.
    """

    @property
    def pad_id(self) -> int: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenise texts, special tokens included, cut to what the model reads."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Where a version's tokenizer is; a process opens it for itself.

    Attributes:
        folder: A checkpoint folder; None stands for the fake backend's tokenizer.
        max_length: Most tokens in a row, special tokens included.
    """

    folder: Path | None = None
    max_length: int = 128

    def open(self) -> Tokenizer:
        """Read it.

        Raises:
            VerificationError: The folder has no tokenizer.json or config.json that can be read.
        """
        if self.folder is None:
            from worker.backends.fake import FakeTokenizer

            return FakeTokenizer(self.max_length)
        return FolderTokenizer(self.folder, max_length=self.max_length)


class FolderTokenizer:
    """The tokenizer of a checkpoint folder.

    Padding and truncation are ours, whatever tokenizer.json says: MiniLM's own pads every row to 128 tokens.

    Args:
        folder: A checkpoint folder with tokenizer.json and config.json.
        max_length: Most tokens in a row, special tokens included.

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
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix=_THREAD_NAME)
        if in_processes:  # now, and not when the first large job comes: each takes a second to start
            together = threading.Barrier(self.threads)
            for _ in range(self.threads):
                self.submit(partial(self._start_process, together))

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task, which calls ``encode``, in one of the threads."""
        self._executor.submit(self._run, task)

    def longest_s(self) -> float:
        """Seconds for which the oldest call of ``encode`` that has not returned has run; 0 without one."""
        begun = list(self._begun_at.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def encode(self, files: TokenizerFiles, chunks: Sequence[Sequence[str]]) -> list[Encodings]:
        """Tokenise the texts of chunks in the calling thread; texts that cannot be tokenised fail alone."""
        me = threading.get_ident()
        self._begun_at[me] = time.monotonic()
        try:
            if self._in_processes and threading.current_thread().name.startswith(_THREAD_NAME):
                return self._own_process().encode(files, chunks)
            return [encode_here(files, texts) for texts in chunks]
        except (TokenizingError, ChildLostError):
            self._begun_at.pop(me)
            return [encode_apart(files, texts) for texts in chunks]
        finally:
            self._begun_at.pop(me, None)

    def close(self) -> None:
        """Take no more tasks; those that run end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._on_fatal(error)

    def _start_process(self, together: threading.Barrier) -> None:
        together.wait()  # no thread takes two of these tasks
        self._own_process()

    def _own_process(self) -> TokenizerProcess:
        process: TokenizerProcess | None = getattr(self._own, "process", None)
        if process is None or process.is_lost:
            process = self._own.process = TokenizerProcess()
        return process


class TokenizerProcess:
    """A child process that tokenises; for one thread."""

    def __init__(self) -> None:
        self._child = Child(CHILD_MODULE)
        self.is_lost = False

    def encode(self, files: TokenizerFiles, chunks: Sequence[Sequence[str]]) -> list[Encodings]:
        """Tokenise the texts of chunks there.

        Raises:
            TokenizingError: The tokenizer raised.
            ChildLostError: The process ended, or gave no answer in time.
        """
        try:
            answer = self._child.call((files, chunks), timeout_s=ANSWER_S)
        except ChildLostError:
            self.is_lost = True
            self._child.close()
            raise
        if isinstance(answer, TokenizingError):
            raise answer
        encodings: list[Encodings] = answer
        return encodings

    def close(self) -> None:
        """End it."""
        if not self.is_lost:
            self._child.close()


def encode_here(files: TokenizerFiles, texts: Sequence[str]) -> Encodings:
    """Tokenise texts in this process.

    Raises:
        TokenizingError: The tokenizer raised.
    """
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
    process = TokenizerProcess()

    def parts(some: Sequence[str]) -> Iterator[Encodings]:
        nonlocal process
        for is_last in (False, True):
            try:
                yield from process.encode(files, [some])
                return
            except TokenizingError as error:
                why = RowError(ErrorCode.SCORING_FAILED, str(error))
                is_last = True
            except ChildLostError as error:
                why = RowError(ErrorCode.WORKER_LOST, f"the process that tokenised this row was lost: {error}")
                process = TokenizerProcess()
            if len(some) > 1:
                size = 1 if len(some) <= SINGLY else math.isqrt(len(some))
                for start in range(0, len(some), size):
                    yield from parts(some[start : start + size])
                return
            if is_last:
                break
        yield Encodings(
            np.array([opened(files).pad_id], np.int32), np.ones(1, np.int32), np.zeros(1, np.bool_), {0: why}
        )

    found = list(parts(texts))
    process.close()
    starts = np.cumsum([0, *(part.rows for part in found)]).tolist()
    failed = {start + at: why for start, part in zip(starts, found, strict=False) for at, why in part.failed.items()}
    return Encodings(
        np.concatenate([part.token_ids for part in found]),
        np.concatenate([part.lengths for part in found]),
        np.concatenate([part.truncated for part in found]),
        failed,
    )


def main() -> None:
    """Tokenise for the worker until it goes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with closing(connect_to_parent()) as connection:
        while True:
            try:
                files, chunks = connection.recv()
            except EOFError:
                return
            try:
                connection.send([encode_here(files, texts) for texts in chunks])
            except TokenizingError as error:
                connection.send(TokenizingError(str(error)))


if __name__ == "__main__":
    from worker.tokenizing import main as run  # what it sends must be no class of a module named __main__

    run()
