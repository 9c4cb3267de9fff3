"""Real servers that answer and take no writes, one for each reason that Redis knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import redis

from tests.processes import until
from tests.servers import RedisServer, free_port

PADDING = 100_000
"""Keys that take a server of ``--key-load-delay 200`` (microseconds) about 25 s to load."""

Mount = Callable[[int], Path]


@contextmanager
def replica(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """READONLY: a replica whose master lives."""
    (folder / "master").mkdir()
    with RedisServer(folder / "master") as master, RedisServer(folder, *replica_of(master.port)) as server:
        yield server


@contextmanager
def lonely_replica(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """MASTERDOWN: a replica that has lost its master, and gives no old answers."""
    with RedisServer(folder) as server, redis.Redis.from_url(server.url) as admin:
        admin.config_set("replica-serve-stale-data", "no")
        admin.replicaof("127.0.0.1", str(free_port()))
        yield server


@contextmanager
def without_replicas(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """NOREPLICAS: a master whose replicas are away."""
    with RedisServer(folder, "--min-replicas-to-write", "1") as server:
        yield server


@contextmanager
def full_disk(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """MISCONF: the append-only file cannot be written."""
    disk = mount(4 * 2**20)
    with RedisServer(disk) as server, redis.Redis.from_url(server.url, retry=None) as admin:
        fill(disk / "filler")
        until(lambda: refuses_writes(admin), what="a Redis without room for its file")
        yield server


@contextmanager
def loading(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """LOADING: the server has just started, and has much to read."""
    with RedisServer(folder, "--key-load-delay", "200") as server:
        pad(server)
        server.kill()
        server.start(wait=False)
        until(lambda: is_loading(server), what="a Redis that loads")
        yield server
        server.kill()
        server.start(wait=False)  # it would load to the end before it heard SIGTERM


@contextmanager
def busy(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """BUSY: somebody's script does not end."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(folder, "--lua-time-limit", "50"))
        admin = stack.enter_context(redis.Redis.from_url(server.url, retry=None))
        endless = stack.enter_context(redis.Redis.from_url(server.url, retry=None, socket_timeout=None))

        def run() -> None:
            try:
                endless.eval("while true do end", 0)
            except redis.exceptions.ResponseError:  # killed
                return

        thread = Thread(target=run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(admin.script_kill)
        until(lambda: refuses_writes(admin), what="a Redis that is busy")
        yield server


@contextmanager
def no_client_more(folder: Path, mount: Mount) -> Iterator[RedisServer]:
    """At maxclients new connections are refused."""
    with RedisServer(folder) as server, redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxclients", 1)
        yield server


REFUSING = {
    "READONLY": replica,
    "MASTERDOWN": lonely_replica,
    "NOREPLICAS": without_replicas,
    "MISCONF": full_disk,
    "LOADING": loading,
    "BUSY": busy,
    "max number of clients reached": no_client_more,
}
"""By what the server says."""


def replica_of(port: int) -> tuple[str, ...]:
    """Options of a replica of the server on a port."""
    return ("--replicaof", "127.0.0.1", str(port))


def pad(server: RedisServer) -> None:
    """Give a server so much that it takes its time to load it."""
    with redis.Redis.from_url(server.url) as admin, admin.pipeline(transaction=False) as pipe:
        for number in range(PADDING):
            pipe.set(f"padding:{number}", "x")
        pipe.execute()


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as out:
        try:
            while out.write(b"x" * 4096):
                pass
        except OSError:
            return


def refuses_writes(client: redis.Redis) -> bool:
    """Whether the server answers, and takes no writes."""
    try:
        client.set("probe", "x")
    except redis.exceptions.ResponseError:
        return True
    return False


def is_loading(server: RedisServer) -> bool:
    """Whether the server answers LOADING."""
    try:
        with redis.Redis.from_url(server.url, retry=None) as client:
            client.get("probe")
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.exceptions.RedisError:
        pass
    return False
