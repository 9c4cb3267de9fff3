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
from typing import NamedTuple

from scorequeue.codec import decode_chunk
from scorequeue.errors import CodecError, ProtocolTooNewError, RedisUnavailableError, VersionError
from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.ledger import Ledger, new_token
from scorequeue.logs import fields
from scorequeue.queue import WakeUps
from scorequeue.records import AWAKE_MS, LaneRoom, LeasedChunk
from worker.backends import Encodings
from worker.finished import Finished
from worker.leases import LeaseKeeper
from worker.results import commit_of, failed_commit, good_rows
from worker.scorer import Scorer
from worker.tokenizing import TokenizerPool, encode_apart
from worker.versions import Versions
from worker.windows import ChunkScores, ChunkWork, Room

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

APART_AFTER = 2
"""Expired leases after which a chunk is tokenised in a process of its own: a text that kills the tokenizer would kill
worker after worker."""

ROWS_A_TASK = 1_024
"""Most rows that a thread of the pool tokenises at once: enough to make handing them over cheap."""

TOKENISED_AT_ONCE = 64
"""Most texts that the feeder tokenises itself: handing them to another thread takes longer."""

DAMAGED = RowError(ErrorCode.SCORING_FAILED, "the chunk that held this row is damaged; submit the row again")

_ROOM_POLL_S = 0.25
_BEHIND_POLL_S = 0.05

log = logging.getLogger(__name__)


class Begun(NamedTuple):
    """A chunk whose rows are to be tokenised.

    Attributes:
        leased: What was claimed.
        scorer: Of the version that scores it.
        texts: Its rows that can be scored.
        on_done: Takes their scores.
    """

    leased: LeasedChunk
    scorer: Scorer
    texts: Sequence[str]
    on_done: Callable[[ChunkScores], None]


class Feeder:
    """The feeder of one lane: ``idle <-> running``."""

    def __init__(
        self,
        lane: Lane,
        *,
        worker_id: str,
        ledger: Ledger,
        keeper: LeaseKeeper,
        versions: Versions,
        room: Room,
        tokenizers: TokenizerPool,
        wake_ups: WakeUps,
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lane = lane
        self._worker_id = worker_id
        self._ledger = ledger
        self._keeper = keeper
        self._versions = versions
        self._room = room
        self._tokenizers = tokenizers
        self._wake_ups = wake_ups
        self._stopping = stopping
        self._clock = clock
        self._lock = threading.Lock()
        self._is_running = False
        self._look_again = False

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
            if self._room.left(self.lane) <= 0:
                self._room.wait(self.lane, timeout_s=_ROOM_POLL_S)
                continue
            if self._keeper.is_behind or self._keeper.held >= MOST_HELD:
                self._stopping.wait(_BEHIND_POLL_S)
                continue
            with self._lock:
                self._look_again = False
            chunks = self._claim()
            self._tokenize(chunks)
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
                if self._ledger.poll([self.lane], versions=self._versions.ready_versions()):
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
        room = LaneRoom(self.lane, self._room.left(self.lane), CHUNKS_AT_ONCE)
        token = new_token()
        try:
            claim = self._ledger.claim(
                self._worker_id,
                [room],
                versions=self._versions.ready_versions(),
                default_version=self._versions.current.version,
                refused=self._versions.failed_versions(),
                token=token,
            )
        except ProtocolTooNewError:
            raise
        except RedisUnavailableError as exc:
            self._keeper.give_up_claim(token, exc)
            return []
        self._keeper.hold(chunk.lease for chunk in claim.chunks)
        if claim.waiting_version is not None and claim.waited_s >= LOAD_AFTER_S:
            self._versions.request(claim.waiting_version)
        return claim.chunks

    def _start(self, leased: LeasedChunk) -> Begun | None:
        """Read a chunk; None if there is nothing to tokenise, because it goes back or is done already."""
        lease = leased.lease
        try:
            scorer = self._versions.get(leased.model_version)
        except VersionError:  # it made room between the claim and now
            self._keeper.release([lease])
            return None
        fail = partial(failed_commit, leased, labels=scorer.labels)
        try:
            chunk = decode_chunk(leased.payload)
        except (CodecError, ProtocolTooNewError) as exc:
            # No worker can read these bytes: a new format comes with a new protocol.
            facts = fields("chunk_unreadable", job_id=lease.job_id, chunk=lease.chunk, error=str(exc))
            log.error("a chunk is damaged; its rows fail", extra=facts)
            self._keeper.finish(Finished(lease, partial(fail, error=DAMAGED), fail))
            return None
        commit = partial(commit_of, leased, chunk, labels=scorer.labels)
        good = good_rows(chunk)
        if not good:
            self._keeper.finish(Finished(lease, partial(commit, scores=None, truncated=None, failed={}), fail))
            return None

        def on_done(done: ChunkScores) -> None:
            made = partial(commit, scores=done.scores, truncated=done.truncated, failed=done.failed)
            self._keeper.finish(Finished(lease, made, fail))

        texts = [chunk.texts[position] for position in good] if chunk.errors else chunk.texts
        self._room.take(self.lane, len(texts))
        return Begun(leased, scorer, texts, on_done)

    def _tokenize(self, chunks: Sequence[LeasedChunk]) -> None:
        """Read chunks and have them tokenised: a few texts here, many in the pool's threads, several chunks a task."""
        group: list[Begun] = []
        rows = 0
        for begun in filter(None, map(self._start, chunks)):
            if begun.leased.deaths >= APART_AFTER:
                self._tokenizers.submit(partial(self._hand_on_apart, begun))
                continue
            if group and (rows + len(begun.texts) > ROWS_A_TASK or begun.scorer is not group[0].scorer):
                self._hand_on_soon(group, rows)
                group, rows = [], 0
            group.append(begun)
            rows += len(begun.texts)
        if group:
            self._hand_on_soon(group, rows)

    def _hand_on_soon(self, group: list[Begun], rows: int) -> None:
        if rows <= TOKENISED_AT_ONCE:
            self._hand_on(group)
        else:
            self._tokenizers.submit(partial(self._hand_on, group))

    def _hand_on(self, group: list[Begun]) -> None:
        """Tokenise chunks of one version and give them to its scorer."""
        tokenised = self._tokenizers.encode(group[0].scorer.files, [begun.texts for begun in group])
        for begun, encodings in zip(group, tokenised, strict=True):
            self._give(begun, encodings)

    def _hand_on_apart(self, begun: Begun) -> None:
        """Tokenise a chunk with which workers were lost."""
        lease = begun.leased.lease
        facts = fields("tokenised_apart", job_id=lease.job_id, chunk=lease.chunk, deaths=begun.leased.deaths)
        log.warning("workers were lost with a chunk; it is tokenised in a process of its own", extra=facts)
        self._give(begun, encode_apart(begun.scorer.files, begun.texts))

    def _give(self, begun: Begun, encodings: Encodings) -> None:
        lease = begun.leased.lease
        if not begun.scorer.submit(ChunkWork(lease, self.lane, encodings, begun.on_done)):  # it is going
            self._room.give(self.lane, len(begun.texts))
            self._keeper.release([lease])
