"""One version's rows: which go through the model together, what comes back, and what to do when a batch fails.

    submit -> rows wait, by lane -> batch (``batching.RowQueue``) -> device process -> scores -> on_done per chunk

Who brings work also gives the device process its next batch, if there is room for one; the scorer's thread waits for
answers and gives it the following ones. While the device works rows gather, so batches grow by themselves under load,
and a lone sentence on an idle system runs at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from scorequeue.errors import DeviceSickError, ScorequeueError, StoppingError
from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.logs import fields
from worker.backends import PaddedBatch, Scores
from worker.batching import Pick, RowQueue, rows_at_once
from worker.budget import TokenBudget
from worker.child import ChildLostError
from worker.device.messages import BatchFailed, Loaded, Scored
from worker.device.process import DeviceProcess
from worker.stats import ScorerStats
from worker.tokenizing import TokenizerFiles, opened
from worker.windows import LEAST_WINDOW_ROWS, ChunkWork, Room, WindowTables

MOST_WINDOW_ROWS = 131_072
"""Most rows that are sorted together: padding falls with it (docs/performance.md), the wait of other jobs grows."""

WINDOW_S = 2.0
"""Seconds of the device that a window should last at most."""

MAX_ROWS = 16_384
"""Most rows in a batch, whatever the token budget."""

TRACES = 10
"""Failed rows whose trace is logged: a whole job of them would bury everything else."""

_LOOK_S = 0.25
_IDLE_LOOK_S = 1.0

Failure = BatchFailed | ChildLostError
"""A batch raised, or was lost with the device process."""

log = logging.getLogger(__name__)


class Flight(NamedTuple):
    """A batch that the device process has."""

    pick: Pick[ChunkWork]
    batch: PaddedBatch
    begun_at: float


class Scorer:
    """Scores chunks with one version.

    States: *loading* from ``start`` until ``loaded`` is set; *running*; *recovering* while the rows of failed or lost
    batches are tried again, nothing else beside them; *closed* after ``drain``: what the device process has is
    finished, nothing else begins, and ``submit`` refuses.

    A batch that raises is cut in half until the guilty row stands alone, and that row fails if the golden sentences
    pass right then. A batch that is lost with its process, because it ended or hung, is tried again row by row: a row
    that ends the process twice alone fails. If the golden sentences of a fresh process fail, the device is sick.

    Args:
        version: The version's name; ``labels`` are in the order of its scores.
        device: Its device process, not started yet.
        room: Told of rows that are scored.
        on_sick: Called once in the scorer's thread with the reason. Release everything and exit.
    """

    def __init__(
        self,
        version: str,
        *,
        labels: tuple[str, ...],
        files: TokenizerFiles,
        device: DeviceProcess,
        room: Room,
        on_sick: Callable[[Exception], None],
    ) -> None:
        self.version = version
        self.labels = labels
        self.files = files
        self.device = device
        self.stats = ScorerStats()
        self.loaded: Future[Loaded] = Future()
        self._room = room
        self._on_sick = on_sick
        self._queue: RowQueue[ChunkWork] = RowQueue(max_rows=MAX_ROWS)
        self._lock = threading.Lock()
        self._held: dict[Hashable, ChunkWork] = {}
        self._unscored: Counter[Lane] = Counter()  # rows
        self._in_flight: deque[Flight] = deque()
        self._failed: list[tuple[Pick[ChunkWork], Failure]] = []
        self._is_recovering = False
        self._is_closed = False
        self._ended_at = 0.0
        self._silent_looks = 0
        self._thread = threading.Thread(target=self._run, name=f"scorer-{version}", daemon=True)

    @property
    def token_budget(self) -> int:
        """Padded tokens in a batch, as it is now."""
        return self._budget.tokens

    @property
    def is_idle(self) -> bool:
        """Whether no chunk is held."""
        return not self._held

    def start(self) -> Future[Loaded]:
        """Start the thread, which loads the version; returns what is set when that is done."""
        self._thread.start()
        return self.loaded

    def submit(self, work: ChunkWork) -> bool:
        """Let a chunk wait for the device; any thread may call. False if closed: release the chunk's lease."""
        with self._lock:
            if self._is_closed:
                return False
            self._held[work.key] = work
            self._unscored[work.lane] += work.encodings.rows
            self._queue.add(work, lane=work.lane, lengths=work.encodings.lengths)
            if not self._in_flight:
                self._silent_looks = 0
            self._dispatch()
        return True

    def drain(self, timeout_s: float) -> list[Hashable]:
        """Finish what the device process has, and end both.

        Returns:
            Keys of the chunks that were not passed on, nor will be: release their leases. A batch that outlasts
            ``timeout_s`` leaves its chunks among them.
        """
        self.close()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self.device.close()
        with self._lock:
            keys = list(self._held)
            self._held.clear()
            for lane, rows in self._unscored.items():
                self._room.give(lane, rows)
            self._unscored.clear()
        return keys

    def close(self) -> None:
        """Begin nothing more; what loads or recovers is given up."""
        with self._lock:
            self._is_closed = True
            if not self._in_flight:
                self.device.close()  # the thread notices

    def _run(self) -> None:
        try:
            self._load()
            while not (self._is_closed and not self._in_flight):
                try:
                    answer = self.device.receive(_LOOK_S if self._in_flight else _IDLE_LOOK_S)
                except ChildLostError as error:
                    if self._is_closed:
                        return
                    self._take_lost(error)
                else:
                    if answer is None:
                        self._kill_if_hung()
                    else:
                        self._take(_finite(answer))
                if self._is_recovering and not self._in_flight:
                    self._recover()
        except StoppingError:
            return
        except Exception as error:  # the loop's edge
            sick = error if isinstance(error, ScorequeueError) else DeviceSickError(f"the scorer failed: {error!r}")
            log.error("device is sick", exc_info=error, extra=fields("device_sick", error=str(sick)))
            self._is_closed = True
            self._on_sick(sick)
        finally:
            self.device.close()
            self.device.reap()

    def _load(self) -> None:
        try:
            loaded = self.device.start()
            tokenizer = opened(self.files)
        except Exception as error:
            self._is_closed = True
            if isinstance(error, ChildLostError):
                error = DeviceSickError(
                    f"the process that loads version {self.version} was lost: {error}; where memory is short, give it "
                    "more"
                )
            self.loaded.set_exception(error)
            raise StoppingError(f"version {self.version} is not loaded") from error
        self._depth = loaded.depth
        self._budget = TokenBudget(loaded.token_budget)
        self._tables = WindowTables(labels=len(self.labels), tokenizer=tokenizer)
        self.loaded.set_result(loaded)

    def _dispatch(self) -> None:
        """Give the device process what it has room for; the lock is held."""
        while not self._is_closed and not self._is_recovering and len(self._in_flight) < self._depth:
            pick = self._queue.next_pick(token_budget=self.token_budget, window_rows=self._room.window_rows)
            if pick is None:
                return
            batch = self._tables.assemble(pick)
            self._in_flight.append(Flight(pick, batch, time.monotonic()))
            try:
                self.device.send(batch)
            except ChildLostError:
                return  # the scorer's thread hears of it as well, and tries again

    def _take(self, answer: Scored | BatchFailed) -> None:
        """Take an answer in, and give the device process its next batch."""
        with self._lock:
            flight = self._in_flight.popleft()
            self._count(flight)
            self._silent_looks = 0
            if isinstance(answer, BatchFailed):
                self._failed.append((flight.pick, answer))
                self._is_recovering = True
            self._dispatch()
        if isinstance(answer, Scored):
            self._store(flight.pick, answer.scores)

    def _take_lost(self, error: ChildLostError) -> None:
        """The process is gone, and with it what it had."""
        facts = fields("device_lost", version=self.version, batches=len(self._in_flight), error=str(error))
        log.error("device process was lost; its rows are tried again", extra=facts)
        with self._lock:
            self._is_recovering = True
            self._silent_looks = 0
            self._failed += [(flight.pick, error) for flight in self._in_flight]
            self._in_flight.clear()
        self._restart()

    def _kill_if_hung(self) -> None:
        """Look once more at a silent device process, and kill it when it has been silent for too long."""
        if not self._in_flight:
            return
        # Looks are counted, not seconds: a worker that was stopped for a while has not waited for an answer meanwhile.
        self._silent_looks += 1
        waited_s = self._silent_looks * _LOOK_S
        if waited_s >= self.device.hangs_after_s:
            facts = fields("device_hangs", version=self.version, waited_s=round(waited_s, 1))
            log.error("device process gives no answer and is killed", extra=facts)
            self.device.kill()

    def _recover(self) -> None:
        """Try the rows of failed and lost batches again, nothing beside them, then go on."""
        for pick, failure in self._failed:
            self._try_again(pick, failure)
        with self._lock:
            self._failed.clear()
            self._is_recovering = False
            self._dispatch()

    def _try_again(self, pick: Pick[ChunkWork], failure: Failure) -> None:
        """Score the rows of a batch in smaller ones, with nothing else on the device, down to single rows."""
        was_lost = isinstance(failure, ChildLostError)
        if isinstance(failure, BatchFailed) and failure.is_memory:
            self._lower_budget(pick, failure)
        for piece in pick.cut(rows_at_once(pick.rows) if was_lost else -(-pick.rows // 2)):
            if piece.rows == 1:
                self._score_row(piece)
                continue
            answer = self._ask(piece)
            if isinstance(answer, Scored):
                self._store(piece, answer.scores)
            else:
                self._try_again(piece, answer)

    def _score_row(self, pick: Pick[ChunkWork]) -> None:
        """Score one row, or fail it: because it raises on a healthy device, or ends the process twice."""
        why, trace = RowError(ErrorCode.WORKER_LOST, ""), ""
        for _ in range(2):
            answer = self._ask(pick)
            if isinstance(answer, Scored):
                self._store(pick, answer.scores)
                return
            if isinstance(answer, ChildLostError):
                message = f"the device process was lost twice with this row alone: {answer}"
                why, trace = RowError(ErrorCode.WORKER_LOST, message), ""
                continue
            message = f"the model could not score this row ({answer.kind})"
            why, trace = RowError(ErrorCode.SCORING_FAILED, message), answer.trace
            if not self.device.is_healthy():
                self._restart()
            elif not answer.is_memory:  # memory may have been short for a moment: that is tried twice
                break
        shown = f"\n{trace}" if trace and self.stats.failed_rows < TRACES else ""
        log.error(f"row cannot be scored{shown}", extra=fields("row_failed", version=self.version, error=why.message))
        self.stats.failed_rows += 1
        self._store(pick, np.full((1, len(self.labels)), np.nan, np.float32), error=why)

    def _ask(self, pick: Pick[ChunkWork]) -> Scored | Failure:
        """Run rows with nothing else on the device; a process that is lost with them is replaced."""
        if self._is_closed:
            raise StoppingError("the worker was told to stop")
        with self._lock:
            batch = self._tables.assemble(pick)
        began = time.monotonic()
        try:
            answer = _finite(self.device.run_alone(batch))
        except ChildLostError as error:
            self._restart()
            return error
        self._note_duration(time.monotonic() - began)
        return answer

    def _restart(self) -> None:
        self.stats.device_restarts += 1
        self.device.restart()

    def _lower_budget(self, pick: Pick[ChunkWork], failure: BatchFailed) -> None:
        with self._lock:
            padded_tokens = self._tables.assemble(pick).input_ids.size
            self._budget.fail(padded_tokens, now=time.monotonic())
        self.stats.memory_errors += 1
        facts = fields(
            "out_of_memory", rows=pick.rows, padded_tokens=padded_tokens, token_budget=self.token_budget,
            error=failure.reason,
        )  # fmt: skip
        log.warning("device has no memory for a batch", extra=facts)

    def _store(self, pick: Pick[ChunkWork], scores: Scores, *, error: RowError | None = None) -> None:
        """Write scores where they belong, and pass on the chunks that are whole now."""
        with self._lock:
            if not self._held:  # a drain has given them back
                return
            finished = self._tables.store(pick, scores, error=error)
            for work, _ in finished:
                del self._held[work.key]
            for part in pick.parts:
                self._unscored[part.window.lane] -= len(part.positions)
        for work, done in finished:
            work.on_done(done)
        for part in pick.parts:
            self._room.give(part.window.lane, len(part.positions))

    def _count(self, flight: Flight) -> None:
        """Take a batch that ended into the figures; the lock is held."""
        now = time.monotonic()
        # With two batches in flight the second one's time begins when the first one ended.
        took_s = now - max(flight.begun_at, self._ended_at)
        stats = self.stats
        stats.batches += 1
        stats.rows += flight.pick.rows
        stats.tokens += int(flight.batch.lengths.sum())
        stats.padded_tokens += flight.batch.input_ids.size
        stats.forward_s += took_s
        self._ended_at = now
        # A worker that was stopped for a while has not waited for the device meanwhile.
        self._note_duration(min(took_s, _IDLE_LOOK_S + self._silent_looks * _LOOK_S))
        if self._budget.succeed(flight.batch.input_ids.size, now=now):
            log.info("larger batches are tried again", extra=fields("budget_raised", token_budget=self.token_budget))
        rows = int(stats.rows / max(stats.forward_s, 1e-9) * WINDOW_S)
        self._room.window_rows = min(MOST_WINDOW_ROWS, max(LEAST_WINDOW_ROWS, rows))

    def _note_duration(self, took_s: float) -> None:
        self.stats.longest_batch_s = max(self.stats.longest_batch_s, took_s)
        self.device.longest_batch_s = max(self.device.longest_batch_s, took_s)


def _finite(answer: Scored | BatchFailed) -> Scored | BatchFailed:
    """Call a batch failed if not all of its scores are finite: which row does it shows when they run alone."""
    if isinstance(answer, BatchFailed) or np.isfinite(answer.scores).all():
        return answer
    return BatchFailed("FloatingPointError", "scores are not finite", is_memory=False, trace="")
