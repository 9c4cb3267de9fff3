"""What a worker owes the ledger: renewals while it holds leases, commits when chunks are scored, releases when it goes.

Two threads, so that a slow commit never delays a renewal:

    heartbeat   every third of a lease: a sign of life, and all held leases renewed
    committer   takes finished chunks as they come, and writes all that wait in one round trip

A lease is ``held`` from the claim until its commit was answered, it was released, or the ledger says that it is lost.
While Redis is away the heartbeat tries until it answers, the committer waits for that, and the token decides then.
What is still held when the worker goes is given back as long as its time allows: a lease that runs out counts as a
death.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from scorequeue.errors import ProtocolTooNewError, RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.ledger import Ledger
from scorequeue.logs import fields
from scorequeue.records import Commit, Lease
from worker.outages import FIRST_PAUSE_S, Outage
from worker.results import Finished

COMMITS_AT_ONCE = 64
"""Most chunks in one round trip: about a megabyte of results at 256 rows a chunk."""

MOST_UNCOMMITTED = 8 * COMMITS_AT_ONCE
"""Scored chunks that wait for the committer above which nothing more should be claimed."""

RELEASE_S = 1.0
"""Seconds that a release is tried by a feeder, which has other chunks to look after."""

log = logging.getLogger(__name__)


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
        self.moved_at = 0.0
        """When a chunk was last claimed or scored, on the monotonic clock; 0 before the first."""
        self._ledger = ledger
        self._worker_id = worker_id
        self._lanes = lanes
        self._about = about
        self._on_fatal = on_fatal
        self._held: set[Lease] = set()
        self._finished: deque[Finished] = deque()
        self._unanswered: list[str] = []
        self._ledger_name = ""
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._beat_now = threading.Event()
        self._outage = Outage()
        self._has_failed = False
        self._heartbeat = threading.Thread(target=self._guard, args=(self._beat_on,), name="heartbeat", daemon=True)
        self._committer = threading.Thread(target=self._guard, args=(self._write,), name="committer", daemon=True)

    @property
    def held(self) -> int:
        """How many leases are held."""
        return len(self._held)

    @property
    def is_behind(self) -> bool:
        """Whether so many scored chunks wait for Redis that nothing more should be claimed."""
        return len(self._finished) > MOST_UNCOMMITTED

    @property
    def is_reachable(self) -> bool:
        """Whether Redis answered the last time, and took writes."""
        return not self._outage.is_on

    def start(self) -> None:
        """Say hello, and start both threads; if Redis is away just now, they say it when it is back."""
        self._try_beat()
        self._heartbeat.start()
        self._committer.start()

    def hold(self, leases: Iterable[Lease]) -> None:
        """Renew these from now on."""
        claimed = list(leases)
        if claimed:  # else there is no sign that anything moves
            with self._changed:
                self._held.update(claimed)
                self.moved_at = time.monotonic()

    def give_up_claim(self, token: str, error: RedisUnavailableError) -> None:
        """Give back, when Redis answers, what the claim with this token, which got no answer, has leased."""
        with self._changed:
            self._unanswered.append(token)
        self._note_outage(error)

    def finish(self, finished: Finished) -> None:
        """Commit a scored chunk soon. Never blocks: the scorer calls it."""
        with self._changed:
            self._finished.append(finished)
            self.moved_at = time.monotonic()
            self._changed.notify()

    def release(self, leases: Iterable[Lease], *, timeout_s: float = RELEASE_S) -> None:
        """Give chunks back unscored.

        Args:
            leases: What to give back; not renewed from now on.
            timeout_s: How long it is tried while Redis is away. After that they run out by themselves.
        """
        given_back = list(leases)
        with self._changed:
            self._held.difference_update(given_back)
        try:
            self._ledger.patient(timeout_s).release(given_back)
        except RedisUnavailableError as exc:
            facts = fields("release_unsent", leases=len(given_back), error=str(exc))
            log.warning("Redis is away; leases run out by themselves", extra=facts)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all finished chunks are committed; False when the time was over, or a thread here failed, first.

        Redis may be away for a part of it: the committer goes on trying.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._finished or self._has_failed, timeout_s)
            return not self._finished

    def stop(self, *, timeout_s: float) -> None:
        """Give back all that is still held, and leave the list of live workers. Call after ``flush``.

        Args:
            timeout_s: How long it is tried while Redis is away.
        """
        give_up_at = time.monotonic() + timeout_s
        self._stopping.set()
        self._beat_now.set()
        with self._changed:
            self._changed.notify_all()
        # What is on its way ends first: a commit would meet a lease given back, a renewal list the worker again.
        for thread in (self._committer, self._heartbeat):
            if thread.is_alive():
                thread.join(left_s(give_up_at) / 2)
        with self._changed:
            held, unanswered = list(self._held), list(self._unanswered)
        self.release(held, timeout_s=left_s(give_up_at))
        # Neither is insisted on, or each idle worker would wait for the end of an outage: what a claim without an
        # answer has leased is mostly nothing, and a worker that gives no sign of life is not counted a lease later.
        with contextlib.suppress(RedisUnavailableError):
            self._ledger.until(give_up_at).void(unanswered)
            self._ledger.depart(self._worker_id, self._lanes)

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as exc:  # whatever it was, nothing is renewed or committed now
            with self._changed:
                self._has_failed = True
                self._changed.notify_all()
            self._on_fatal(exc)

    def _beat_on(self) -> None:
        while True:
            self._beat_now.wait(self._outage.pause_s if self._outage.is_on else self._ledger.lease_ms / 3000)
            self._beat_now.clear()
            if self._stopping.is_set():
                return
            self._try_beat()

    def _try_beat(self) -> None:
        try:
            self._void_claims()
            self._renew()
        except ProtocolTooNewError:  # here only: whoever meets it first waits for this heartbeat
            raise
        except RedisUnavailableError as exc:
            self._outage.begin(exc)
        else:
            self._outage.end()

    def _void_claims(self) -> None:
        with self._changed:
            unanswered = list(self._unanswered)
        if unanswered:
            released = self._ledger.void(unanswered)
            with self._changed:
                del self._unanswered[: len(unanswered)]
            log.info("claims without an answer went back", extra=fields("claims_voided", leases=released))

    def _renew(self) -> None:
        with self._changed:
            held = list(self._held)
        is_first = not self._ledger_name
        renewal = self._ledger.renew(self._worker_id, self._about(), self._lanes, held, is_first=is_first)
        if not is_first and renewal.ledger_name != self._ledger_name:
            facts = fields("ledger_replaced", lost=len(renewal.lost))
            log.warning("Redis was emptied or replaced; its jobs are gone, new ones are served", extra=facts)
        self._ledger_name = renewal.ledger_name
        with self._changed:
            # What was committed meanwhile is not lost, and what the committer has in hand it will be told itself.
            lost = renewal.lost & self._held - {finished.lease for finished in self._finished}
            self._held -= lost
        for job_id, chunks in Counter(lease.job_id for lease in lost).items():
            facts = fields("lease_lost", job_id=job_id, chunks=chunks)
            log.warning("leases were lost; their scores will be refused", extra=facts)

    def _write(self) -> None:
        """Commit what is finished until the worker stops, which then gives back what is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished or self._stopping.is_set())
                batch = list(islice(self._finished, COMMITS_AT_ONCE))
            outcomes = self._commit([finished.made() for finished in batch])
            if not outcomes:
                return
            for at in [at for at, outcome in enumerate(outcomes) if outcome.startswith("refused")]:
                again = self._commit([batch[at].fail()])
                if not again:
                    return
                facts = fields("commit_refused", chunk=batch[at].lease.chunk, why=outcomes[at], then=again[0])
                log.error("results did not fit their chunk; its rows fail", extra=facts)
                outcomes[at] = again[0]
            with self._changed:
                for finished in batch:
                    self._finished.popleft()
                    self._held.discard(finished.lease)
                self._changed.notify_all()
            _log_rejected(batch, outcomes)

    def _commit(self, commits: list[Commit]) -> list[str]:
        """Commit until Redis answers; nothing when there is nothing, or the worker is stopped first."""
        while commits and not self._stopping.is_set():
            if not self._outage.is_on:
                try:
                    return self._ledger.commit(commits)
                except RedisUnavailableError as exc:
                    self._note_outage(exc)
            self._stopping.wait(FIRST_PAUSE_S)
        return []

    def _note_outage(self, error: RedisUnavailableError) -> None:
        """Stop claims and commits until the next heartbeat gets through."""
        self._outage.begin(error)
        self._beat_now.set()


def _log_rejected(batch: list[Finished], outcomes: list[str]) -> None:
    """Log which scores the ledger refused, a line for each job: a cancelled one may have hundreds of chunks waiting."""
    answers = zip(batch, outcomes, strict=True)
    rejected = Counter((one.lease.job_id, why) for one, why in answers if why not in ("done", "already"))
    for (job_id, why), chunks in rejected.items():
        level = logging.INFO if why == "closed" else logging.WARNING
        log.log(level, "scores were refused", extra=fields("scores_refused", job_id=job_id, chunks=chunks, why=why))


def left_s(give_up_at: float) -> float:
    """Seconds until a time of the monotonic clock, 0 when it is over."""
    return max(0.0, give_up_at - time.monotonic())
