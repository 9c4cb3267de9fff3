"""The one thread that owns the device: chunks of tokenised rows in, scores out as soon as a chunk is whole.

It executes what ``intake.Intake`` hands out. While the device works rows gather, so batches grow by themselves under
load and a lone sentence on an idle system runs at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from scorequeue.errors import DeviceSickError, RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.logs import fields
from worker.backends import DeviceFullError, PaddedBatch, Scores
from worker.batching import Pick, RowQueue
from worker.budget import TokenBudget
from worker.intake import WINDOW_ROWS, Intake
from worker.loading import LoadedModel, check_shape
from worker.stats import ScorerStats
from worker.suspects import Notes, SuspectChunk
from worker.windows import ChunkScores, ChunkWork, Flight, WindowTables, model_of, row_of

__all__ = ["ChunkScores", "ChunkWork", "Scorer", "ScorerStats"]

log = logging.getLogger(__name__)

LEAST_WINDOW_ROWS = 2_048
"""Fewest rows of a window, however slow the device: with 1,024 padding alone costs 2 % of the speed."""

WINDOW_S = 2.0
"""Seconds of the device that a window should last at most."""

MAX_ROWS = 4_096
"""Most rows in a batch, whatever the token budget."""

TRACES = 10
"""Failed rows whose trace is logged: a whole job of them would bury everything else."""


class Scorer:
    """Scores chunks on one device.

    States: *new* until ``start``; *running*; *draining* after ``drain``: the batch on the device is finished and the
    chunks that it completes are passed on, no other batch begins; *sick* when golden sentences fail, or Redis refuses
    to note a suspect row: nothing more is scored, and ``on_sick`` is called once. After both the thread ends and the
    scorer is *closed*: ``submit`` refuses, ``drain`` gives back the keys of chunks that were not passed on.

    A batch that raises is cut in half until the guilty row stands alone. It fails only if the golden sentences of its
    version pass right then, and, where the device had no memory for it, if it has none a second time.

    Suspect chunks go ahead of bulk: one row at a time, with nothing else on the device and the row noted before.
    Express batches may run in between, with none noted.

    Args:
        on_sick: Called in the scorer's thread with the reason. Release everything and exit.
        token_budget: Most padded tokens in a batch of a version that has no budget of its own; less while the device
            has no memory for so many.
        window_rows: Most rows that are sorted together.
        window_s: Seconds that a window should last at most; None for no such limit.
        max_rows: Most rows in a batch.
        notes: Where the rows of suspect chunks are noted; None where there are no such chunks.
    """

    def __init__(
        self,
        *,
        on_sick: Callable[[DeviceSickError | RedisUnavailableError], None],
        token_budget: int,
        window_rows: int = WINDOW_ROWS,
        window_s: float | None = WINDOW_S,
        max_rows: int = MAX_ROWS,
        notes: Notes | None = None,
    ) -> None:
        self._on_sick = on_sick
        self._most_window_rows = window_rows
        self._window_s = window_s
        self._budget = self._own_budget = TokenBudget(token_budget)
        least = window_rows if window_s is None else min(window_rows, LEAST_WINDOW_ROWS)
        self._queue: RowQueue[ChunkWork] = RowQueue(
            token_budget=lambda model: self._budget_of(model).tokens, max_rows=max_rows, window_rows=least
        )
        self._intake = Intake(self._queue, most_window_rows=window_rows, notes=notes)
        self._tables = WindowTables()
        self._stats = ScorerStats()
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)

    @property
    def stats(self) -> ScorerStats:
        """What was done so far."""
        return self._stats

    @property
    def token_budget(self) -> int:
        """Padded tokens per batch, as it is now for the version that ran last."""
        return self._budget.tokens

    @property
    def window_rows(self) -> int:
        """Rows that are sorted together, as it is now."""
        return self._queue.window_rows

    @property
    def is_idle(self) -> bool:
        """Whether no row waits or is on the device."""
        return self._intake.is_idle

    @property
    def suspects(self) -> int:
        """Suspect chunks in hand."""
        return self._intake.suspects

    def stalled_s(self, now: float) -> float:
        """Seconds since the device last gave a sign of life, or got something to do after a pause; 0 while it has none.

        Args:
            now: The monotonic clock.
        """
        busy_since = self._intake.busy_since
        return 0.0 if busy_since is None else max(0.0, now - max(busy_since, self._stats.last_batch_at))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: ChunkWork) -> bool:
        """Let a chunk wait for the device; any thread may call.

        Returns:
            Whether it was taken. A closed scorer takes nothing: release the chunk's lease.
        """
        return self._intake.submit(work)

    def submit_suspect(self, suspect: SuspectChunk) -> bool:
        """Let a suspect chunk wait for the device; any thread may call. Returns what ``submit`` returns."""
        return self._intake.submit_suspect(suspect)

    def beside_noted_rows(self) -> AbstractContextManager[None]:
        """Decode and tokenise within this, so that a row that is noted meanwhile runs alone in the whole process."""
        return self._intake.apart.beside()

    def room(self, lane: Lane) -> int:
        """Rows that may still be submitted for the lane, 0 or more."""
        return self._intake.room(lane)

    def wait_for_room(self, lane: Lane, *, timeout_s: float, rows: int = 1) -> bool:
        """Wait until so many rows may be submitted; False when the time is over or the scorer is closed."""
        return self._intake.wait_for_room(lane, timeout_s=timeout_s, rows=rows)

    def drain(self, timeout_s: float) -> list[Hashable]:
        """Finish the batch on the device and end.

        Returns:
            Keys of the chunks that were submitted but not passed on: release their leases. A batch that outlasts
            ``timeout_s`` leaves its chunks among them; should it end later, they are not passed on.
        """
        self._intake.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return self._intake.empty()

    def _run(self) -> None:
        flights: deque[Flight] = deque()
        try:
            while (pick := self._intake.take(in_flight=len(flights))) or flights:
                if pick:
                    flights.append(self._begin(pick))
                if flights and (not pick or len(flights) >= flights[0].model.backend.depth):
                    self._finish(flights.popleft())
        except RedisUnavailableError as error:  # of a note; the device is well
            log.error("a suspect row cannot be noted", extra=fields("note_refused", error=str(error)))
            self._intake.close()
            self._on_sick(error)
        except Exception as error:  # the loop's edge
            sick = error if isinstance(error, DeviceSickError) else DeviceSickError(f"the scorer failed: {error!r}")
            log.error("device is sick", exc_info=error, extra=fields("device_sick", error=str(sick)))
            self._intake.close()
            self._on_sick(sick)

    def _begin(self, pick: Pick[ChunkWork], *, is_second_try: bool = False) -> Flight:
        flight = Flight(pick, model_of(pick), is_second_try=is_second_try)
        try:
            flight.batch = self._tables.assemble(pick, tokenizer=flight.model.tokenizer)
            flight.begun_at = time.monotonic()
            flight.running = flight.model.backend.begin(flight.batch)
        except Exception as error:
            # Dealt with in turn, when the batches before it are finished.
            flight.error = error
        return flight

    def _finish(self, flight: Flight) -> None:
        scores = self._await(flight)
        # Not inside the handler: what recovering raises is not about what was raised before.
        if scores is None:
            assert flight.error is not None
            self._note_life()
            self._recover(flight, flight.error)
            return
        assert flight.batch is not None
        self._count(flight, flight.batch)
        finite: npt.NDArray[np.bool_] = np.isfinite(scores.sum(axis=1))
        if finite.all():
            self._store(flight.pick, scores)
        elif flight.pick.rows > 1:
            # Whether a row is at fault, or what it was batched with, shows when it runs alone.
            self._store(flight.pick, scores, keep=finite)
            for position in np.flatnonzero(~finite):
                self._finish(self._begin(row_of(flight.pick, int(position))))
        else:
            self._recover(flight, FloatingPointError("scores are not finite"))

    def _await(self, flight: Flight) -> Scores | None:
        """Wait for a batch; None when it failed and ``flight.error`` says why."""
        if flight.running is None:
            return None
        try:
            return check_shape(flight.running.scores(), rows=flight.pick.rows, model=flight.model)
        except Exception as error:
            flight.error = error
            return None

    def _recover(self, flight: Flight, error: Exception) -> None:
        """Find the guilty row, or find that the device is sick.

        Raises:
            DeviceSickError: The golden sentences fail.
        """
        pick = flight.pick
        if isinstance(error, DeviceFullError):
            self._lower_budget(flight, error)
        if pick.rows > 1:
            error.__traceback__ = None  # its frames hold the batch's tensors, and nobody will read it
            for half in pick.halves():
                self._finish(self._begin(half))
            return
        flight.model.check_golden()
        self._note_life()
        if isinstance(error, DeviceFullError) and not flight.is_second_try:
            # Memory may have been short for a moment: the golden sentences did run.
            self._finish(self._begin(pick, is_second_try=True))
            return
        log.error(
            "row cannot be scored",
            exc_info=error if self._stats.failed_rows < TRACES else None,
            extra=fields("row_failed", version=flight.model.version, error=type(error).__name__),
        )
        self._stats = replace(self._stats, failed_rows=self._stats.failed_rows + 1)
        self._store(pick, np.full((1, len(flight.model.labels)), np.nan, np.float32), error=error)

    def _note_life(self) -> None:
        """The device has answered, if only with an error: finding many guilty rows takes long, and is not a stall."""
        self._stats = replace(self._stats, last_batch_at=time.monotonic())

    def _lower_budget(self, flight: Flight, error: DeviceFullError) -> None:
        padded_tokens = flight.batch.input_ids.size if flight.batch else 0
        self._budget = self._budget_of(flight.model)
        self._budget.fail(padded_tokens, now=time.monotonic())
        self._stats = replace(self._stats, memory_errors=self._stats.memory_errors + 1)
        facts = fields(
            "out_of_memory", rows=flight.pick.rows, padded_tokens=padded_tokens, token_budget=self.token_budget,
            error=str(error),
        )  # fmt: skip
        log.warning("device has no memory for a batch", extra=facts)

    def _budget_of(self, model: LoadedModel) -> TokenBudget:
        return model.budget or self._own_budget

    def _store(
        self,
        pick: Pick[ChunkWork],
        scores: Scores,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        error: Exception | None = None,
    ) -> None:
        """Write a batch's scores where they belong, and pass on the chunks that are whole now."""
        for stored in self._tables.store(pick, scores, keep=keep, error=error):
            self._intake.settle(stored.lane, stored.rows, stored.finished)

    def _count(self, flight: Flight, batch: PaddedBatch) -> None:
        now = time.monotonic()
        busy_since = self._intake.busy_since or now
        self._stats = self._stats.after(batch, begun_at=flight.begun_at, busy_since=busy_since, now=now)
        self._budget = self._budget_of(flight.model)
        if self._budget.succeed(batch.input_ids.size, now=now):
            log.info("larger batches are tried again", extra=fields("budget_raised", token_budget=self.token_budget))
        if self._window_s is not None:
            rows = int(self._stats.rows / max(self._stats.forward_s, 1e-9) * self._window_s)
            self._queue.window_rows = min(self._most_window_rows, max(LEAST_WINDOW_ROWS, rows))
