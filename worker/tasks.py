"""``score(lane)``: the pump that moves a lane's chunks from the ledger to the scorer.

A pump is ``idle`` or ``running``, once a lane and worker. A bell (or the lookout) that finds it running makes it look
once more before it ends. It runs while it gets chunks, and for a minute at most: then it rings for itself, so that
Celery, a monitor and a shutdown see tasks come and go.

    claim -> decode -> tokenise -> scorer           in the pump's thread
    scores -> results -> ledger                     in the committer's
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from scorequeue.codec import decode_chunk
from scorequeue.errors import CodecError, ProtocolTooNewError, RedisUnavailableError, VersionError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.queue import Bells
from scorequeue.records import LaneRoom, LeasedChunk
from worker.leases import Finished, LeaseKeeper
from worker.models import ModelShelf
from worker.results import commit_of, good_rows
from worker.scorer import ChunkScores, ChunkWork, Scorer

TURN_S = 60.0
"""Seconds after which a pump ends and rings for itself."""

CHUNKS_AT_ONCE = 16
"""Most chunks in a claim: enough to make the round trip cheap, few enough that scoring starts at once."""

LOAD_AFTER_S = 30.0
"""Seconds a job waits for a version that is not loaded before it is loaded."""

_ROOM_POLL_S = 0.25

log = logging.getLogger(__name__)


class Pump:
    """The pump of one lane: ``idle <-> running``."""

    def __init__(
        self,
        lane: Lane,
        *,
        worker_id: str,
        ledger: Ledger,
        keeper: LeaseKeeper,
        models: ModelShelf,
        scorer: Scorer,
        bells: Bells,
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lane = lane
        self._worker_id = worker_id
        self._ledger = ledger
        self._keeper = keeper
        self._models = models
        self._scorer = scorer
        self._bells = bells
        self._stopping = stopping
        self._clock = clock
        self._lock = threading.Lock()
        self._is_running = False
        self._look_again = False
        self._is_reachable = True

    def run(self) -> None:
        """Pump until the lane is empty, the turn is over or the worker stops. Returns at once if it runs already."""
        with self._lock:
            if self._is_running:
                self._look_again = True
                return
            self._is_running = True
        try:
            self._pump()
        except BaseException:
            self._end()
            raise

    def _pump(self) -> None:
        """Pump, and call ``_end`` or its like exactly once: behind it another thread may be pumping."""
        turn_ends = self._clock() + TURN_S
        while not self._stopping.is_set():
            if self._clock() > turn_ends:
                self._end()
                self._bells.ring(self.lane)
                return
            if self._scorer.room(self.lane) <= 0:
                self._scorer.wait_for_room(self.lane, timeout_s=_ROOM_POLL_S)
                continue
            with self._lock:
                self._look_again = False
            chunks = self._claim()
            for chunk in chunks:
                self._start(chunk)
            if not chunks:
                with self._lock:
                    if not self._look_again:
                        self._is_running = False  # under the same lock as the bell's check: none falls in between
                        return
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._is_running = False

    def _claim(self) -> Sequence[LeasedChunk]:
        room = LaneRoom(self.lane, self._scorer.room(self.lane), CHUNKS_AT_ONCE)
        try:
            claim = self._ledger.claim(
                self._worker_id,
                [room],
                versions=self._models.ready_versions(),
                default_version=self._models.current_version,
            )
        except RedisUnavailableError as exc:
            if self._is_reachable:
                log.warning("a claim got no answer", extra=fields("claim_failed", lane=self.lane.value, error=str(exc)))
            self._is_reachable = False
            return []
        self._is_reachable = True
        self._keeper.hold(chunk.lease for chunk in claim.chunks)
        if claim.waiting_version is not None and claim.waited_s >= LOAD_AFTER_S:
            self._models.request(claim.waiting_version)
        return claim.chunks

    def _start(self, leased: LeasedChunk) -> None:
        """Hand a chunk's good rows to the scorer; a chunk that cannot be begun goes back."""
        lease = leased.lease
        try:
            chunk = decode_chunk(leased.payload)
        except (CodecError, ProtocolTooNewError) as exc:
            facts = fields("chunk_unreadable", job_id=lease.job_id, chunk=lease.chunk, error=str(exc))
            log.error("a chunk cannot be read here; its lease runs out", extra=facts)
            # Released, it would be the next one claimed here; after a term another worker may read it.
            self._keeper.forget([lease])
            return
        try:
            model = self._models.get(leased.model_version)
        except VersionError:  # it made room between the claim and now
            self._keeper.release([lease])
            return
        finish = partial(commit_of, lease, chunk, labels=model.labels, model_version=model.version)
        texts = [chunk.texts[offset] for offset in good_rows(chunk)] if chunk.errors else chunk.texts
        if not texts:
            self._keeper.finish(Finished(lease, partial(finish, encodings=None, scores=None, failed={})))
            return
        encodings = model.encode(texts)

        def on_done(scores: ChunkScores) -> None:
            commit = partial(finish, encodings=encodings, scores=scores.scores, failed=scores.failed)
            self._keeper.finish(Finished(lease, commit))

        work = ChunkWork(key=lease, lane=self.lane, model=model, encodings=encodings, on_done=on_done)
        if not self._scorer.submit(work):  # the worker is going
            self._keeper.release([lease])
