"""The watchdog: a device that never answers, leases with which nothing happens."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from worker.stats import ScorerStats
from worker.watchdog import STUCK_AFTER_S, STUCK_FACTOR, Watchdog


@dataclass
class Scene:
    """What the watchdog sees, and what it does about it."""

    now: float = 1_000.0
    stalled: float = 0.0
    stats: ScorerStats = field(default_factory=ScorerStats)
    held: int = 0
    moved_at: float = 1_000.0
    lease_s: float = 15.0
    is_reachable: bool = True
    ended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(
            self,  # type: ignore[arg-type]
            keeper=self,  # type: ignore[arg-type]
            stopping=threading.Event(),
            clock=lambda: self.now,
            end=self.ended.append,
        )

    def stalled_s(self, now: float) -> float:
        return self.stalled

    def look_for(self, seconds: float, *, step_s: float = 5.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step_s
            self.watchdog.look()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    ("longest_s", "stalled_s", "is_stuck"),
    [
        (0.1, STUCK_AFTER_S - 1, False),
        (0.1, STUCK_AFTER_S, True),
        (30.0, STUCK_AFTER_S, False),
        (30.0, 30 * STUCK_FACTOR, True),
    ],
)
def test_device_that_does_not_answer_ends_the_worker(
    scene: Scene, longest_s: float, stalled_s: float, is_stuck: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.stats = ScorerStats(longest_batch_s=longest_s)
    scene.stalled = stalled_s

    scene.watchdog.look()

    assert scene.ended == ([1] if is_stuck else [])
    assert ("most recent call first" in capfd.readouterr().err) is is_stuck, "with all stacks, for whoever looks why"


def test_leases_with_which_nothing_happens_end_the_worker(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    """A tokenizer that hangs never gets to the device; heartbeats alone would keep the leases for ever."""
    scene.held = 3

    scene.look_for(STUCK_AFTER_S - 5)
    assert scene.ended == []
    scene.look_for(5)

    assert scene.ended == [1]
    assert "most recent call first" in capfd.readouterr().err


def test_worker_that_holds_nothing_may_be_idle_for_ever(scene: Scene) -> None:
    scene.look_for(10 * STUCK_AFTER_S)
    scene.held = 1
    scene.look_for(STUCK_AFTER_S - 5)

    assert scene.ended == []


@pytest.mark.parametrize("sign", ["chunk", "batch", "busy", "away"])
def test_worker_that_moves_is_not_stuck(scene: Scene, sign: str) -> None:
    """Its leases may wait in a queue behind other batches, or for Redis, as long as it takes."""
    scene.held = 3
    for _ in range(5):
        scene.look_for(STUCK_AFTER_S - 10)
        match sign:
            case "chunk":
                scene.moved_at = scene.now
            case "batch":
                scene.stats = ScorerStats(last_batch_at=scene.now)
            case "busy":
                scene.stalled = 1.0
            case "away":
                scene.is_reachable = False
        scene.look_for(5)
        scene.stalled, scene.is_reachable = 0.0, True

    assert scene.ended == []


def test_leases_get_ten_times_the_longest_batch_and_a_term(scene: Scene) -> None:
    """A lost lease is held until the next sign of life says so."""
    scene.held, scene.lease_s = 1, 3 * STUCK_AFTER_S
    scene.look_for(3 * STUCK_AFTER_S - 5)
    assert scene.ended == []

    scene.stats = ScorerStats(longest_batch_s=30.0)
    scene.look_for(30 * STUCK_FACTOR - 3 * STUCK_AFTER_S)
    assert scene.ended == []
    scene.look_for(5)
    assert scene.ended == [1]
