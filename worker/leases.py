"""What a worker owes the ledger: renewals while it holds leases, commits when chunks are scored, releases when it goes.

Two threads, so that a slow commit never delays a renewal:

    heartbeat   every third of a lease: a sign of life, and all held leases renewed
    committer   takes finished chunks as they come, and writes all that wait in one round trip

A lease is ``held`` from the claim until its commit was answered, it was released, or the ledger says it is somebody
else's. Redis that goes away stops neither thread: both try again until it answers, and the token decides then.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from scorequeue.errors import ProtocolTooNewError, RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.records import Commit, Lease

COMMITS_AT_ONCE = 64
"""Most chunks in one round trip: about a megabyte of results at 256 rows a chunk."""

MOST_UNCOMMITTED = 8 * COMMITS_AT_ONCE
"""Scored chunks that wait for the committer above which nothing more should be claimed."""

_RETRY_S = 0.25

log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A scored chunk; both functions encode results, in the committer's thread.

    Attributes:
        lease: The right to commit it.
        commit: Makes its results.
        fail: Makes results in which all its rows have failed, for when the first ones cannot be made or are refused.
    """

    lease: Lease
    commit: Callable[[], Commit]
    fail: Callable[[], Commit]


class LeaseKeeper:
    """Holds this worker's leases.

    Args:
        ledger: Where leases and commits go. Its patience should be short: this class does the waiting.
        worker_id: Random for each start of a process.
        lanes: Lanes that this worker listens on.
        about: What the worker says of itself, asked anew at each heartbeat.
        on_fatal: Called with what a thread did not expect; the worker must end then, for leases to run out.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker_id: str,
        *,
        lanes: tuple[Lane, ...],
        about: Callable[[], dict[str, Any]],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._ledger = ledger
        self._worker_id = worker_id
        self._lanes = lanes
        self._about = about
        self._on_fatal = on_fatal
        self._held: set[Lease] = set()
        self._finished: deque[Finished] = deque()
        self._unanswered: list[str] = []
        self._ledger_name = ""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._beat_now = threading.Event()
        self._is_reachable = True
        self._threads = [
            threading.Thread(target=self._guard, args=(self._beat_on,), name="heartbeat", daemon=True),
            threading.Thread(target=self._guard, args=(self._write,), name="committer", daemon=True),
        ]

    @property
    def is_behind(self) -> bool:
        """Whether so many scored chunks wait for Redis that nothing more should be claimed."""
        return len(self._finished) > MOST_UNCOMMITTED

    @property
    def is_reachable(self) -> bool:
        """Whether Redis answered the last time."""
        return self._is_reachable

    def start(self) -> None:
        """Say hello, and start both threads.

        Raises:
            RedisUnavailableError: Redis cannot be reached.
        """
        first = self._ledger.renew(self._worker_id, self._about(), self._lanes, [], is_first=True)
        self._ledger_name = first.ledger_name
        for thread in self._threads:
            thread.start()

    def hold(self, leases: Iterable[Lease]) -> None:
        """Renew these from now on."""
        with self._lock:
            self._held.update(leases)

    def give_up_claim(self, token: str) -> None:
        """Give back, when Redis answers, what a claim without an answer has leased."""
        with self._lock:
            self._unanswered.append(token)
        self._beat_now.set()

    def finish(self, finished: Finished) -> None:
        """Commit a scored chunk soon. Never blocks: the scorer calls it."""
        with self._changed:
            self._finished.append(finished)
            self._changed.notify()

    def release(self, leases: Iterable[Lease]) -> None:
        """Give chunks back unscored."""
        given_back = list(leases)
        with self._lock:
            self._held.difference_update(given_back)
        try:
            self._ledger.release(given_back)
        except RedisUnavailableError as exc:
            facts = fields("release_unsent", leases=len(given_back), error=str(exc))
            log.warning("Redis is away; leases run out by themselves", extra=facts)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all finished chunks are committed; False when the time was over, or Redis away, first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._finished or not self._is_reachable, timeout_s)
            return not self._finished

    def stop(self) -> None:
        """Release what is still held, and leave the list of live workers. Call after ``flush``."""
        self._stopping.set()
        self._beat_now.set()
        with self._changed:
            self._changed.notify_all()
            rest = list(self._held)
        self.release(rest)
        # Unsent, it costs nothing: a worker that gives no sign of life is not counted a lease later.
        with contextlib.suppress(RedisUnavailableError):
            self._ledger.depart(self._worker_id, self._lanes)

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except ProtocolTooNewError as exc:
            self._on_fatal(exc)
        except BaseException as exc:  # whatever it was, nobody renews or commits now
            log.exception("the lease keeper failed", extra=fields("keeper_failed"))
            self._on_fatal(exc)

    def _beat_on(self) -> None:
        pause_s = self._ledger.lease_ms / 3000
        while True:
            self._beat_now.wait(pause_s if self._is_reachable else _RETRY_S)
            self._beat_now.clear()
            if self._stopping.is_set():
                return
            try:
                self._beat()
            except ProtocolTooNewError:
                raise
            except RedisUnavailableError as exc:
                self._note_reachable(False, exc)
            else:
                self._note_reachable(True)

    def _beat(self) -> None:
        with self._lock:
            held, unanswered = list(self._held), list(self._unanswered)
        if unanswered:
            released = self._ledger.void(unanswered)
            with self._lock:
                del self._unanswered[: len(unanswered)]
            log.info("claims without an answer went back", extra=fields("claims_voided", leases=released))
        renewal = self._ledger.renew(self._worker_id, self._about(), self._lanes, held)
        if renewal.ledger_name != self._ledger_name:
            facts = fields("ledger_replaced", lost=len(renewal.lost))
            log.warning("Redis was emptied or replaced; its jobs are gone, new ones are served", extra=facts)
            self._ledger_name = renewal.ledger_name
        with self._lock:
            # What was committed meanwhile is not lost, and what the committer has in hand it will be told itself.
            lost = renewal.lost & self._held - {finished.lease for finished in self._finished}
            self._held -= lost
        for job_id, chunks in Counter(lease.job_id for lease in lost).items():
            facts = fields("lease_lost", job_id=job_id, chunks=chunks)
            log.warning("leases were lost; their scores will be refused", extra=facts)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished or self._stopping.is_set())
                batch = [self._finished[i] for i in range(min(COMMITS_AT_ONCE, len(self._finished)))]
            if not batch:
                return
            outcomes = self._commit([_made(finished) for finished in batch])
            refused = [at for at, outcome in enumerate(outcomes) if outcome.startswith("refused")]
            if refused:
                again = self._commit([batch[at].fail() for at in refused])
                for at, outcome in zip(refused, again, strict=True):
                    facts = fields("commit_refused", chunk=batch[at].lease.chunk, why=outcomes[at], then=outcome)
                    log.error("results did not fit their chunk; its rows fail", extra=facts)
                    outcomes[at] = outcome
            with self._changed:
                for finished in batch:
                    self._finished.popleft()
                    self._held.discard(finished.lease)
                self._changed.notify_all()
            _tell_unwanted(batch, outcomes)

    def _commit(self, commits: list[Commit]) -> list[str]:
        """Commit until Redis answers; ``unsent`` when the worker is stopped first."""
        while not self._stopping.is_set():
            try:
                outcomes = self._ledger.commit(commits)
            except ProtocolTooNewError:
                raise
            except RedisUnavailableError as exc:
                self._note_reachable(False, exc)
                self._stopping.wait(_RETRY_S)
                continue
            self._note_reachable(True)
            return outcomes
        return ["unsent"] * len(commits)

    def _note_reachable(self, is_reachable: bool, error: Exception | None = None) -> None:
        if is_reachable != self._is_reachable:
            with self._changed:
                self._is_reachable = is_reachable
                self._changed.notify_all()
            if is_reachable:
                log.info("Redis is back", extra=fields("redis_back"))
            else:
                facts = fields("redis_away", error=str(error))
                log.warning("Redis is away; scores are kept until it answers", extra=facts)


def _made(finished: Finished) -> Commit:
    """Make a chunk's results; rows whose results cannot be made fail, instead of ending worker after worker."""
    try:
        return finished.commit()
    except Exception:
        facts = fields("results_failed", job_id=finished.lease.job_id, chunk=finished.lease.chunk)
        log.exception("results could not be put together; the chunk's rows fail", extra=facts)
        return finished.fail()


def _tell_unwanted(batch: list[Finished], outcomes: list[str]) -> None:
    """Log what nobody wanted, a line for each job: a cancelled one may have hundreds of chunks on their way."""
    unwanted = Counter(
        (finished.lease.job_id, outcome)
        for finished, outcome in zip(batch, outcomes, strict=True)
        if outcome not in ("done", "already", "unsent")
    )
    for (job_id, outcome), chunks in unwanted.items():
        level = logging.INFO if outcome == "closed" else logging.WARNING
        log.log(level, "scores were refused", extra=fields("scores_refused", job_id=job_id, chunks=chunks, why=outcome))
