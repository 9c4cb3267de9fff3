"""Which checkpoint versions have a device process, and which one new jobs get."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from scorequeue.errors import RedisUnavailableError, StoppingError, VersionNotFoundError
from scorequeue.logs import fields
from worker.device.messages import Loaded
from worker.scorer import Scorer
from worker.stats import ScorerStats

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Seconds between two looks at ``current``."""

RETRY_S = 30.0
"""Seconds until a version that failed is tried again: a shared folder may have been away for a moment."""

REPORTED_S = 2 * RETRY_S
"""Seconds for which a failure is reported: until the version has been tried again, and a while more."""

IDLE_S = 30.0
"""Seconds after its last chunk was taken in hand that a version without work goes: a job may still be uploading."""

MOST_VERSIONS = 2
"""Versions loaded at once: the one for new jobs, and one that older jobs are pinned to."""


class Versions:
    """The versions that are ready, each with its scorer and device process.

    A version is *absent*, *loading* (in the follower's thread, beside those that are ready), *ready*, or *failed*: it
    is then tried again after ``RETRY_S`` if it is still ``current`` or asked for, and forgotten after ``REPORTED_S`` if
    it is not. At most ``MOST_VERSIONS`` are ready. An older version goes when its last job is done. One that jobs ask
    for takes the place of the one that was used least recently, once that has scored what it holds, but never of the
    one for new jobs.

    New jobs get another version only when the registry's ``current`` names it and it is ready; when it fails, or when
    ``current`` cannot be read, the old one stays, and that is logged once. While an older version has jobs, a new
    ``current`` waits for its place: of twenty promotes during one long job, the worker takes the first and the last.

    Args:
        make: Makes the scorer of a version, which ``start`` loads. Its second argument is the token budget of the
            version before, None for the first one.
        read_current: What ``current`` names now, or None; ``Registry.current``.
        check: Raises if a version is not there or damaged; ``Registry.verify``. Asked before another version makes
            room.
        has_work: Whether chunks wait of jobs that are pinned to a version; ``Ledger.has_work``.
        release: Gives back chunks, by their keys, that a version had not scored when it went.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        make: Callable[[str, int | None], Scorer],
        read_current: Callable[[], str | None],
        *,
        check: Callable[[str], object],
        has_work: Callable[[str], bool],
        release: Callable[[list[Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._read_current = read_current
        self._check = check
        self._has_work = has_work
        self._release = release
        self._clock = clock
        self._lock = threading.Lock()
        self._ready: dict[str, Scorer] = {}  # least recently used first
        self._used_at: dict[str, float] = {}
        self._loading: Scorer | None = None
        self._leaving: str | None = None
        self._current: str | None = None
        self._followed: str | None = None
        self._requested: str | None = None
        self._failed: dict[str, tuple[str, float]] = {}  # why, and when
        self._registry_error = ""
        self._is_waiting = False
        self._done = ScorerStats()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="versions", daemon=True)

    def load_first(self) -> Loaded:
        """Make ``current`` ready, in the caller's thread.

        Raises:
            VersionNotFoundError: Nothing is current, or there is no such version.
            ScorequeueError: Whatever keeps it from becoming ready, see ``load_model``.
        """
        self._followed = self._read_current()
        if self._followed is None:
            raise VersionNotFoundError(
                "the registry has no current version; run `training fit` (`training rollback` if it had one), or name "
                "--registry"
            )
        loaded = self._load(self._followed)
        self._current = self._followed
        return loaded

    @property
    def current(self) -> Scorer:
        """The scorer of the version that new jobs get.

        Raises:
            VersionNotFoundError: ``load_first`` has not succeeded yet.
        """
        with self._lock:
            if self._current is None:
                raise VersionNotFoundError("no version is ready yet")
            return self._ready[self._current]

    def ready_versions(self) -> list[str]:
        """Names of the versions that may be claimed for, the current one first."""
        with self._lock:
            claimed = [version for version in self._ready if version != self._leaving]
            return sorted(claimed, key=lambda version: version != self._current)

    def failed_versions(self) -> dict[str, str]:
        """Versions that could not be made ready lately, and why."""
        with self._lock:
            self._forget_failures()
            return {version: why for version, (why, _) in self._failed.items()}

    @property
    def registry_error(self) -> str:
        """Why ``current`` could not be read the last time; empty when it could."""
        return self._registry_error

    def stats(self) -> ScorerStats:
        """What all versions together have done since the worker's start."""
        total = ScorerStats()
        with self._lock:
            for stats in (self._done, *(scorer.stats for scorer in self._ready.values())):
                total.add(stats)
        return total

    def get(self, version: str) -> Scorer:
        """Return the scorer of a ready version, and note that it is in use.

        Raises:
            VersionNotFoundError: It is not ready (any more).
        """
        with self._lock:
            scorer = self._ready.pop(version, None)
            if scorer is None:
                raise VersionNotFoundError(f"version {version} is not loaded; loaded are {sorted(self._ready)}")
            self._ready[version] = scorer
            self._used_at[version] = self._clock()
            return scorer

    def request(self, version: str) -> None:
        """Ask the follower for a version that jobs are pinned to, in place of another one."""
        with self._lock:
            if version not in self._ready and self._may_try(version):
                self._requested = version
                self._wake.set()

    def follow(self) -> None:
        """Start the thread that follows ``current`` and fulfils requests."""
        self._thread.start()

    def stop(self) -> list[Scorer]:
        """Load nothing more; a load that is under way is broken off. Returns the scorers that are to be drained."""
        self._stopping.set()
        self._wake.set()
        with self._lock:
            if self._loading is not None:
                self._loading.close()
            return list(self._ready.values())

    def _follow(self) -> None:
        failed = ""
        while not self._stopping.is_set():
            try:
                self.look()
                failed = ""
            except Exception as error:  # the loop's edge: what fails now may go well the next time
                if str(error) != failed:
                    log.warning("versions cannot be followed", extra=fields("versions_failed", error=str(error)))
                failed = str(error)
            self._wake.wait(POLL_S)
            self._wake.clear()

    def look(self) -> None:
        """Look once: let go of what is done, make a new ``current`` ready and ours, then load a requested version.

        Raises:
            ScorequeueError: The ledger cannot be read.
        """
        self._drop_done()
        self._take_up_current()
        with self._lock:
            requested, self._requested = self._requested, None
        if requested is not None:
            self._try(requested)

    def _take_up_current(self) -> None:
        try:
            current = self._read_current()
        except Exception as error:  # whatever it is, jobs that are pinned to a version must not wait for it
            self._note_registry(str(error) or type(error).__name__)
            return
        self._note_registry("")
        with self._lock:
            is_new = current is not None and current != self._followed and self._may_try(current)
        if is_new and current is not None and self._has_place(current) and self._try(current):
            with self._lock:
                self._current = self._followed = current
            log.info("new jobs get another version", extra=fields("version_swapped", version=current))

    def _note_registry(self, error: str) -> None:
        """Keep why ``current`` cannot be read, and log it when it is another reason than before."""
        is_new, self._registry_error = error != self._registry_error, error
        if is_new and error:
            facts = fields("registry_unreadable", error=error)
            log.warning("registry cannot be read; new jobs get the version that they got before", extra=facts)
        elif is_new:
            log.info("registry can be read again", extra=fields("registry_readable"))

    def _drop_done(self) -> None:
        """Let go of versions whose last job is done."""
        with self._lock:
            older = [name for name in self._ready if name != self._current]
        for version in older:
            is_idle = self._clock() - self._used_at.get(version, float("-inf")) >= IDLE_S
            try:
                if is_idle and self._ready[version].is_idle and not self._has_work(version):
                    self._drop(version)
            except RedisUnavailableError:
                return  # it can be asked again

    def _drop(self, version: str) -> None:
        with self._lock:
            scorer = self._ready.pop(version)
        if left := scorer.drain(timeout_s=0.0):  # a chunk that was being tokenised meanwhile
            self._release(left)
        self._done.add(scorer.stats)
        log.info("version makes room", extra=fields("version_dropped", version=version))

    def _has_place(self, current: str) -> bool:
        """Whether a new current version may be loaded; if not, the jobs of an older one are still running."""
        with self._lock:
            has_place = current in self._ready or len(self._ready) < MOST_VERSIONS
            older = [name for name in self._ready if name != self._current]
        if not has_place and not self._is_waiting:
            facts = fields("version_waits", version=current, behind=older)
            log.warning("a new version waits until the jobs of an older one are done", extra=facts)
        self._is_waiting = not has_place
        return has_place

    def _may_try(self, version: str) -> bool:
        return version not in self._failed or self._clock() - self._failed[version][1] >= RETRY_S

    def _try(self, version: str) -> bool:
        """Make a version ready, in place of an older one if need be; False when that fails or must wait."""
        try:
            if version not in self._ready and len(self._ready) >= MOST_VERSIONS:
                self._check(version)  # first, so that a name that never was costs no version that is in use
                self._make_room()
            self._load(version)
        except Exception as error:
            if not self._stopping.is_set():
                self._note_failure(version, error)
            return False
        return not self._stopping.is_set()

    def _make_room(self) -> None:
        """Let go of the older version once it has scored what it holds, so that there are never three on the device."""
        with self._lock:
            spare = self._leaving = next(name for name in self._ready if name != self._current)
        try:
            while not self._ready[spare].is_idle:
                if self._stopping.wait(POLL_S / 10):
                    raise StoppingError(f"version {spare} makes no room: the worker was told to stop")
            self._drop(spare)
        finally:
            self._leaving = None

    def _load(self, version: str) -> Loaded:
        with self._lock:
            if version in self._ready:
                return self._ready[version].loaded.result()
            budget = self._ready[self._current].token_budget if self._current else None
        scorer = self._make(version, budget)  # reads the registry, for which no claim and no heartbeat should wait
        with self._lock:
            self._loading = scorer
            if self._stopping.is_set():
                scorer.close()
        try:
            loaded = scorer.start().result()
        finally:
            with self._lock:
                self._loading = None
        with self._lock:
            self._failed.pop(version, None)
            self._ready[version] = scorer
        return loaded

    def _note_failure(self, version: str, error: Exception) -> None:
        with self._lock:
            is_new = version not in self._failed
            self._failed[version] = (str(error), self._clock())
            self._forget_failures()
        if is_new:
            log.error(
                "version cannot be used; the old one stays",
                extra=fields("version_failed", version=version, error=str(error)),
            )

    def _forget_failures(self) -> None:
        """Drop what is no news any more: jobs end by what is reported, and names that never were may be many."""
        oldest = self._clock() - REPORTED_S
        self._failed = {version: (why, at) for version, (why, at) in self._failed.items() if at > oldest}
