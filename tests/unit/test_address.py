"""One reading of an address for both clients of Redis, and one clear line for an address that cannot be read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.redis import Channel

from scorequeue import scripts
from scorequeue.address import read_address
from scorequeue.errors import RedisUnavailableError
from scorequeue.queue import make_app
from scorequeue.settings import Settings

COMPARED = ("host", "port", "path", "db", "username", "password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs")
DEFAULTS = {"host": "localhost", "port": 6379, "db": 0}

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


def read_by_ledger(url: str) -> dict[str, Any]:
    """What the ledger's client would connect with."""
    with scripts.connect(url) as client:
        return {"connection_class": client.connection_pool.connection_class, **client.connection_pool.connection_kwargs}


def read_by_celery(url: str) -> dict[str, Any]:
    """What kombu would connect with."""
    app = make_app(Settings(redis_url=url))
    channel = Channel.__new__(Channel)
    with app.connection_for_write() as connection:
        channel.connection = SimpleNamespace(client=connection, default_port=6379)
        read: dict[str, Any] = channel._connparams()
    app.close()
    return read


def compared(read: dict[str, Any]) -> dict[str, Any]:
    defaults = {} if "path" in read else DEFAULTS
    found = {name: read[name] for name in COMPARED if read.get(name) is not None}
    return {"db": 0} | defaults | found | {"is_tls": issubclass(read["connection_class"], redis.SSLConnection)}


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://redis",
        "redis://redis:7000/3",
        "redis://redis?db=3",
        "redis://[::1]:7000/0",
        "redis://:secret@redis",
        "redis://someone@redis",
        "redis://someone:se%3Acr%40et@redis:7000/1",
        "redis://someone:se;cret@redis",
        "redis://redis/0?username=someone&password=se%26cret",
        "unix:///run/redis/redis.sock",
        "unix://someone:se%2Fcret@/run/redis;1/redis.sock?db=2",
        "rediss://redis",
        "rediss://redis?ssl_cert_reqs=required",
        "rediss://redis?ssl_cert_reqs=optional&ssl_check_hostname=no",
        "rediss://redis?ssl_cert_reqs=none",
        "rediss://redis?ssl_check_hostname=0",
        "rediss://redis?ssl_check_hostname=True",
        f"rediss://someone:secret@redis:7000/1?ssl_ca_certs={__file__}",
    ],
)
def test_ledger_and_celery_read_the_same(url: str) -> None:
    assert compared(read_by_celery(url)) == compared(read_by_ledger(url))


@given(user=texts, password=texts, db=st.integers(0, 15))
def test_any_password_arrives_on_both_sides(user: str, password: str, db: int) -> None:
    options = read_address(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@redis/{db}").options
    again = read_address(read_address(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@redis").broker_url)

    assert (options["username"], options["password"], options["db"]) == (user, password, db)
    assert (again.options["username"], again.options["password"]) == (user, password)


def test_sentinels_and_the_name_of_their_master_arrive_on_both_sides() -> None:
    url = "sentinel://some%40one:se%2Fcret@h1:26379,h2,[::1]:7000/my-master?db=2"
    places = [("h1", 26379), ("h2", 26379), ("::1", 7000)]

    with scripts.connect(url) as client:
        pool = client.connection_pool
        nodes = [node.connection_pool.connection_kwargs for node in pool.sentinel_manager.sentinels]
        assert [(node["host"], node["port"]) for node in nodes] == places
        assert pool.service_name == "my-master"
        who = {name: pool.connection_kwargs[name] for name in ("username", "password", "db")}
    app = make_app(Settings(redis_url=url))
    with app.connection_for_write() as connection:
        theirs = [urlsplit(alternate) for alternate in connection.alt]
        assert [(place.hostname, place.port) for place in theirs] == places
        assert connection.transport_options["master_name"] == "my-master"
        assert (connection.userid, connection.password, connection.virtual_host) == ("some@one", "se/cret", "2")
    app.close()

    assert who == {"username": "some@one", "password": "se/cret", "db": 2}


def test_certificate_and_host_are_checked_unless_told_otherwise() -> None:
    for read in (read_by_ledger("rediss://redis"), read_by_celery("rediss://redis")):
        assert read["ssl_cert_reqs"] == "required"
        assert read["ssl_check_hostname"] is True


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis://someone:secret", "%40"),
        ("redis://someone:sec/ret@redis:6379/0", "%2F"),
        ("redis://someone:12/secret@redis", "%2F"),
        ("redis://someone:12?secret@redis", "%3F"),
        ("redis://someone:12#secret@redis", "%23"),
        ("redis://someone:secret@redis\u2100", "%40"),
        ("redis://redis/secret", "number of a database"),
        ("sentinel://someone:secret@h1,h2", "sentinel://HOST:PORT,HOST:PORT/MASTER"),
        ("sentinel://someone:sec/ret@h1/master", "%2F"),
        ("sentinel://h1:99999/master", "options are db"),
        ("sentinel://h1/master?decode_responses=secret", "options are db"),
        ("redis://redis?db=secret", "%40"),
        ("redis://redis?decode_responses=secret", "options are db"),
        ("redis://redis?ssl_ca_certs=/ca.pem", "with rediss://"),
        ("redis://redis?host=secret", "options are db"),
        ("rediss://redis?ssl_cert_reqs=CERT_NONE", "required, optional, none"),
        ("rediss://redis?ssl_ca_certs=/not/there.pem", "no file /not/there.pem for ssl_ca_certs"),
        (f"rediss://redis?ssl_keyfile={__file__}", "needs ssl_certfile"),
    ],
)
def test_address_that_cannot_be_read_says_what_to_write(url: str, hint: str) -> None:
    """An address may be wrong because of its password, and redis-py's own messages repeat pieces of it."""
    with pytest.raises(RedisUnavailableError, match="expected an address like") as refusal:
        scripts.connect(url)

    said = str(refusal.value)
    assert hint in said
    assert "secret" not in said.replace("?db=secret", "")
    assert refusal.value.__cause__ is None
    assert "\n" not in said


def test_address_does_not_show_its_password() -> None:
    assert repr(read_address("redis://someone:secret@redis")) == "Address('redis://someone:***@redis:6379/0')"


def test_files_of_an_address_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()

    assert read_address(f"rediss://redis?ssl_ca_certs={tmp_path / 'ca.pem'}").tls["ssl_ca_certs"]
