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

from scorequeue.errors import RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.records import Commit, Lease

COMMITS_AT_ONCE = 64
"""Most chunks in one round trip: about a megabyte of results at 256 rows a chunk."""

_RETRY_S = 0.25

log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """A scored chunk; ``commit`` encodes its results, in the committer's thread."""

    lease: Lease
    commit: Callable[[], Commit]


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
        self.outcomes: Counter[str] = Counter()
        self._ledger = ledger
        self._worker_id = worker_id
        self._lanes = lanes
        self._about = about
        self._on_fatal = on_fatal
        self._held: set[Lease] = set()
        self._finished: deque[Finished] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._is_reachable = True
        self._threads = [
            threading.Thread(target=self._guard, args=(self._beat,), name="heartbeat", daemon=True),
            threading.Thread(target=self._guard, args=(self._write,), name="committer", daemon=True),
        ]

    def start(self) -> None:
        """Say hello, and start both threads.

        Raises:
            RedisUnavailableError: Redis cannot be reached.
        """
        self._ledger.renew(self._worker_id, self._about(), self._lanes, [])
        for thread in self._threads:
            thread.start()

    def hold(self, leases: Iterable[Lease]) -> None:
        """Renew these from now on."""
        with self._lock:
            self._held.update(leases)

    def finish(self, finished: Finished) -> None:
        """Commit a scored chunk soon. Never blocks: the scorer calls it."""
        with self._changed:
            self._finished.append(finished)
            self._changed.notify()

    def release(self, leases: Iterable[Lease]) -> None:
        """Give chunks back unscored."""
        given_back = list(leases)
        self.forget(given_back)
        try:
            self.outcomes["released"] += self._ledger.release(given_back)
        except RedisUnavailableError as exc:
            facts = fields("release_unsent", leases=len(given_back), error=str(exc))
            log.warning("Redis is away; leases run out by themselves", extra=facts)

    def forget(self, leases: Iterable[Lease]) -> None:
        """Let leases run out: they are no longer renewed, and somebody else gets the chunks a term later."""
        with self._lock:
            self._held.difference_update(leases)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all finished chunks are committed; False when the time was over, or Redis away, first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._finished or not self._is_reachable, timeout_s)
            return not self._finished

    def stop(self) -> None:
        """Release what is still held, and leave the list of live workers. Call after ``flush``."""
        self._stopping.set()
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
        except BaseException as exc:  # whatever it was, nobody renews or commits now
            log.exception("the lease keeper failed", extra=fields("keeper_failed"))
            self._on_fatal(exc)

    def _beat(self) -> None:
        pause_s = self._ledger.lease_ms / 3000
        while not self._stopping.wait(pause_s if self._is_reachable else _RETRY_S):
            with self._lock:
                held = list(self._held)
            try:
                lost = self._ledger.renew(self._worker_id, self._about(), self._lanes, held)
            except RedisUnavailableError as exc:
                self._note_reachable(False, exc)
                continue
            self._note_reachable(True)
            with self._lock:
                # What was committed meanwhile is not lost, and what the committer has in hand it will be told itself.
                lost &= self._held - {finished.lease for finished in self._finished}
                self._held -= lost
            for lease in lost:
                facts = fields("lease_lost", job_id=lease.job_id, chunk=lease.chunk)
                log.warning("a lease was lost; its scores will be refused", extra=facts)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished or self._stopping.is_set())
                batch = [self._finished[i] for i in range(min(COMMITS_AT_ONCE, len(self._finished)))]
            if not batch:
                return
            commits = [finished.commit() for finished in batch]
            outcomes = self._commit(commits)
            with self._changed:
                for finished in batch:
                    self._finished.popleft()
                    self._held.discard(finished.lease)
                self._changed.notify_all()
            self.outcomes.update(outcomes)
            for commit, outcome in zip(commits, outcomes, strict=True):
                if outcome not in ("done", "already", "unsent"):
                    facts = fields("commit_refused", job_id=commit.lease.job_id, chunk=commit.lease.chunk, why=outcome)
                    log.warning("scores were refused", extra=facts)

    def _commit(self, commits: list[Commit]) -> list[str]:
        """Commit until Redis answers; empty when the worker is stopped first."""
        while not self._stopping.is_set():
            try:
                outcomes = self._ledger.commit(commits)
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
