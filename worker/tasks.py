"""``score(lane)``: the feeder that moves a lane's chunks from the ledger to the scorer.

A wake-up (or the poller) that finds the lane's feeder running makes it look once more before it ends. It runs while it
gets chunks, and for a minute at most: then it wakes itself, so that Celery, a monitor and a shutdown see tasks end.

    claim -> decode -> tokenise -> scorer           in the feeder's thread
    scores -> results -> ledger                     in the committer's
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from scorequeue.codec import decode_chunk
from scorequeue.errors import CodecError, ProtocolTooNewError, RedisUnavailableError, VersionError
from scorequeue.jobs import ErrorCode, Lane, RowError
from scorequeue.ledger import Ledger, new_token
from scorequeue.logs import fields
from scorequeue.queue import WakeUps
from scorequeue.records import AWAKE_MS, LaneRoom, LeasedChunk
from worker.leases import LeaseKeeper
from worker.results import Finished, commit_of, failed_commit, good_rows
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
    """A chunk whose rows are to be tokenised: those that can be scored, and what takes their scores."""

    leased: LeasedChunk
    scorer: Scorer
    texts: Sequence[str]
    on_done: Callable[[ChunkScores], None]

    @property
    def is_deadly(self) -> bool:
        """Whether workers were lost with it."""
        return self.leased.deaths >= APART_AFTER


@dataclass(eq=False)
class Feeder:
    """The feeder of one lane: ``idle <-> running``."""

    lane: Lane
    worker_id: str
    ledger: Ledger
    keeper: LeaseKeeper
    versions: Versions
    room: Room
    tokenizers: TokenizerPool
    wake_ups: WakeUps
    stopping: threading.Event
    _running: threading.Lock = field(default_factory=threading.Lock, init=False)
    _look_again: bool = field(default=False, init=False)

    @property
    def is_running(self) -> bool:
        """Whether it claims just now."""
        return self._running.locked()

    def run(self) -> None:
        """Feed the scorer until the lane is empty or the turn is over; if it runs already, it looks once more."""
        self._look_again = True
        while self._look_again and self._running.acquire(blocking=False):
            try:
                is_turn_over = self._feed()
            finally:
                self._running.release()  # a wake-up that found it held has set `_look_again` before
            if is_turn_over:
                self.wake_ups.send(self.lane)
                return

    def _feed(self) -> bool:
        """Feed until the lane is empty or the worker stops; True if the turn was over before."""
        turn_ends = time.monotonic() + TURN_S
        awake_until = 0.0
        self._look_again = False
        while not self.stopping.is_set():
            if time.monotonic() > turn_ends:
                return True
            if self.room.left(self.lane) <= 0:
                self.room.wait(self.lane, timeout_s=_ROOM_POLL_S)
                continue
            if self.keeper.is_behind or self.keeper.held >= MOST_HELD:
                self.stopping.wait(_BEHIND_POLL_S)
                continue
            self._look_again = False
            chunks = self._claim()
            self._tokenize(chunks)
            if chunks:
                awake_until = time.monotonic() + AWAKE_S
            elif not self._has_more(awake_until) and not self._look_again:
                break
        return False

    def _has_more(self, awake_until: float) -> bool:
        """Look again and again as long as producers take this worker for awake; whether there is work."""
        while time.monotonic() < awake_until and not self.stopping.wait(AWAKE_POLL_S):
            try:
                if self.ledger.poll([self.lane], versions=self.versions.ready_versions()):
                    return True
            except ProtocolTooNewError:
                raise
            except RedisUnavailableError:
                return False
        return False

    def _claim(self) -> Sequence[LeasedChunk]:
        if not self.keeper.is_reachable:
            return []  # the heartbeat asks often enough
        token = new_token()
        try:
            claim = self.ledger.claim(
                self.worker_id,
                [LaneRoom(self.lane, self.room.left(self.lane), CHUNKS_AT_ONCE)],
                versions=self.versions.ready_versions(),
                default_version=self.versions.current.version,
                refused=self.versions.failed_versions(),
                token=token,
            )
        except ProtocolTooNewError:
            raise
        except RedisUnavailableError as exc:
            self.keeper.give_up_claim(token, exc)
            return []
        self.keeper.hold(chunk.lease for chunk in claim.chunks)
        if claim.waiting_version is not None and claim.waited_s >= LOAD_AFTER_S:
            self.versions.request(claim.waiting_version)
        return claim.chunks

    def _tokenize(self, chunks: Sequence[LeasedChunk]) -> None:
        """Read chunks and have them tokenised: a few texts here, many in the pool's threads."""
        for group in _grouped(filter(None, map(self._begin, chunks))):
            if sum(len(begun.texts) for begun in group) <= TOKENISED_AT_ONCE and not group[0].is_deadly:
                self._hand_on(group)
            else:
                self.tokenizers.submit(partial(self._hand_on, group))

    def _begin(self, leased: LeasedChunk) -> Begun | None:
        """Read a chunk; None if there is nothing to tokenise, because it goes back or is done already."""
        lease = leased.lease
        try:
            scorer = self.versions.get(leased.model_version)
        except VersionError:  # it made room between the claim and now
            self.keeper.release([lease])
            return None
        fail = partial(failed_commit, leased, labels=scorer.labels)
        try:
            chunk = decode_chunk(leased.payload)
        except (CodecError, ProtocolTooNewError) as exc:
            # No worker can read these bytes: a new format comes with a new protocol.
            facts = fields("chunk_unreadable", job_id=lease.job_id, chunk=lease.chunk, error=str(exc))
            log.error("a chunk is damaged; its rows fail", extra=facts)
            self.keeper.finish(Finished(lease, partial(fail, error=DAMAGED), fail))
            return None

        def finish(done: ChunkScores | None) -> None:
            commit = partial(commit_of, leased, chunk, labels=scorer.labels, done=done)
            self.keeper.finish(Finished(lease, commit, fail))

        good = good_rows(chunk)
        if not good:
            finish(None)
            return None
        texts = [chunk.texts[position] for position in good] if chunk.errors else chunk.texts
        self.room.take(self.lane, len(texts))
        return Begun(leased, scorer, texts, finish)

    def _hand_on(self, group: list[Begun]) -> None:
        """Tokenise the chunks of a group and give them to their scorer."""
        first = group[0]
        lease, files = first.leased.lease, first.scorer.files
        if first.is_deadly:
            facts = fields("tokenised_apart", job_id=lease.job_id, chunk=lease.chunk, deaths=first.leased.deaths)
            log.warning("workers were lost with a chunk; it is tokenised in a process of its own", extra=facts)
            tokenised = [encode_apart(files, first.texts)]
        else:
            tokenised = self.tokenizers.encode(files, [begun.texts for begun in group])
        for begun, encodings in zip(group, tokenised, strict=True):
            if not begun.scorer.submit(ChunkWork(begun.leased.lease, self.lane, encodings, begun.on_done)):
                self.room.give(self.lane, len(begun.texts))  # the scorer is going
                self.keeper.release([begun.leased.lease])


def _grouped(chunks: Iterable[Begun]) -> Iterator[list[Begun]]:
    """Yield chunks of one version that a thread tokenises together; one with which workers were lost goes alone."""
    group: list[Begun] = []
    rows = 0
    for begun in chunks:
        rows += len(begun.texts)
        is_alone = begun.is_deadly or (group and group[0].is_deadly)
        if group and (is_alone or rows > ROWS_A_TASK or begun.scorer is not group[0].scorer):
            yield group
            group, rows = [], len(begun.texts)
        group.append(begun)
    if group:
        yield group
