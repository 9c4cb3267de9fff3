"""What the ledger says of a whole namespace, and of its server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from producer import Client
from scorequeue.jobs import Lane
from scorequeue.keys import PROTOCOL
from scorequeue.ledger import Ledger
from scorequeue.overview import LaneView, Overview
from scorequeue.records import LaneRoom
from scorequeue.settings import Settings
from tests.integration.scoring import VERSION, score_waiting
from tests.servers import password_of, server_with_users


@pytest.fixture
def settings(redis_url: str, namespace: str) -> Settings:
    return Settings(redis_url=redis_url, namespace=namespace, lease_s=0.5)


def lane_of(view: Overview, lane: Lane) -> LaneView:
    return next(found for found in view.lanes if found.lane is lane)


def test_namespace_that_nobody_wrote_to_is_empty(ledger: Ledger):
    view = ledger.overview()

    assert view.protocol is None
    assert view.workers == ()
    assert [(lane.backlog_rows, lane.oldest_pending_s) for lane in view.lanes] == [(0, 0)] * 2
    assert (view.leases, view.overdue_leases, view.leases_expired) == (0, 0, 0)


def test_backlog_is_pending_and_leased_rows_and_waiting_is_pending_ones(ledger: Ledger, client: Client):
    client.submit(["a"] * 600, chunk_rows=256)
    client.submit(["a"])
    ledger.claim("w", [LaneRoom(Lane.BULK, 256, 1)], versions=[VERSION], default_version=VERSION)

    view = ledger.overview()

    bulk, express = lane_of(view, Lane.BULK), lane_of(view, Lane.EXPRESS)
    assert (bulk.backlog_rows, bulk.waiting_rows) == (600, 344)
    assert (express.backlog_rows, express.waiting_rows) == (1, 1)
    assert view.leases == 1
    assert view.protocol == PROTOCOL
    assert 0 < bulk.oldest_pending_s < 60


def test_workers_say_what_they_are(ledger: Ledger):
    about = {"host": "h", "pid": 7, "version": "1.0", "model_version": VERSION, "rows": 5, "forward_s": 0.5}
    about |= {"failed_versions": {"v9": "why"}, "registry_error": "torn"}
    ledger.renew("w", about, [Lane.BULK], [], is_first=True)

    view = ledger.overview()

    (worker,) = view.workers
    assert (worker.place, worker.program_version, worker.model_version) == ("h:7", "1.0", VERSION)
    assert (worker.rows, worker.forward_s, worker.failed_versions) == (5, 0.5, {"v9": "why"})
    assert worker.registry_error == "torn"
    assert [lane.live_workers for lane in view.lanes] == [(), ("w",)]


@pytest.mark.parametrize("chunks", [1, 30, 1_500])
def test_jobs_that_ended_early_do_not_count_as_the_oldest(ledger: Ledger, client: Client, chunks: int):
    """Their chunks leave the lane with later claims; without a worker an alert would ring for ever."""
    cancelled = client.submit(["a"] * chunks, chunk_rows=1, lane="bulk")
    first = lane_of(ledger.overview(), Lane.BULK)
    cancelled.cancel()
    kept = client.submit(["a"], lane="bulk")

    bulk = lane_of(ledger.overview(), Lane.BULK)

    assert first.backlog_rows == chunks
    assert bulk.backlog_rows == 1
    assert 0 <= bulk.oldest_pending_s <= ledger.overview().at_s - kept.status().created_at.timestamp()
    kept.cancel()
    assert lane_of(ledger.overview(), Lane.BULK).oldest_pending_s == 0


def test_server_says_how_it_is_set_up(ledger: Ledger):
    server = ledger.overview().server

    assert tuple(map(int, server.version.split(".")[:2])) >= (6, 2)
    assert (server.role, server.maxmemory_policy) == ("master", "noeviction")
    assert server.takes_writes
    assert (server.has_append_only_file, server.is_append_ok, server.replicas) == (True, True, 0)
    assert server.used_memory > 0
    assert ledger.server_settings(["appendfsync", "no-such-setting"]) == {"appendfsync": "everysec"}


@pytest.mark.parametrize("user", ["producer", "worker", "exporter"])
def test_every_user_may_look_and_none_may_read_the_server_s_settings(tmp_path: Path, user: str):
    """A setting that one may not read is not there, and no error."""
    with server_with_users(tmp_path) as server:
        with Client(server.url_of("producer", password_of("producer"))) as client:
            client.submit(["a"])
        with closing(Ledger.connect(Settings(redis_url=server.url_of(user, password_of(user))))) as ledger:
            assert lane_of(ledger.overview(), Lane.EXPRESS).backlog_rows == 1
            assert ledger.server_settings(["appendfsync"]) == {}


def test_scored_rows_leave_the_backlog(ledger: Ledger, client: Client):
    client.submit(["a"] * 100)
    score_waiting(ledger)

    view = ledger.overview()

    assert [lane.backlog_rows for lane in view.lanes] == [0, 0]
    assert [lane.oldest_pending_s for lane in view.lanes] == [0, 0]
