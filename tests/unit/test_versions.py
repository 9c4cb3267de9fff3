"""Which versions a worker makes ready, and when: policy alone, over scorers that hold no device process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from scorequeue.errors import (
    RedisUnavailableError,
    ScorequeueError,
    StoppingError,
    VerificationError,
    VersionNotFoundError,
)
from tests.processes import until
from worker import versions
from worker.device.messages import Loaded
from worker.stats import ScorerStats
from worker.versions import IDLE_S, RETRY_S, Versions


class FakeScorer:
    """What ``Versions`` asks of a scorer. A version that starts with ``bad`` fails, one with ``slow`` never ends."""

    def __init__(self, version: str, budget: int | None) -> None:
        self.version = version
        self.budget = budget
        self.token_budget = 1_024
        self.stats = ScorerStats(rows=1)
        self.held: list[str] = []
        self.was_drained = False
        self.loaded: Future[Loaded] = Future()

    @property
    def is_idle(self) -> bool:
        return not self.held

    def start(self) -> Future[Loaded]:
        if self.loaded.done():
            return self.loaded
        if self.version.startswith("bad"):
            self.loaded.set_exception(VerificationError(f"{self.version} is broken"))
        elif not self.version.startswith("slow"):
            self.loaded.set_result(Loaded("fake", "none", "float32", 1, 1_024, 0.1, 0.1, is_fast=False))
        return self.loaded

    def close(self) -> None:
        if not self.loaded.done():
            self.loaded.set_exception(StoppingError("told to stop"))

    def drain(self, timeout_s: float) -> list[str]:
        self.was_drained = True
        left, self.held = self.held, []
        return left


class Site:
    """Versions with a registry, a ledger and a clock that the test sets."""

    def __init__(self) -> None:
        self.current: str | Exception | None = "v1"
        self.busy: set[str] = set()
        self.missing: set[str] = set()
        self.ledger_error: ScorequeueError | None = None
        self.now = 0.0
        self.made: list[FakeScorer] = []
        self.released: list[str] = []
        self.on_make: Callable[[str], None] = lambda version: None
        self.versions = Versions(
            self._make,  # type: ignore[arg-type]
            self._read_current,
            check=self._check,
            has_work=self._has_work,
            release=self.released.extend,
            clock=lambda: self.now,
        )

    @property
    def loaded(self) -> list[str]:
        return [scorer.version for scorer in self.made]

    def promote(self, version: str) -> None:
        self.current = version
        self.versions.look()

    def ask(self, version: str) -> None:
        self.versions.request(version)
        self.versions.look()

    def scorer(self, version: str) -> FakeScorer:
        return next(scorer for scorer in self.made if scorer.version == version)

    def _make(self, version: str, budget: int | None) -> FakeScorer:
        self.on_make(version)
        self.made.append(FakeScorer(version, budget))
        return self.made[-1]

    def _read_current(self) -> str | None:
        if isinstance(self.current, Exception):
            raise self.current
        return self.current

    def _check(self, version: str) -> None:
        if version in self.missing:
            raise VersionNotFoundError(f"no {version}")

    def _has_work(self, version: str) -> bool:
        if self.ledger_error is not None:
            raise self.ledger_error
        return version in self.busy


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.versions.load_first()
    yield site
    site.versions.stop()


def state(site: Site) -> tuple[str, list[str], dict[str, str]]:
    return site.versions.current.version, site.versions.ready_versions(), site.versions.failed_versions()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_first_version_is_current() -> None:
    site = Site()

    site.versions.load_first()

    assert state(site) == ("v1", ["v1"], {})


@pytest.mark.parametrize(
    ("current", "error", "words"),
    [(None, VersionNotFoundError, "training fit"), ("bad1", VerificationError, "bad1 is broken")],
)
def test_a_worker_without_a_first_version_says_why(current: str | None, error: type[Exception], words: str) -> None:
    site = Site()
    site.current = current

    with pytest.raises(error, match=words):
        site.versions.load_first()


def test_new_jobs_get_another_version_only_when_it_is_ready(site: Site) -> None:
    """A promote under load must never leave a worker without a version."""
    seen: list[Any] = []
    site.on_make = lambda version: seen.append(state(site))

    site.promote("v2")

    assert seen == [("v1", ["v1"], {})]
    assert state(site) == ("v2", ["v2", "v1"], {})
    assert [scorer.budget for scorer in site.made] == [None, 1_024], "measured beside other work it would be wrong"


def test_a_version_that_fails_leaves_the_old_one_and_is_logged_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for site.now in (0.0, 2.0, RETRY_S):
        site.promote("bad2")
        site.ask("bad2")

    assert state(site) == ("v1", ["v1"], {"bad2": "bad2 is broken"})
    assert messages(caplog) == ["version cannot be used; the old one stays"]
    assert site.loaded == ["v1", "bad2", "bad2"], "tried again after a while"


def test_a_requested_version_takes_the_place_of_the_least_recently_used(site: Site) -> None:
    site.busy = {"old1", "old2"}
    for version in ("old1", "old2"):
        site.ask(version)

    assert state(site)[1] == ["v1", "old2"]
    assert site.scorer("old1").was_drained
    assert not site.scorer("v1").was_drained
    with pytest.raises(VersionNotFoundError, match="old1"):
        site.versions.get("old1")
    assert site.versions.stats().rows == 3, "what a version did before it went counts"


def test_a_version_scores_what_it_holds_before_it_makes_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never three on the device, and nothing more is claimed for the one that goes."""
    monkeypatch.setattr(versions, "POLL_S", 0.01)
    site.ask("old1")
    site.scorer("old1").held = ["chunk"]
    asking = threading.Thread(target=site.ask, args=("old2",))

    asking.start()
    until(lambda: state(site)[1] == ["v1"], what="a version for which nothing is claimed")
    assert site.versions.get("old1") is site.scorer("old1"), "chunks that were claimed before are scored by it"
    assert site.loaded == ["v1", "old1"]
    site.scorer("old1").held = []
    asking.join(10)

    assert state(site)[1] == ["v1", "old2"]


def test_a_version_that_makes_room_is_drained_when_the_worker_stops(site: Site) -> None:
    """What it has on the device is finished and committed like everything else."""
    site.ask("old1")
    site.scorer("old1").held = ["chunk"]
    asking = threading.Thread(target=site.ask, args=("old2",))
    asking.start()
    until(lambda: state(site)[1] == ["v1"], what="a version for which nothing is claimed")

    left = site.versions.stop()
    asking.join(10)

    assert {scorer.version for scorer in left} == {"v1", "old1"}
    assert not site.scorer("old1").was_drained
    assert (site.loaded, site.versions.failed_versions()) == (["v1", "old1"], {})


def test_an_older_version_goes_when_its_last_job_is_done(site: Site) -> None:
    site.busy = {"v1"}
    site.versions.get("v1")
    site.promote("v2")

    site.now = 2 * IDLE_S
    site.versions.look()
    assert state(site)[1] == ["v2", "v1"]

    site.versions.get("v1")
    site.busy.clear()
    site.versions.look()
    assert state(site)[1] == ["v2", "v1"], "its chunks may still be tokenised"

    site.now += IDLE_S
    site.scorer("v1").held = ["chunk"]
    site.versions.look()
    assert state(site)[1] == ["v2", "v1"], "its chunks may still be on the device"

    site.scorer("v1").held = []
    site.versions.look()
    assert state(site)[1] == ["v2"]


def test_what_a_version_had_not_scored_when_it_went_is_released(site: Site) -> None:
    """A chunk may reach it between the last look at it and its end."""
    site.promote("v2")
    late = site.scorer("v1")

    def has_work(version: str) -> bool:
        late.held = ["late chunk"]
        return False

    site.versions._has_work = has_work
    site.now = IDLE_S
    site.versions.look()

    assert (state(site)[1], site.released) == (["v2"], ["late chunk"])


def test_a_ledger_that_is_away_drops_nothing(site: Site) -> None:
    site.ledger_error = RedisUnavailableError("away")

    site.promote("v2")
    site.now = 2 * IDLE_S
    site.promote("v3")

    assert state(site)[1] == ["v2", "v1"]


def test_of_many_promotions_during_one_job_the_first_and_the_last_are_taken(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Two fit on the device. Taking each of them up would throw the running job's version out each time."""
    site.busy = {"v1"}
    for number in range(2, 22):
        site.now += IDLE_S
        site.promote(f"v{number}")
        site.versions.get("v1")
    assert (site.loaded, state(site)[0]) == (["v1", "v2"], "v2")
    assert messages(caplog) == ["a new version waits until the jobs of an older one are done"]

    site.busy.clear()
    site.now += IDLE_S
    site.versions.look()

    assert (site.loaded, state(site)) == (["v1", "v2", "v21"], ("v21", ["v21", "v2"], {}))


def test_a_version_that_is_not_there_costs_no_loaded_one(site: Site) -> None:
    """Whoever names a version that never was must not take one from the jobs that use it."""
    site.missing, site.busy = {"lost"}, {"old1"}
    site.ask("old1")

    site.ask("lost")

    assert state(site) == ("v1", ["v1", "old1"], {"lost": "no lost"})
    assert site.loaded == ["v1", "old1"]


def test_a_failure_is_reported_while_it_is_news(site: Site) -> None:
    """Jobs end after ten minutes of such reports: one that nobody has confirmed since says nothing."""
    site.ask("bad2")

    site.now = 2 * RETRY_S - 1
    assert site.versions.failed_versions() == {"bad2": "bad2 is broken"}
    site.now = 2 * RETRY_S
    assert site.versions.failed_versions() == {}
    assert site.versions._failed == {}, "whoever names many versions that never were must not fill the memory"


def test_a_registry_that_is_away_keeps_no_requested_version_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs that name a healthy version would end as failed after ten minutes, for a reason that is none."""
    site.busy = {"v2"}
    for error in (VerificationError("current holds something else"), OSError("the share is gone")):
        site.current = error
        for _ in range(3):
            site.ask("v2")
        assert site.versions.registry_error == str(error)

    assert state(site) == ("v1", ["v1", "v2"], {})
    assert len(messages(caplog)) == 2, "once for each reason"
    site.promote("v2")
    assert (site.versions.registry_error, state(site)[0]) == ("", "v2")


def test_a_version_that_loads_while_the_worker_stops_comes_to_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that drains must not begin with another version, nor wait for it."""
    promoting = threading.Thread(target=site.promote, args=("slow2",))
    promoting.start()
    until(lambda: "slow2" in site.loaded, what="a version that loads")

    site.versions.stop()
    promoting.join(10)

    assert state(site) == ("v1", ["v1"], {})
    assert messages(caplog) == []


def test_the_follower_goes_on_after_errors_and_hears_requests_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ask("old1")
    site.versions.get("old1")
    site.ledger_error = ScorequeueError("a ledger that makes no sense")
    site.now = IDLE_S
    monkeypatch.setattr(versions, "POLL_S", 0.01)
    with pytest.raises(ScorequeueError, match="no sense"):
        site.versions.look()
    site.versions.follow()
    site.ledger_error = None
    until(lambda: state(site)[1] == ["v1"], what="a follower that goes on")

    monkeypatch.setattr(versions, "POLL_S", 3_600)
    until(lambda: site.versions._wake.is_set() is False, what="a follower that waits")
    site.versions.request("old2")

    until(lambda: "old2" in state(site)[1], what="the requested version")
