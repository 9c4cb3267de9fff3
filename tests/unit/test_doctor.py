"""What the doctor makes of the facts. Each case is a healthy system with one thing wrong."""

from __future__ import annotations

from typing import Any

import pytest

from producer.diagnosis import Facts, RegistryFacts, State
from producer.doctor import diagnose
from scorequeue.errors import ExitCode
from scorequeue.jobs import Lane
from scorequeue.overview import LaneView, Overview, ServerView, WorkerView

GIB = 2**30

SERVER = ServerView("7.2.4", "master", GIB, 4 * GIB, "noeviction", True, True, True, 0, None)
WORKER = WorkerView("w1", "host:1", "1.0", "v1", {}, 10, 1.0)
BUSY = LaneView(Lane.BULK, 1_000, 800, 12.0, ("w1",))
OVERVIEW = Overview(
    at_s=1e9,
    clock_ahead_s=0.01,
    round_trip_s=0.001,
    protocol=3,
    lanes=(LaneView(Lane.EXPRESS, 0, 0, 0.0, ("w1",)), BUSY),
    leases=3,
    overdue_leases=0,
    leases_expired=0,
    workers=(WORKER,),
    server=SERVER,
)
REGISTRY = RegistryFacts("/registry", True, "v1", 6)
HEALTHY = Facts(
    address="redis://host/0",
    error="",
    overview=OVERVIEW,
    settings={"appendfsync": "everysec", "lazyfree-lazy-expire": "yes"},
    overdue=0,
    taken_back=0,
    write_error="",
    registry=REGISTRY,
)


def with_server(**changes: Any) -> Facts:
    return HEALTHY._replace(overview=OVERVIEW._replace(server=SERVER._replace(**changes)))


def with_overview(**changes: Any) -> Facts:
    return HEALTHY._replace(overview=OVERVIEW._replace(**changes))


def with_workers(*workers: WorkerView) -> Facts:
    return with_overview(workers=workers)


def test_healthy_system_has_nothing_to_do():
    found = diagnose(HEALTHY)

    assert {check.state for check in found.checks} == {State.OK}
    assert [check.next for check in found.checks if check.next] == []
    assert found.exit_code is ExitCode.DONE


@pytest.mark.parametrize(
    ("facts", "name", "state", "said"),
    [
        (HEALTHY._replace(write_error="it is a replica; name its master"), "writes", "fail", "name its master"),
        (HEALTHY._replace(write_error=None), "writes", "unknown", "this user may not write"),
        (with_server(replicas=1, good_replicas=0), "min-replicas-to-write", "fail", "0 of 1 replicas keep up"),
        (with_server(role="slave"), "role", "fail", "master"),
        (with_server(has_append_only_file=False), "appendonly", "fail", "CONFIG SET appendonly yes"),
        (with_server(has_append_only_file=None), "appendonly", "unknown", "does not say"),
        (with_server(is_append_ok=False), "appendonly", "fail", "disk"),
        (with_server(is_snapshot_ok=False), "snapshot", "warn", "CONFIG SET save"),
        (with_server(maxmemory_policy="allkeys-lru"), "maxmemory-policy", "fail", "noeviction"),
        (with_server(maxmemory_policy=None), "maxmemory-policy", "unknown", "noeviction"),
        (with_server(maxmemory=0), "memory", "warn", "maxmemory 2gb"),
        (with_server(used_memory=int(3.3 * GIB)), "memory", "warn", "uploads wait above 80%"),
        (with_server(used_memory=4 * GIB), "memory", "fail", "new rows are refused"),
        (with_server(replicas=1), "min-replicas-to-write", "warn", "min-replicas-to-write 1"),
        (with_server(replicas=2, good_replicas=1), "min-replicas-to-write", "ok", "1 of 2"),
        (HEALTHY._replace(settings={"appendfsync": "no"}), "appendfsync", "warn", "everysec"),
        (HEALTHY._replace(settings={}), "appendfsync", "unknown", "CONFIG GET appendfsync"),
        (HEALTHY._replace(settings={"lazyfree-lazy-expire": "no"}), "lazyfree-lazy-expire", "warn", "CONFIG SET"),
        (with_overview(protocol=None), "protocol", "ok", "nothing was written"),
        (with_overview(clock_ahead_s=7.5), "clock", "warn", "7.5 s ahead of"),
        (with_overview(clock_ahead_s=-7.5), "clock", "warn", "7.5 s behind"),
        (with_overview(clock_ahead_s=7.5, round_trip_s=6.0), "clock", "ok", "7.5 s"),
        (with_overview(lanes=(BUSY._replace(live_workers=()),)), "lane bulk", "warn", "worker start"),
        (HEALTHY._replace(overdue=4, taken_back=4), "leases", "warn", "4 of them went back"),
        (HEALTHY._replace(overdue=4, taken_back=0), "leases", "warn", "a full term first"),
        (HEALTHY._replace(overdue=4, taken_back=None), "leases", "warn", "cannot be taken back from here"),
        (with_workers(), "workers", "warn", "worker start"),
        (with_workers(WORKER, WORKER._replace(program_version="2.0")), "worker programs", "warn", "1.0 (1), 2.0 (1)"),
        (with_workers(WORKER, WORKER._replace(model_version="v2")), "worker versions", "warn", "v1 (1), v2 (1)"),
        (with_workers(WORKER._replace(model_version="v2")), "worker versions", "warn", "v1 is current"),
        (with_workers(WORKER._replace(failed_versions={"v9": "no memory"})), "failed version", "warn", "no memory"),
        (with_workers(WORKER, WORKER._replace(registry_error="torn")), "worker registry", "warn", "1 of 2 workers"),
        (HEALTHY._replace(registry=RegistryFacts("/none", False)), "registry", "unknown", "--registry"),
        (HEALTHY._replace(registry=RegistryFacts("/empty", True)), "registry", "fail", "training fit"),
        (HEALTHY._replace(registry=REGISTRY._replace(error="torn")), "registry", "fail", "torn"),
        (HEALTHY._replace(registry=REGISTRY._replace(is_hashed=True)), "registry", "ok", "have their checksums"),
    ],
)
def test_what_is_wrong_is_named_with_the_next_step(facts: Facts, name: str, state: str, said: str):
    checks = {check.name: check for check in diagnose(facts).checks}

    assert checks[name].state == state
    assert said in f"{checks[name].found} -> {checks[name].next}"
    assert bool(checks[name].next) is (state != "ok")


def test_lane_without_rows_needs_no_worker():
    """Scaled to zero is a state, not a fault: only the line of the workers says that none is live."""
    idle = LaneView(Lane.BULK, 0, 0, 0.0, ())

    found = diagnose(with_overview(lanes=(idle,), workers=()))

    assert {check.name: check.state for check in found.checks}["lane bulk"] is State.OK
    assert found.exit_code is ExitCode.DONE


def test_redis_that_is_away_is_code_3_and_the_registry_is_looked_at_all_the_same():
    found = diagnose(HEALTHY._replace(error="expected Redis at host, got: nobody; start it", overview=None))

    assert [(check.name, check.state) for check in found.checks] == [("redis", "fail"), ("registry", "ok")]
    assert found.exit_code is ExitCode.REDIS


def test_first_layer_that_fails_gives_the_exit_code():
    broken = REGISTRY._replace(error="torn")

    assert diagnose(HEALTHY._replace(registry=broken)).exit_code is ExitCode.NO_SUCH_VERSION
    assert diagnose(with_server(maxmemory_policy="allkeys-lru")._replace(registry=broken)).exit_code is ExitCode.REDIS
