"""What waits for the device, and what goes on it next.

The decision about batches is ``batching.RowQueue``'s; here are the lock around it, the room that is left, and suspect
chunks, which go row by row.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable

from scorequeue.jobs import Lane
from worker.apart import Apart
from worker.batching import EXPRESS_TURNS, Pick, RowQueue, pick_alone
from worker.suspects import Notes, SuspectChunk
from worker.windows import ChunkScores, ChunkWork

WINDOW_ROWS = 8_192
"""Most rows that are sorted together: padding falls with it (docs/performance.md), the wait of other jobs grows."""

ROOM_WINDOWS = {Lane.BULK: 2, Lane.EXPRESS: 4}
"""Windows' worth of rows that may be held per lane: one on the device, and the next one tokenised meanwhile."""


class Intake:
    """Chunks of tokenised rows in, picks out. Any thread may submit; one thread takes.

    A chunk is *held* from its submission until all its rows are scored. States of the whole: *open*, and after
    ``close`` *closed*: nothing more comes in, nothing more goes out.

    Args:
        queue: Decides what goes next among the rows that wait.
        most_window_rows: Most rows that are sorted together; the queue's own window may be smaller.
        notes: Where rows of suspect chunks are noted; None where there are no such chunks.
    """

    def __init__(self, queue: RowQueue[ChunkWork], *, most_window_rows: int, notes: Notes | None) -> None:
        self.queue = queue
        self._most_window_rows = most_window_rows
        self._notes = notes
        self._changed = threading.Condition()
        self._unscored = dict.fromkeys(Lane, 0)
        self._held: dict[Hashable, ChunkWork | SuspectChunk] = {}
        self._suspects: deque[SuspectChunk] = deque()
        self.apart = Apart()
        self._turns = 0  # picks of other chunks since a suspect row was last run
        self._busy_since: float | None = None
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether no row waits or is on the device."""
        with self._changed:
            return not self._held

    @property
    def suspects(self) -> int:
        """Suspect chunks that are held."""
        with self._changed:
            return len(self._suspects)

    @property
    def busy_since(self) -> float | None:
        """When the device began to work without a pause, on the monotonic clock; None while it has nothing to do."""
        return self._busy_since

    def submit(self, work: ChunkWork) -> bool:
        """Let a chunk wait. Returns whether it was taken; a closed intake takes nothing."""
        with self._changed:
            if self._is_closed:
                return False
            self._held[work.key] = work
            self._unscored[work.lane] += work.encodings.rows
            self.queue.add(work, lane=work.lane, group=work.model, lengths=work.encodings.lengths)
            self._changed.notify_all()
        return True

    def submit_suspect(self, suspect: SuspectChunk) -> bool:
        """Let a suspect chunk wait. Returns what ``submit`` returns."""
        with self._changed:
            if self._is_closed:
                return False
            self._held[suspect.key] = suspect
            self._suspects.append(suspect)
            self._changed.notify_all()
        return True

    def room(self, lane: Lane) -> int:
        """Rows that may still be submitted for the lane, 0 or more.

        Bulk has room for two windows, so that the next one is tokenised while one is scored; express for four of the
        largest, which is to say nearly always.
        """
        with self._changed:
            return self._room(lane)

    def wait_for_room(self, lane: Lane, *, timeout_s: float, rows: int) -> bool:
        """Wait until so many rows may be submitted; False when the time is over or the intake is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._room(lane) >= rows, timeout_s)
            return not self._is_closed and self._room(lane) >= rows

    def take(self, *, in_flight: int) -> Pick[ChunkWork] | None:
        """Return what goes on the device next.

        Args:
            in_flight: Batches that are on it. With none, this waits until there is something.

        Returns:
            None when nothing may join those in flight, or the intake is closed.
        """
        while True:
            with self._changed:
                while not self._is_closed:
                    if self.apart.is_alone:
                        return None  # nothing runs beside a noted row
                    suspect = self._next_suspect()
                    pick = self.queue.next_pick() if suspect is None else None
                    if suspect is not None or pick is not None or in_flight:
                        break
                    self._busy_since = None
                    self._changed.wait()
                else:
                    return None
            # Notes go over the network: never with the lock held.
            if suspect is None:
                if pick is not None:
                    self._turns += 1
                    self._busy_since = self._busy_since or time.monotonic()
                return pick
            if in_flight:
                return None  # nor does a noted row beside something
            if (pick := self._begin_row(suspect)) is not None:
                return pick

    def settle(self, lane: Lane, rows: int, finished: Iterable[tuple[ChunkWork, ChunkScores]]) -> None:
        """Take note of rows that were scored, and pass on the chunks that are whole now."""
        with self._changed:
            self._unscored[lane] -= rows
            known = []
            for work, done in finished:
                holder = self._held.get(work.key)
                if isinstance(holder, SuspectChunk) or self._held.pop(work.key, None) is not None:
                    known.append((work, done))
            self._changed.notify_all()
        for work, done in known:
            work.on_done(done)
        if self.apart.is_alone:
            self._end_row()
        self._pass_on_suspect()

    def close(self) -> None:
        """Take nothing more, and give nothing more out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def empty(self) -> list[Hashable]:
        """Let go of all chunks that are held; returns their keys. What is scored of them later is not passed on."""
        with self._changed:
            keys = list(self._held)
            self._held.clear()
            self._suspects.clear()
            return keys

    def _room(self, lane: Lane) -> int:
        window = self.queue.window_rows if lane is Lane.BULK else self._most_window_rows
        return max(0, ROOM_WINDOWS[lane] * window - self._unscored[lane])

    def _next_suspect(self) -> SuspectChunk | None:
        """The suspect chunk whose next row is due: before bulk, and after express unless that came several times."""
        if not self._suspects or (self._turns < EXPRESS_TURNS and self.queue.has_rows(Lane.EXPRESS)):
            return None
        return self._suspects[0]

    def _begin_row(self, suspect: SuspectChunk) -> Pick[ChunkWork] | None:
        """Note the chunk's next row and pick it; None when there is none to run, or the lease is lost."""
        assert self._notes is not None
        self._turns = 0
        self._busy_since = None  # noting may have to wait for Redis, and the device does not
        self.apart.begin_alone()
        work = suspect.begin_row(self._notes)
        if work is None:
            self._end_row()
            if not self._pass_on_suspect():
                self._drop(suspect)
            return None
        with self._changed:
            self._unscored[work.lane] += 1
        self._busy_since = time.monotonic()
        return pick_alone(work, lane=work.lane, group=work.model)

    def _pass_on_suspect(self) -> bool:
        """Pass the first suspect chunk on if its last row is scored."""
        with self._changed:
            suspect = self._suspects[0] if self._suspects else None
        if suspect is None or not suspect.is_whole or not self._drop(suspect):
            return False
        suspect.finish()
        return True

    def _drop(self, suspect: SuspectChunk) -> bool:
        """Hold a suspect chunk no longer; False when that was so before."""
        with self._changed:
            if suspect not in self._suspects:
                return False
            self._suspects.remove(suspect)
            del self._held[suspect.key]
            self._changed.notify_all()
            return True

    def _end_row(self) -> None:
        """No row is noted from here on, and the others go on."""
        assert self._notes is not None
        self._busy_since = None
        self._notes.clear()
        self.apart.end_alone()
