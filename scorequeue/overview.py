"""A whole namespace at a glance, and the server that it is on: what ``producer doctor`` judges and the exporter shows.

All of it is read without a script, so that a user who may only read can ask too. Nothing here changes the ledger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from scorequeue.inquiries import Inquiries, Living
from scorequeue.jobs import JobState, Lane
from scorequeue.refusals import meaning_of, translated

_LOOK_FIRST = 10
"""Members of a lane that are looked at for its oldest pending chunk; nearly always the first one is it."""

_LOOK_PAGE = 1_000
_LOOK_PAGES = 10
"""How many more members are looked at where chunks of jobs that ended early stand in front."""


class LaneView(NamedTuple):
    """How a lane stands.

    Attributes:
        lane: Which.
        backlog_rows: Rows that are pending or leased.
        waiting_rows: Rows that are not leased.
        oldest_pending_s: Seconds since the oldest chunk arrived that is pending or leased; 0 where none is.
        live_workers: Ids of the live workers that listen on it.
    """

    lane: Lane
    backlog_rows: int
    waiting_rows: int
    oldest_pending_s: float
    live_workers: tuple[str, ...]


class WorkerView(NamedTuple):
    """What a live worker says of itself.

    Attributes:
        id: Its id.
        place: Host and process id.
        program_version: Version of its program.
        model_version: Version that it gives to new jobs.
        failed_versions: Versions that it could not load lately, with the reason.
        rows: Rows that it scored since its start.
        forward_s: Seconds in which its device had a batch since its start.
        registry_error: Why it cannot read what is current in its registry; empty where it can.
    """

    id: str
    place: str
    program_version: str
    model_version: str
    failed_versions: dict[str, str]
    rows: int
    forward_s: float
    registry_error: str = ""


class ServerView(NamedTuple):
    """What the server says of itself; None where it says nothing about it.

    Attributes:
        version: Its version.
        role: ``master`` or ``slave``.
        used_memory: Bytes.
        maxmemory: Bytes; 0 means no limit.
        maxmemory_policy: What it does at the limit.
        has_append_only_file: Whether ``appendonly`` is on.
        is_append_ok: Whether the last write to that file succeeded.
        is_snapshot_ok: Whether the last snapshot, if it makes any, succeeded.
        replicas: Replicas that are connected.
        good_replicas: Those of them that keep up; None where ``min-replicas-to-write`` is 0.
    """

    version: str
    role: str
    used_memory: int
    maxmemory: int
    maxmemory_policy: str | None
    has_append_only_file: bool | None
    is_append_ok: bool
    is_snapshot_ok: bool
    replicas: int
    good_replicas: int | None

    @property
    def takes_writes(self) -> bool:
        """Whether it takes writes, as far as a user can tell who may only read."""
        return self.role == "master" and self.is_append_ok and self.is_snapshot_ok and self.good_replicas != 0


class Overview(NamedTuple):
    """A namespace as it stands at one time of Redis's clock.

    Attributes:
        at_s: That time, in seconds since 1970.
        clock_ahead_s: How far Redis's clock is ahead of ours.
        round_trip_s: How long the answer to that took; the difference is not known better than this.
        protocol: Number of the layout of the namespace's keys; None where nothing was ever written.
        lanes: Each lane.
        leases: Chunks that are leased.
        overdue_leases: Those whose lease has run out, and that nobody has taken back yet.
        leases_expired: Leases taken back because they ran out, since the namespace was made.
        workers: The live workers.
        server: The server.
    """

    at_s: float
    clock_ahead_s: float
    round_trip_s: float
    protocol: int | None
    lanes: tuple[LaneView, ...]
    leases: int
    overdue_leases: int
    leases_expired: int
    workers: tuple[WorkerView, ...]
    server: ServerView


class Overviews(Inquiries):
    """Questions about a namespace and its server as a whole."""

    def overview(self) -> Overview:
        """Say how the namespace and the server stand. Takes two round trips, and a third where rows wait."""
        return self._scripts.repeat(self._overview)

    def server_settings(self, names: Sequence[str]) -> dict[str, str]:
        """Return those of the server's settings that it has and that we may read.

        Args:
            names: Their names in redis.conf.
        """
        return self._scripts.repeat(lambda: self._server_settings(names))

    def _overview(self) -> Overview:
        with translated(self._redis):
            asked_at, began = time.time(), time.monotonic()
            seconds, micros = self._redis.time()
            round_trip_s = time.monotonic() - began
            now_s = seconds + micros / 1e6
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.info()
                pipe.hgetall(self.keys.rows)
                pipe.hmget(self.keys.meta, ["protocol", "expired"])
                pipe.zcount(self.keys.leases, "-inf", "+inf")
                pipe.zcount(self.keys.leases, "-inf", now_s * 1000)
                pipe.hgetall(self.keys.workers)
                for lane in Lane:
                    pipe.zrange(self.keys.lane(lane), 0, _LOOK_FIRST - 1, withscores=True)
                self._ask_who_lives(pipe)
                info, rows, meta, leases, overdue, about, *answers = pipe.execute()
            living = Living(answers[len(Lane) :])
            lanes = []
            for lane, members in zip(Lane, answers, strict=False):
                backlog = int(rows.get(f"{lane}:backlog".encode(), 0))
                arrived_ms = self._oldest_pending(lane, members) if backlog else None
                lanes.append(
                    LaneView(
                        lane=lane,
                        backlog_rows=backlog,
                        waiting_rows=int(rows.get(f"{lane}:waiting".encode(), 0)),
                        oldest_pending_s=0.0 if arrived_ms is None else max(0.0, now_s - arrived_ms / 1000),
                        live_workers=tuple(worker.decode() for worker, _ in living.of(lane)),
                    )
                )
        names = sorted({worker for view in lanes for worker in view.live_workers})
        protocol, expired = meta
        return Overview(
            at_s=now_s,
            clock_ahead_s=now_s - (asked_at + round_trip_s / 2),
            round_trip_s=round_trip_s,
            protocol=None if protocol is None else int(protocol),
            lanes=tuple(lanes),
            leases=leases,
            overdue_leases=overdue,
            leases_expired=int(expired or 0),
            workers=tuple(_read_worker(name, json.loads(about.get(name.encode(), b"{}"))) for name in names),
            server=_read_server(info),
        )

    def _oldest_pending(self, lane: Lane, members: list[tuple[bytes, float]]) -> float | None:
        """Return when the oldest chunk of an open job arrived, in milliseconds; None where there is none.

        Chunks of jobs that ended early leave the lane with later claims. Where more of them stand in front than are
        looked at, the answer is when the last of these arrived: what waits is not older.

        Args:
            lane: Which.
            members: Its first members, by arrival.
        """
        start, arrived_ms = 0, None
        for _ in range(1 + _LOOK_PAGES):
            jobs = list(dict.fromkeys(member.rpartition(b":")[0] for member, _ in members))
            with self._redis.pipeline(transaction=False) as pipe:
                for job in jobs:
                    pipe.hget(self.keys.job(job.decode()), "state")
                states = dict(zip(jobs, pipe.execute(), strict=True))
            for member, arrived_ms in members:
                state = states[member.rpartition(b":")[0]]
                if state is not None and not JobState(state.decode()).is_final:
                    return arrived_ms
            start += len(members)
            page: Any = self._redis.zrange(self.keys.lane(lane), start, start + _LOOK_PAGE - 1, withscores=True)
            if not page:
                return None
            members = page
        return arrived_ms

    def _server_settings(self, names: Sequence[str]) -> dict[str, str]:
        with translated(self._redis), self._redis.pipeline(transaction=False) as pipe:
            for name in names:  # Redis 6.2 takes one at a time
                pipe.config_get(name)
            answers = pipe.execute(raise_on_error=False)
        found: dict[str, str] = {}
        for answer in answers:
            if isinstance(answer, dict):
                found |= {_text(name): _text(value) for name, value in answer.items()}
            elif not isinstance(answer, ResponseError):  # no right to ask, or a service that hides the command
                raise meaning_of(answer, self._redis) or answer
        return found


def _read_worker(worker_id: str, about: dict[str, Any]) -> WorkerView:
    return WorkerView(
        id=worker_id,
        place=f"{about.get('host', '?')}:{about.get('pid', '?')}",
        program_version=str(about.get("version", "?")),
        model_version=str(about.get("model_version", "?")),
        failed_versions=dict(about.get("failed_versions") or {}),
        rows=int(about.get("rows", 0)),
        forward_s=float(about.get("forward_s", 0.0)),
        registry_error=str(about.get("registry_error") or ""),
    )


def _read_server(info: dict[str, Any]) -> ServerView:
    append_only, good = info.get("aof_enabled"), info.get("min_slaves_good_slaves")
    return ServerView(
        version=str(info["redis_version"]),
        role=str(info.get("role", "master")),
        used_memory=int(info["used_memory"]),
        maxmemory=int(info.get("maxmemory", 0)),
        maxmemory_policy=info.get("maxmemory_policy"),
        has_append_only_file=None if append_only is None else bool(append_only),
        is_append_ok=info.get("aof_last_write_status", "ok") == "ok",
        is_snapshot_ok=info.get("rdb_last_bgsave_status", "ok") == "ok",
        replicas=int(info.get("connected_slaves", 0)),
        good_replicas=None if good is None else int(good),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
