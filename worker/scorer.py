"""The one thread that owns the device: chunks of tokenised rows in, scores out as soon as a chunk is whole.

It executes what ``batching.RowQueue`` decides. While the device works rows gather, so batches grow by themselves under
load and a lone sentence on an idle system runs at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scorequeue.errors import DeviceSickError
from scorequeue.jobs import Lane
from scorequeue.logs import fields
from worker.backends import DeviceFullError, PaddedBatch, Running, Scores, pad_rows
from worker.batching import Pick, RowQueue, Window
from worker.loading import LoadedModel, check_shape
from worker.windows import ChunkScores, ChunkWork, ScorerStats, WindowTable

__all__ = ["ChunkScores", "ChunkWork", "Scorer", "ScorerStats"]

log = logging.getLogger(__name__)

WINDOW_ROWS = 8_192
"""Most rows that are sorted together: padding falls with it (docs/performance.md), the wait of other jobs grows."""

LEAST_WINDOW_ROWS = 2_048
"""Fewest rows of a window, however slow the device: with 1,024 padding alone costs 2 % of the speed."""

WINDOW_S = 2.0
"""Seconds of the device that a window should last at most."""

MAX_ROWS = 4_096
"""Most rows in a batch, whatever the token budget."""

TRACES = 10
"""Failed rows whose trace is logged: a whole job of them would bury everything else."""

ROOM_WINDOWS = {Lane.BULK: 2, Lane.EXPRESS: 4}
"""Windows' worth of rows that may be held per lane: one on the device, and the next one tokenised meanwhile."""


class Scorer:
    """Scores chunks on one device.

    States: *new* until ``start``; *running*; *draining* after ``drain``: the batch on the device is finished and the
    chunks that it completes are passed on, no other batch begins; *sick* when golden sentences fail: nothing more is
    scored, and ``on_sick`` is called once. After both the thread ends and the scorer is *closed*: ``submit`` refuses,
    ``drain`` gives back the keys of chunks that were not passed on.

    A batch that raises is cut in half until the guilty row stands alone. It fails only if the golden sentences of its
    version pass right then.

    Suspect chunks, which run row by row with each row noted beforehand, are to become a third source of picks beside
    the two lanes in ``_take``; everything behind it works on picks of any size.

    Args:
        on_sick: Called in the scorer's thread with the reason. Release everything and exit.
        token_budget: Most padded tokens in a batch; halved when the device runs out of memory.
        window_rows: Most rows that are sorted together.
        window_s: Seconds that a window should last at most; None for no such limit.
        max_rows: Most rows in a batch.
    """

    def __init__(
        self,
        *,
        on_sick: Callable[[DeviceSickError], None],
        token_budget: int,
        window_rows: int = WINDOW_ROWS,
        window_s: float | None = WINDOW_S,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._on_sick = on_sick
        self._most_window_rows = window_rows
        self._window_s = window_s
        least = window_rows if window_s is None else min(window_rows, LEAST_WINDOW_ROWS)
        self._queue: RowQueue[ChunkWork] = RowQueue(token_budget=token_budget, max_rows=max_rows, window_rows=least)
        self._changed = threading.Condition()
        self._unscored = dict.fromkeys(Lane, 0)
        self._unfinished: dict[Hashable, ChunkWork] = {}
        self._tables: dict[Window[ChunkWork], WindowTable] = {}
        self._stats = ScorerStats()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)

    @property
    def stats(self) -> ScorerStats:
        """What was done so far."""
        return self._stats

    @property
    def token_budget(self) -> int:
        """Padded tokens per batch, as it is now."""
        return self._queue.token_budget

    @property
    def window_rows(self) -> int:
        """Rows that are sorted together, as it is now."""
        return self._queue.window_rows

    @property
    def is_idle(self) -> bool:
        """Whether no row waits or is on the device."""
        with self._changed:
            return not self._unfinished

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: ChunkWork) -> bool:
        """Let a chunk wait for the device; any thread may call.

        Returns:
            Whether it was taken. A closed scorer takes nothing: release the chunk's lease.
        """
        with self._changed:
            if self._is_closing:
                return False
            self._unfinished[work.key] = work
            self._unscored[work.lane] += work.encodings.rows
            self._queue.add(work, lane=work.lane, group=work.model, lengths=work.encodings.lengths)
            self._changed.notify_all()
        return True

    def room(self, lane: Lane) -> int:
        """Rows that may still be submitted for the lane, 0 or more.

        Bulk has room for two windows, so that the next one is tokenised while one is scored; express for four of the
        largest, which is to say nearly always.
        """
        with self._changed:
            return self._room(lane)

    def wait_for_room(self, lane: Lane, *, timeout_s: float, rows: int = 1) -> bool:
        """Wait until so many rows may be submitted; False when the time is over or the scorer is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self._room(lane) >= rows, timeout_s)
            return not self._is_closing and self._room(lane) >= rows

    def drain(self, timeout_s: float) -> list[Hashable]:
        """Finish the batch on the device and end.

        Returns:
            Keys of the chunks that were submitted but not passed on: release their leases. A batch that outlasts
            ``timeout_s`` leaves its chunks among them; should it end later, they are not passed on.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changed:
            unfinished, self._unfinished = list(self._unfinished), {}
            return unfinished

    def _room(self, lane: Lane) -> int:
        window = self._queue.window_rows if lane is Lane.BULK else self._most_window_rows
        return max(0, ROOM_WINDOWS[lane] * window - self._unscored[lane])

    def _run(self) -> None:
        flights: deque[_Flight] = deque()
        try:
            while (pick := self._take(must_wait=not flights)) or flights:
                if pick:
                    flights.append(self._begin(pick))
                if flights and (not pick or len(flights) >= flights[0].model.backend.depth):
                    self._finish(flights.popleft())
        except Exception as error:  # the loop's edge
            sick = error if isinstance(error, DeviceSickError) else DeviceSickError(f"the scorer failed: {error!r}")
            log.error("device is sick", exc_info=error, extra=fields("device_sick", error=str(sick)))
            with self._changed:
                self._is_closing = True
                self._changed.notify_all()
            self._on_sick(sick)

    def _take(self, *, must_wait: bool) -> Pick[ChunkWork] | None:
        with self._changed:
            while not self._is_closing:
                pick = self._queue.next_pick()
                if pick is not None or not must_wait:
                    return pick
                self._changed.wait()
        return None

    def _begin(self, pick: Pick[ChunkWork]) -> _Flight:
        flight = _Flight(pick, _model_of(pick), time.monotonic())
        try:
            flight.batch = self._assemble(pick, flight.model)
            flight.running = flight.model.backend.begin(flight.batch)
        except Exception as error:
            # Dealt with in turn, when the batches before it are finished.
            flight.error = error
        return flight

    def _finish(self, flight: _Flight) -> None:
        scores = self._await(flight)
        # Not inside the handler: what recovering raises is not about what was raised before.
        if scores is None:
            assert flight.error is not None
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
                self._finish(self._begin(_row_of(flight.pick, int(position))))
        else:
            self._recover(flight, FloatingPointError("scores are not finite"))

    def _await(self, flight: _Flight) -> Scores | None:
        """Wait for a batch; None when it failed and ``flight.error`` says why."""
        if flight.running is None:
            return None
        try:
            return check_shape(flight.running.scores(), rows=flight.pick.rows, model=flight.model)
        except Exception as error:
            flight.error = error
            return None

    def _recover(self, flight: _Flight, error: Exception) -> None:
        """Find the guilty row, or find that the device is sick.

        Raises:
            DeviceSickError: The golden sentences fail.
        """
        pick = flight.pick
        if isinstance(error, DeviceFullError):
            self._halve_budget(flight, error)
        if pick.rows > 1:
            for half in pick.halves():
                self._finish(self._begin(half))
            return
        flight.model.check_golden()
        log.error(
            "row cannot be scored",
            exc_info=error if self._stats.failed_rows < TRACES else None,
            extra=fields("row_failed", version=flight.model.version, error=type(error).__name__),
        )
        self._stats = replace(self._stats, failed_rows=self._stats.failed_rows + 1)
        self._store(pick, np.full((1, len(flight.model.labels)), np.nan, np.float32), error=error)

    def _halve_budget(self, flight: _Flight, error: Exception) -> None:
        padded_tokens = flight.batch.input_ids.size if flight.batch else 0
        # A batch over the budget was cut before the budget fell, or is one long row: neither says anything about it.
        if padded_tokens <= self._queue.token_budget:
            self._queue.token_budget = max(1, self._queue.token_budget // 2)
        self._stats = replace(self._stats, memory_errors=self._stats.memory_errors + 1)
        log.warning(
            "device has no memory for a batch",
            extra=fields(
                "out_of_memory",
                rows=flight.pick.rows,
                padded_tokens=padded_tokens,
                token_budget=self._queue.token_budget,
                error=str(error),
            ),
        )

    def _assemble(self, pick: Pick[ChunkWork], model: LoadedModel) -> PaddedBatch:
        pad_id = model.tokenizer.pad_id
        tables = [(self._table(part.window), part.positions) for part in pick.parts]
        if len(tables) == 1:
            table, positions = tables[0]
            return pad_rows(table.token_ids, table.starts[positions], table.lengths[positions], pad_id=pad_id)
        offsets = np.cumsum([0, *(len(table.token_ids) for table, _ in tables[:-1])])
        return pad_rows(
            np.concatenate([table.token_ids for table, _ in tables]),
            np.concatenate(
                [table.starts[positions] + offset for (table, positions), offset in zip(tables, offsets, strict=True)]
            ),
            np.concatenate([table.lengths[positions] for table, positions in tables]),
            pad_id=pad_id,
        )

    def _table(self, window: Window[ChunkWork]) -> WindowTable:
        table = self._tables.get(window)
        if table is None:
            table = self._tables[window] = WindowTable(window)
        return table

    def _store(
        self,
        pick: Pick[ChunkWork],
        scores: Scores,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        error: Exception | None = None,
    ) -> None:
        """Write a batch's scores where they belong, and pass on the chunks that are whole now."""
        begin = 0
        for part in pick.parts:
            rows = slice(begin, begin + len(part.positions))
            begin = rows.stop
            positions, part_scores = part.positions, scores[rows]
            if keep is not None:
                positions, part_scores = positions[keep[rows]], part_scores[keep[rows]]
            table = self._tables[part.window]
            finished = table.store(positions, part_scores, error)
            if table.left == 0:
                del self._tables[part.window]
            with self._changed:
                self._unscored[part.window.lane] -= len(positions)
                known = [done for done in finished if self._unfinished.pop(done[0].key, None) is not None]
                self._changed.notify_all()
            for work, done in known:
                work.on_done(done)

    def _count(self, flight: _Flight, batch: PaddedBatch) -> None:
        self._stats = self._stats.after(batch, begun_at=flight.begun_at, now=time.monotonic())
        if self._window_s is not None:
            rows = int(self._stats.rows / max(self._stats.forward_s, 1e-9) * self._window_s)
            self._queue.window_rows = min(self._most_window_rows, max(LEAST_WINDOW_ROWS, rows))


@dataclass(slots=True)
class _Flight:
    """A pick on its way through the device."""

    pick: Pick[ChunkWork]
    model: LoadedModel
    begun_at: float
    batch: PaddedBatch | None = None
    running: Running | None = None
    error: Exception | None = None


def _model_of(pick: Pick[ChunkWork]) -> LoadedModel:
    return pick.parts[0].window.tickets[0].model


def _row_of(pick: Pick[ChunkWork], position: int) -> Pick[ChunkWork]:
    """The pick of one row alone."""
    while pick.rows > 1:
        left, right = pick.halves()
        pick, position = (left, position) if position < left.rows else (right, position - left.rows)
    return pick
