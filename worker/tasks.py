"""``score(lane)``: the feeder that moves a lane's chunks from the ledger to the scorer.

A feeder is ``idle`` or ``running``, once a lane and worker. A wake-up (or the poller) that finds it running makes it
look once more before it ends. It runs while it gets chunks, and for a minute at most: then it wakes itself, so that
Celery, a monitor and a shutdown see tasks come and go.

    claim -> decode -> tokenise -> scorer           in the feeder's thread
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
from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.ledger import Ledger, new_token
from scorequeue.logs import fields
from scorequeue.queue import WakeUps
from scorequeue.records import AWAKE_MS, LaneRoom, LeasedChunk
from worker.finished import Finished
from worker.leases import LeaseKeeper
from worker.models import ModelShelf
from worker.results import commit_of, failed_commit, good_rows
from worker.scorer import ChunkScores, ChunkWork, Scorer
from worker.suspects import SuspectChunk
from worker.tokenizing import TokenizingError

TURN_S = 60.0
"""Seconds after which a feeder ends and wakes itself."""

MOST_HELD = 4_096
"""Most leases of a worker: each heartbeat renews them all, which costs Redis 8 to 20 us a lease."""

CHUNKS_AT_ONCE = 16
"""Most chunks in a claim: enough to make the round trip cheap, few enough that scoring starts at once."""

AWAKE_POLL_S = 0.001
"""Pause between looks at a lane that has just run empty."""

AWAKE_S = AWAKE_MS / 1000 + 2 * AWAKE_POLL_S
"""Seconds of such looks: a little longer than the ledger tells producers that no wake-up is needed."""

LOAD_AFTER_S = 30.0
"""Seconds a job waits for a version that is not loaded before it is loaded."""

DAMAGED = RowError(ErrorCode.SCORING_FAILED, "the chunk that held this row is damaged; submit the row again")

_ROOM_POLL_S = 0.25
_BEHIND_POLL_S = 0.05

log = logging.getLogger(__name__)


class Feeder:
    """The feeder of one lane: ``idle <-> running``."""

    def __init__(
        self,
        lane: Lane,
        *,
        worker_id: str,
        ledger: Ledger,
        keeper: LeaseKeeper,
        models: ModelShelf,
        scorer: Scorer,
        wake_ups: WakeUps,
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lane = lane
        self._worker_id = worker_id
        self._ledger = ledger
        self._keeper = keeper
        self._models = models
        self._scorer = scorer
        self._wake_ups = wake_ups
        self._stopping = stopping
        self._clock = clock
        self._lock = threading.Lock()
        self._is_running = False
        self._look_again = False
        self._is_reachable = True

    @property
    def is_running(self) -> bool:
        """Whether it claims just now."""
        return self._is_running

    def run(self) -> None:
        """Feed the scorer until the lane is empty or the turn is over. Returns at once if it runs already."""
        with self._lock:
            if self._is_running:
                self._look_again = True
                return
            self._is_running = True
        try:
            self._run()
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        """Feed, and call ``_end`` or its like exactly once: behind it another thread may be feeding."""
        turn_ends = self._clock() + TURN_S
        awake_until = 0.0
        while not self._stopping.is_set():
            if self._clock() > turn_ends:
                self._end()
                self._wake_ups.send(self.lane)
                return
            if self._scorer.room(self.lane) <= 0:
                self._scorer.wait_for_room(self.lane, timeout_s=_ROOM_POLL_S)
                continue
            if self._keeper.is_behind or self._keeper.held >= MOST_HELD:
                self._stopping.wait(_BEHIND_POLL_S)
                continue
            with self._lock:
                self._look_again = False
            chunks = self._claim()
            for chunk in chunks:
                with self._scorer.beside_noted_rows():
                    self._start(chunk)
            if chunks:
                awake_until = self._clock() + AWAKE_S
            elif not self._has_more(awake_until):
                with self._lock:
                    if not self._look_again:
                        self._is_running = False  # under the same lock as the wake-up's check: none falls in between
                        return
        self._end()

    def _has_more(self, awake_until: float) -> bool:
        """Look again and again as long as producers take this worker for awake; whether there is work."""
        while self._clock() < awake_until and not self._stopping.wait(AWAKE_POLL_S):
            try:
                if self._ledger.poll([self.lane], versions=self._models.ready_versions()):
                    return True
            except ProtocolTooNewError:
                raise
            except RedisUnavailableError:
                return False
        return False

    def _end(self) -> None:
        with self._lock:
            self._is_running = False

    def _claim(self) -> Sequence[LeasedChunk]:
        if not self._keeper.is_reachable:
            return []  # the heartbeat asks often enough
        room = LaneRoom(self.lane, self._scorer.room(self.lane), CHUNKS_AT_ONCE)
        token = new_token()
        refused = self._models.refusals()
        try:
            claim = self._ledger.claim(
                self._worker_id,
                [room],
                versions=self._models.ready_versions(),
                default_version=self._models.current_version,
                refused=refused,
                token=token,
            )
        except ProtocolTooNewError:
            raise
        except RedisUnavailableError as exc:
            self._keeper.give_up_claim(token)
            if self._is_reachable:
                log.warning("a claim got no answer", extra=fields("claim_failed", lane=self.lane.value, error=str(exc)))
            self._is_reachable = False
            return []
        self._is_reachable = True
        self._models.told(refused)
        self._keeper.hold(chunk.lease for chunk in claim.chunks)
        if claim.waiting_version is not None and claim.waited_s >= LOAD_AFTER_S:
            self._models.request(claim.waiting_version)
        return claim.chunks

    def _start(self, leased: LeasedChunk) -> None:
        """Hand a chunk's good rows to the scorer; a chunk that cannot be begun goes back."""
        lease = leased.lease
        try:
            model = self._models.get(leased.model_version)
        except VersionError:  # it made room between the claim and now
            self._keeper.release([lease])
            return
        fail = partial(failed_commit, leased, labels=model.labels)
        try:
            chunk = decode_chunk(leased.payload)
        except (CodecError, ProtocolTooNewError) as exc:
            # No worker can read these bytes: a new format comes with a new protocol.
            facts = fields("chunk_unreadable", job_id=lease.job_id, chunk=lease.chunk, error=str(exc))
            log.error("a chunk is damaged; its rows fail", extra=facts)
            self._keeper.finish(Finished(lease, partial(fail, error=DAMAGED), fail))
            return
        commit = partial(commit_of, leased, chunk, labels=model.labels)
        good = good_rows(chunk)
        if not good:
            self._keeper.finish(Finished(lease, partial(commit, scores=None, truncated=None, failed={}), fail))
            return

        def on_done(done: ChunkScores) -> None:
            made = partial(commit, scores=done.scores, truncated=done.truncated, failed=done.failed)
            self._keeper.finish(Finished(lease, made, fail))

        texts = [chunk.texts[position] for position in good] if chunk.errors else chunk.texts
        rows = good if chunk.offsets is None else [chunk.offsets[position] for position in good]
        is_taken: bool
        try:
            # A chunk with leased.deaths >= 2 has killed workers, which may be its texts' doing: this is the place.
            encodings = model.encode(texts)
        except TokenizingError as exc:
            facts = fields("tokenizing_failed", job_id=lease.job_id, chunk=lease.chunk, error=str(exc))
            log.error("a chunk cannot be tokenised; its rows run one by one", extra=facts)
            suspect = SuspectChunk(
                lease, lane=self.lane, model=model, texts=texts, rows=rows, on_done=on_done, row_deaths={}
            )
            is_taken = self._scorer.submit_suspect(suspect)
        else:
            work = ChunkWork(key=lease, lane=self.lane, model=model, encodings=encodings, on_done=on_done)
            is_taken = self._scorer.submit(work)
        if not is_taken:  # the worker is going
            self._keeper.release([lease])
