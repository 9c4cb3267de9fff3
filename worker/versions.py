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
    it is not. At most ``MOST_VERSIONS`` are ready: the one for new jobs, and an older one. That goes when its last job
    is done, or makes room for one that jobs ask for, once it has scored what it holds.

    New jobs get another version only when the registry's ``current`` names it and it is ready; when it fails, or when
    ``current`` cannot be read, the old one stays, and that is logged once. While an older version has jobs, a new
    ``current`` waits for its place: of twenty promotes during one long job, the worker takes the first and the last.

    Args:
        make: Makes the scorer of a version, which ``start`` loads; given the token budget of the version before it.
        read_current: What ``current`` names now, or None.
        check: Raises if a version is not there or damaged; asked before another one makes room.
        has_work: Whether chunks wait of jobs that are pinned to a version.
        release: Gives back chunks, by their keys, that a version had not scored when it went.
        clock: Seconds, monotonic.

    Attributes:
        registry_error: Why ``current`` could not be read the last time; empty when it could.
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
        self.registry_error = ""
        self._make = make
        self._read_current = read_current
        self._check = check
        self._has_work = has_work
        self._release = release
        self._clock = clock
        self._lock = threading.Lock()
        self._ready: dict[str, Scorer] = {}  # changed by the follower alone
        self._used_at: dict[str, float] = {}
        self._loading: Scorer | None = None
        self._leaving: str | None = None
        self._current = ""
        self._requested: str | None = None
        self._failed: dict[str, tuple[str, float]] = {}  # why, and when
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
        first = self._read_current()
        if first is None:
            raise VersionNotFoundError(
                "the registry has no current version; run `training fit` (`training rollback` if it had one), or name "
                "--registry"
            )
        loaded = self._load(first)
        self._current = first
        return loaded

    @property
    def current(self) -> Scorer:
        """The scorer of the version that new jobs get; there is one from ``load_first`` on."""
        with self._lock:
            return self._ready[self._current]

    def ready_versions(self) -> list[str]:
        """Names of the versions that may be claimed for, the current one first."""
        with self._lock:
            claimed = [version for version in self._ready if version != self._leaving]
            return sorted(claimed, key=lambda version: version != self._current)

    def failed_versions(self) -> dict[str, str]:
        """Versions that could not be made ready lately, and why."""
        oldest = self._clock() - REPORTED_S
        with self._lock:  # what is forgotten is no news any more, and names that never were may be many
            self._failed = {version: (why, at) for version, (why, at) in self._failed.items() if at > oldest}
            return {version: why for version, (why, _) in self._failed.items()}

    @property
    def loading_version(self) -> str | None:
        """The version that is being loaded just now."""
        scorer = self._loading
        return scorer.version if scorer is not None and not scorer.loaded.done() else None

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
            if version not in self._ready:
                raise VersionNotFoundError(f"version {version} is not loaded; loaded are {sorted(self._ready)}")
            self._used_at[version] = self._clock()
            return self._ready[version]

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

    def _drop_done(self) -> None:
        """Let go of versions whose last job is done."""
        for version in self._older():
            is_idle = self._clock() - self._used_at.get(version, float("-inf")) >= IDLE_S
            try:
                if is_idle and self._ready[version].is_idle and not self._has_work(version):
                    self._drop(version)
            except RedisUnavailableError:
                return  # it can be asked again

    def _older(self) -> list[str]:
        return [version for version in self._ready if version != self._current]

    def _drop(self, version: str) -> None:
        with self._lock:
            scorer = self._ready.pop(version)
        if left := scorer.drain(timeout_s=0.0):  # a chunk that was being tokenised meanwhile
            self._release(left)
        self._done.add(scorer.stats)
        log.info("version makes room", extra=fields("version_dropped", version=version))

    def _take_up_current(self) -> None:
        """Make a new ``current`` ready and give it to new jobs, if there is a place for it."""
        try:
            current, error = self._read_current(), ""
        except Exception as caught:  # whatever it is, jobs that are pinned to a version must not wait for it
            current, error = None, str(caught) or type(caught).__name__
        is_news, self.registry_error = error != self.registry_error, error
        if is_news and error:
            facts = fields("registry_unreadable", error=error)
            log.warning("registry cannot be read; new jobs get the version that they got before", extra=facts)
        elif is_news:
            log.info("registry can be read again", extra=fields("registry_readable"))

        if current is None or current == self._current or not self._may_try(current):
            return
        was_waiting = self._is_waiting
        self._is_waiting = current not in self._ready and len(self._ready) >= MOST_VERSIONS
        if self._is_waiting and not was_waiting:
            facts = fields("version_waits", version=current, behind=self._older())
            log.warning("a new version waits until the jobs of an older one are done", extra=facts)
        if not self._is_waiting and self._try(current):
            with self._lock:
                self._current = current
            log.info("new jobs get another version", extra=fields("version_swapped", version=current))

    def _may_try(self, version: str) -> bool:
        return version not in self._failed or self._clock() - self._failed[version][1] >= RETRY_S

    def _try(self, version: str) -> bool:
        """Make a version ready, in place of an older one if need be; False when that fails or the worker stops."""
        try:
            if version not in self._ready and len(self._ready) >= MOST_VERSIONS:
                self._check(version)  # first, so that a name that never was costs no version that is in use
                self._make_room()
            self._load(version)
        except Exception as error:
            if self._stopping.is_set():
                return False
            with self._lock:
                is_news = version not in self._failed
                self._failed[version] = (str(error), self._clock())
            if is_news:
                facts = fields("version_failed", version=version, error=str(error))
                log.error("version cannot be used; the old one stays", extra=facts)
            return False
        return True

    def _make_room(self) -> None:
        """Let go of the older version once it has scored what it holds, so that there are never three on the device."""
        (spare,) = self._older()
        self._leaving = spare
        try:
            while not self._ready[spare].is_idle:
                if self._stopping.wait(POLL_S / 10):
                    raise StoppingError(f"version {spare} makes no room: the worker was told to stop")
            self._drop(spare)
        finally:
            self._leaving = None

    def _load(self, version: str) -> Loaded:
        if version in self._ready:
            return self._ready[version].loaded.result()
        budget = self._ready[self._current].token_budget if self._current else None
        scorer = self._make(version, budget)  # reads the registry, for which no claim and no heartbeat should wait
        with self._lock:
            self._loading = scorer
            if self._stopping.is_set():
                scorer.close()
        loaded = scorer.start().result()
        with self._lock:
            self._loading = None
            self._failed.pop(version, None)
            self._ready[version] = scorer
        return loaded
