"""Which checkpoint versions this worker has ready, and which one new jobs get."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from scorequeue.errors import RedisUnavailableError, VersionNotFoundError
from scorequeue.logs import fields
from worker.loading import LoadedModel, load_model, make_fake_model

__all__ = ["LoadedModel", "ModelShelf", "load_model", "make_fake_model"]

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Seconds between two looks at ``current``."""

RETRY_S = 30.0
"""Seconds until a version that failed is tried again: a shared folder may have been away for a moment."""

REPORTED_S = 2 * RETRY_S
"""Seconds for which a failure is reported: until the version has been tried again, and a while more."""

IDLE_S = 30.0
"""Seconds after its last chunk was taken in hand that a version without work goes: a job may still be uploading."""

LOST_LOADING = "workers were lost while they loaded it"

MOST_VERSIONS = 2
"""Versions loaded at once: the one for new jobs, and one that older jobs are pinned to."""


class ModelShelf:
    """The versions that are ready, and the one that new jobs get.

    A version is *absent*, *loading* (in the follower's thread, beside those that are ready), *ready*, or *failed*: it
    is then tried again after ``RETRY_S`` if it is still ``current`` or asked for, and forgotten after ``REPORTED_S`` if
    it is not. At most ``MOST_VERSIONS`` are ready, and what the scorer still holds of one that went lives until it is
    scored. An older version goes when its last job is done. One that jobs ask for takes the place of the one that was
    used least recently, whether that has jobs or not, but never of the one for new jobs; it has passed ``check`` then.

    New jobs get another version only when the registry's ``current`` names it and it is ready; when it fails, or when
    ``current`` cannot be read, the old one stays, and that is logged once. Requests are served whatever ``current`` is.
    While an older version has jobs, a new ``current`` waits for its place: of
    twenty promotes during one long job, the worker takes the first and the last.

    Args:
        load: Makes a version ready; ``load_model`` with its options bound.
        read_current: What ``current`` names now, or None; ``Registry.current``.
        check: Raises if a version is not there or damaged, and takes no room on the device; ``Registry.verify``. Asked
            before another version makes room. The default leaves everything to ``load``.
        has_work: Whether chunks wait of jobs that are pinned to a version; ``Ledger.has_work``.
        poll_s: Seconds between two looks at ``current``.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        load: Callable[[str], LoadedModel],
        read_current: Callable[[], str | None],
        *,
        check: Callable[[str], object] = lambda _: None,
        has_work: Callable[[str], bool] = lambda _: True,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._read_current = read_current
        self._check = check
        self._has_work = has_work
        self._used_at: dict[str, float] = {}
        self._is_waiting = False
        self._poll_s = poll_s
        self._clock = clock
        self._lock = threading.Lock()
        self._ready: dict[str, LoadedModel] = {}  # least recently used first
        self._current: str | None = None
        self._requested: str | None = None
        self._is_told = False
        self._failed: dict[str, tuple[str, float]] = {}  # why, and when
        self._trying: str | None = None
        self._followed: str | None = None
        self._registry_error = ""
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def load_first(self, version: str | None = None) -> LoadedModel:
        """Make the first version ready, in the caller's thread.

        Args:
            version: Its name; None stands for ``current``.

        Raises:
            VersionNotFoundError: Nothing is current, or there is no such version.
            ScorequeueError: Whatever keeps it from becoming ready, see ``load_model``.
        """
        self._followed = self._read_current()
        version = version or self._followed
        if version is None:
            raise VersionNotFoundError(
                "the registry has no current version; run `training fit` (`training rollback` if it had one), or name "
                "--registry"
            )
        model = self._load(version)
        with self._lock:
            self._ready[version] = model
            self._current = version
        return model

    @property
    def current_version(self) -> str:
        """Name of the version that new jobs get.

        Raises:
            VersionNotFoundError: ``load_first`` has not succeeded yet.
        """
        with self._lock:
            if self._current is None:
                raise VersionNotFoundError("no version is ready yet")
            return self._current

    def ready_versions(self) -> list[str]:
        """Names of the versions that may be claimed for, the current one first."""
        with self._lock:
            return sorted(self._ready, key=lambda version: version != self._current)

    def refusals(self) -> dict[str, str]:
        """Versions not to wait for, and why: those that failed, and the one that is asked for, until it is ready.

        The ledger must hear of a load before it begins: a version that ends every worker that loads it would never be
        given up otherwise.
        """
        with self._lock:
            self._forget_failures()
            loading = [version for version in (self._requested, self._trying) if version is not None]
            return dict.fromkeys(loading, LOST_LOADING) | {version: why for version, (why, _) in self._failed.items()}

    def told(self, versions: Collection[str]) -> None:
        """Say that the ledger has heard of these ``refusals``: the one that is asked for may be loaded."""
        with self._lock:
            if self._requested is None or self._requested not in versions:
                return
            self._is_told = True
        self._wake.set()

    def failed_versions(self) -> dict[str, str]:
        """Versions that could not be made ready lately or are being tried again just now, and why they could not."""
        with self._lock:
            self._forget_failures()
            return {version: why for version, (why, _) in self._failed.items()}

    @property
    def registry_error(self) -> str:
        """Why ``current`` could not be read the last time; empty when it could."""
        return self._registry_error

    def get(self, version: str) -> LoadedModel:
        """Return a ready version, and note that it is in use.

        Raises:
            VersionNotFoundError: It is not ready (any more).
        """
        with self._lock:
            model = self._ready.pop(version, None)
            if model is None:
                raise VersionNotFoundError(f"version {version} is not loaded; loaded are {sorted(self._ready)}")
            self._ready[version] = model
            self._used_at[version] = self._clock()
            return model

    def request(self, version: str) -> None:
        """Ask the follower for a version that jobs are pinned to, in place of another one.

        It is loaded as soon as the ledger has heard of it, see ``told``.
        """
        with self._lock:
            if version in self._ready or version in (self._requested, self._trying) or not self._may_try(version):
                return
            self._requested, self._is_told = version, False

    def follow(self) -> None:
        """Start the thread that follows ``current`` and fulfils requests."""
        self._thread = threading.Thread(target=self._follow, name="model-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following: no other version is taken up, and a load that is under way comes to nothing."""
        self._is_stopping = True
        self._wake.set()

    @property
    def is_following(self) -> bool:
        """Whether the thread lives: after ``stop`` only while it is in a load, which nothing interrupts."""
        return self._thread is not None and self._thread.is_alive()

    def _follow(self) -> None:
        failed = ""
        while not self._is_stopping:
            try:
                self.look()
                failed = ""
            except Exception as error:  # the loop's edge: what fails now may go well the next time
                if str(error) != failed:
                    log.warning("versions cannot be looked after", extra=fields("follower_failed", error=str(error)))
                failed = str(error)
            self._wake.wait(self._poll_s)
            self._wake.clear()

    def look(self) -> None:
        """Look once: let go of what is done, make a new ``current`` ready and ours, then load a requested version.

        Raises:
            ScorequeueError: The ledger cannot be read.
        """
        self._drop_done()
        self._take_up_current()
        self._fulfil_request()

    def _take_up_current(self) -> None:
        try:
            current = self._read_current()
        except Exception as error:  # whatever it is, jobs that are pinned to a version must not wait for it
            self._note_registry(str(error) or type(error).__name__)
            return
        self._note_registry("")
        with self._lock:
            is_new = current is not None and current != self._followed and self._may_try(current)
        if is_new and current is not None and self._has_place(current) and self._make_ready(current):
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

    def _fulfil_request(self) -> None:
        with self._lock:
            requested = self._requested if self._is_told else None
            if requested is not None:
                self._requested = None
                is_wanted = self._may_try(requested)
                self._trying = requested if is_wanted else None  # the ledger goes on hearing of it
        if requested is not None and is_wanted:
            self._make_ready(requested)

    def _drop_done(self) -> None:
        """Let go of versions whose last job is done."""
        with self._lock:
            older = [name for name in self._ready if name != self._current]
        for version in older:
            is_idle = self._clock() - self._used_at.get(version, float("-inf")) >= IDLE_S
            try:
                is_done = is_idle and not self._has_work(version)
            except RedisUnavailableError:
                return  # it can be asked again
            if is_done:
                with self._lock:
                    self._ready.pop(version, None)
                log.info("version is done", extra=fields("version_dropped", version=version))

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

    def _make_ready(self, version: str) -> bool:
        with self._lock:
            if version in self._ready:
                return True
            self._trying = version
            is_full = len(self._ready) >= MOST_VERSIONS
        try:
            if is_full:
                self._check(version)  # first, so that a name that never was costs no version that is in use
                self._make_room()
            model = self._load(version)
        except Exception as error:
            if not self._is_stopping:
                self._note_failure(version, error)
            return False
        if self._is_stopping:
            return False
        with self._lock:
            self._trying = None
            self._failed.pop(version, None)
            self._ready[version] = model
        return True

    def _make_room(self) -> None:
        """Let go of a version before the next one is loaded, so that there are never three on the device."""
        with self._lock:
            spare = next(name for name in self._ready if name != self._current)
            del self._ready[spare]
        log.info("version makes room", extra=fields("version_dropped", version=spare))

    def _note_failure(self, version: str, error: Exception) -> None:
        with self._lock:
            is_new = version not in self._failed
            self._trying = None
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
        self._failed = {
            version: (why, at) for version, (why, at) in self._failed.items() if at > oldest or version == self._trying
        }
