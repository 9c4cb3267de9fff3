"""Is everything well? Each layer looked at in turn, and what to do about what is not.

``facts.gather`` asks, the functions here judge: they see facts and nothing else. In order: Redis and its settings, the
queue, the workers, the registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from producer.diagnosis import Check, Diagnosis, Facts, RegistryFacts
from producer.gate import MOST_MEMORY_SHARE
from scorequeue.errors import ExitCode
from scorequeue.overview import LaneView, Overview, ServerView, WorkerView

MOST_CLOCK_DIFFERENCE_S = 5.0
"""Seconds that this host's clock and Redis's may differ before it is worth a word: log lines no longer compare."""


def diagnose(facts: Facts) -> Diagnosis:
    """Judge the facts, layer by layer."""
    return Diagnosis(tuple(_checks(facts)))


def _checks(facts: Facts) -> Iterator[Check]:
    if facts.overview is None:
        found, _, step = facts.error.partition("; ")  # as every error: what was expected, what came; what to do
        yield Check.fail("redis", found, step or "nothing else of the queue can be looked at before that")
    else:
        view = facts.overview
        yield Check.ok("redis", f"{facts.address} answers in {view.round_trip_s * 1000:.1f} ms")
        yield write_check(facts.write_error)
        yield from server_checks(view.server, facts.settings)
        yield protocol_check(view)
        yield clock_check(view)
        for lane in view.lanes:
            yield lane_check(lane)
        yield leases_check(view, overdue=facts.overdue, taken_back=facts.taken_back)
        yield from worker_checks(view.workers, facts.registry.current)
    yield registry_check(facts.registry)


def write_check(error: str | None) -> Check:
    """Judge whether Redis takes writes: one that answers may be a replica, or have no room on its disk.

    Args:
        error: Why it takes none; empty where it does, None where this user may not write.
    """
    if error is None:
        return Check.unknown("writes", "this user may not write", "ask as the user producer")
    found, _, step = error.partition("; ")
    return Check.fail("writes", found, step) if error else Check.ok("writes", "taken")


def server_checks(server: ServerView, settings: Mapping[str, str]) -> Iterator[Check]:
    """Judge the server and how it is set up; docs/redis.md has the reasons."""
    yield Check.ok("version", f"Redis {server.version}")
    if server.role != "master":
        yield Check.fail("role", "a replica, which takes no writes", "name its master with --redis-url")
    yield from _persistence_checks(server, settings)
    yield from _memory_checks(server)
    yield _setting_check(
        "lazyfree-lazy-expire",
        settings,
        good=("yes",),
        advice="without it a large job's end stops the server for a moment: CONFIG SET lazyfree-lazy-expire yes",
    )
    name = "min-replicas-to-write"
    if server.good_replicas is None and server.replicas:
        found = f"0, with {server.replicas} replicas: a failover may lose what a server takes that is cut off"
        yield Check.warn(name, found, "CONFIG SET min-replicas-to-write 1")
    elif server.good_replicas is not None:
        found = f"set; {server.good_replicas} of {server.replicas} replicas keep up"
        step = "start a replica, or CONFIG SET min-replicas-to-write 0"
        yield Check.ok(name, found) if server.good_replicas else Check.fail(name, f"{found}: no writes are taken", step)


def _persistence_checks(server: ServerView, settings: Mapping[str, str]) -> Iterator[Check]:
    name = "appendonly"
    if server.has_append_only_file is None:
        yield Check.unknown(name, "the server does not say", "see that it is yes")
    elif not server.has_append_only_file:
        step = "CONFIG SET appendonly yes, and write it into redis.conf"
        yield Check.fail(name, "no: a restart loses jobs", step)
    elif not server.is_append_ok:
        found = "yes, but the last write to the file failed: Redis takes no writes"
        yield Check.fail(name, found, "make room on its disk, and see its log")
    else:
        yield Check.ok(name, "yes")
    if server.has_append_only_file is not False:
        yield _setting_check(
            "appendfsync",
            settings,
            good=("everysec", "always"),
            advice="a power loss takes more than a second: CONFIG SET appendfsync everysec",
        )
    if not server.is_snapshot_ok:
        found = "the last one failed; Redis may refuse writes until one succeeds"
        yield Check.warn("snapshot", found, 'see its log; with an append-only file none is needed: CONFIG SET save ""')


def _memory_checks(server: ServerView) -> Iterator[Check]:
    name = "maxmemory-policy"
    if server.maxmemory_policy is None:
        yield Check.unknown(name, "the server does not say", "see that it is noeviction")
    elif server.maxmemory_policy != "noeviction":
        found = f"{server.maxmemory_policy}: at maxmemory rows are dropped without a word"
        yield Check.fail(name, found, "CONFIG SET maxmemory-policy noeviction, and write it into redis.conf")
    else:
        yield Check.ok(name, "noeviction")
    used = _mebibytes(server.used_memory)
    if not server.maxmemory:
        found = f"{used} used, maxmemory is 0: no upload waits before the machine's memory is full"
        yield Check.warn("memory", found, "say what the machine can spare: CONFIG SET maxmemory 2gb")
        return
    share = server.used_memory / server.maxmemory
    found = f"{used} of {_mebibytes(server.maxmemory)} used ({share:.0%})"
    step = "wait for workers, delete old jobs (producer list) or raise maxmemory"
    if share >= 1:
        yield Check.fail("memory", f"{found}: new rows are refused", step)
    elif share > MOST_MEMORY_SHARE:
        yield Check.warn("memory", f"{found}: uploads wait above {MOST_MEMORY_SHARE:.0%}", step)
    else:
        yield Check.ok("memory", found)


def _setting_check(name: str, settings: Mapping[str, str], *, good: tuple[str, ...], advice: str) -> Check:
    value = settings.get(name)
    if value is None:
        step = f"ask as an administrator: CONFIG GET {name}; it should be {good[0]}"
        return Check.unknown(name, "this user may not ask, or the server hides it", step)
    return Check.ok(name, value) if value in good else Check.warn(name, value, advice)


def protocol_check(view: Overview) -> Check:
    """Say which layout the namespace's keys have; another one than ours is an error before it comes to this."""
    return Check.ok(
        "protocol", "nothing was written in this namespace yet" if view.protocol is None else str(view.protocol)
    )


def clock_check(view: Overview) -> Check:
    """Judge this host's clock by Redis's, whose time counts for leases, deadlines and expiry."""
    difference_s = view.clock_ahead_s
    # The answer was under way for a part of the round trip, and nobody knows which.
    if abs(difference_s) <= MOST_CLOCK_DIFFERENCE_S + view.round_trip_s / 2:
        return Check.ok("clock", f"Redis's and this host's differ by {abs(difference_s):.1f} s")
    where = "ahead of" if difference_s > 0 else "behind"
    found = f"Redis's is {abs(difference_s):,.1f} s {where} this host's: times in logs do not compare"
    return Check.warn("clock", found, "let NTP set both")


def lane_check(view: LaneView) -> Check:
    """Judge what waits in a lane."""
    name, workers = f"lane {view.lane}", len(view.live_workers)
    found = f"{view.backlog_rows:,} rows in the backlog, {view.waiting_rows:,} of them waiting"
    if view.backlog_rows:
        found += f", the oldest for {view.oldest_pending_s:,.0f} s"
    found += f"; live workers: {workers:,}"
    if view.backlog_rows and not workers:
        return Check.warn(name, found, f"start one: worker start, with {view.lane} among its --lanes")
    return Check.ok(name, found)


def leases_check(view: Overview, *, overdue: int, taken_back: int | None) -> Check:
    """Judge the leases; those that have run out were left by workers that died.

    Args:
        view: How the namespace stands now.
        overdue: Leases that had run out before it was looked after.
        taken_back: How many of them went back to their lanes then; None where that could not be done.
    """
    found = f"{view.leases:,} now, {view.leases_expired:,} expired so far"
    if not overdue:
        return Check.ok("leases", found)
    if taken_back is None:
        step = "they cannot be taken back from here: no rights, or Redis takes no writes; a live worker does it"
        return Check.warn("leases", f"{found}; {overdue:,} have run out", step)
    found += f"; {overdue:,} had run out, {taken_back:,} of them went back to their lanes just now"
    if taken_back < overdue:
        # Redis may have been away, and not the workers; so nobody's looking for half a term is no death.
        step = "the others got a full term first, for nobody had looked for a while; start a worker, it takes them up"
        return Check.warn("leases", found, step)
    return Check.warn("leases", found, "a worker was lost with them: see its log, and worker status")


def worker_checks(workers: tuple[WorkerView, ...], current: str | None) -> Iterator[Check]:
    """Judge the live workers: whether they are there, can load what they should, and agree.

    Args:
        workers: They.
        current: The version that is current in the registry of this host; None where there is none.
    """
    if not workers:
        yield Check.warn("workers", "none is live", "start one: worker start")
        return
    yield Check.ok("workers", f"{len(workers):,} live: {', '.join(worker.place for worker in workers)}")
    programs = _counts([worker.program_version for worker in workers])
    versions = _counts([worker.model_version for worker in workers])
    if len(programs) > 1:
        yield Check.warn(
            "worker programs", _listed(programs), "finish the update: worker status --json says who runs what"
        )
    else:
        yield Check.ok("worker programs", _listed(programs))
    step = "normal for a minute after a promote; then see that all workers use one registry, this one"
    if len(versions) > 1:
        yield Check.warn("worker versions", f"new jobs get different ones: {_listed(versions)}", step)
    elif current is not None and current not in versions:
        yield Check.warn("worker versions", f"{_listed(versions)}, while {current} is current in this registry", step)
    else:
        yield Check.ok("worker versions", _listed(versions))
    unreadable = [worker.registry_error for worker in workers if worker.registry_error]
    if unreadable:
        found = f"{len(unreadable):,} of {len(workers):,} workers cannot read what is current: {unreadable[0]}"
        step = "promote a version where the workers' registry is; meanwhile new jobs get what they got before"
        yield Check.warn("worker registry", found, step)
    for version, reasons in sorted(_failures(workers).items()):
        found = f"{version} cannot be loaded by {len(reasons):,} of {len(workers):,} workers: {reasons[0]}"
        yield Check.warn("failed version", found, f"training show {version}, where the workers' registry is")


def registry_check(found: RegistryFacts) -> Check:
    """Judge the registry of this host; a producer's host need not have one."""
    code = ExitCode.NO_SUCH_VERSION
    if not found.is_there:
        step = "name the folder that the workers use with --registry, or run it where they are"
        return Check.unknown("registry", f"there is none at {found.root} on this host", step)
    if found.error:
        return Check.fail(
            "registry", found.error, "see: training list; publish it again with training fit or training import", code
        )
    if found.current is None:
        step = "make one: training fit, or training import"
        return Check.fail("registry", f"{found.root} has no current version", step, code)
    how = "have their checksums" if found.is_hashed else "are there; --verify compares their checksums too"
    return Check.ok("registry", f"{found.current} is current, its {found.files} files {how}")


def _counts(values: list[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count:,})" for value, count in counts.items())


def _failures(workers: tuple[WorkerView, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for worker in workers:
        for version, reason in worker.failed_versions.items():
            found.setdefault(version, []).append(reason)
    return found


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
