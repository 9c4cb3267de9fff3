"""Reads the address of Redis once, so that the ledger's client and Celery's understand the same by it.

Left to itself kombu reads it otherwise than redis-py: ``rediss://`` without options verifies no certificate, and only a
warning in a log says so; ``ssl_check_hostname=0`` means yes; ``?db=1`` is a TypeError; ``;`` begins a second address
(kombu/connection.py ``_init_params``, kombu/utils/url.py ``parse_url``). So redis-py reads, and kombu gets the parts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

import redis
from redis.connection import parse_url

from scorequeue.errors import RedisUnavailableError
from scorequeue.masking import PLAIN_OPTIONS, TLS_OPTIONS, mask_url

_EXPECTED = "expected an address like redis://user:password@host:6379/0"
_QUOTING = "write @ / : ? # % in a password as %40 %2F %3A %3F %23 %25"
_CERT_REQS = ("required", "optional", "none")
_SENTINEL_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?"
_SENTINEL = re.compile(
    rf"sentinel://(?P<who>[^@/?#]*@)?(?P<hosts>{_SENTINEL_HOST}(?:,{_SENTINEL_HOST})*)"
    r"/(?P<master>[\w.-]+)(?P<query>\?[^#]*)?"
)
_SENTINEL_PORT = 26379
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class Address(NamedTuple):
    """Where Redis is, who we are there, and how its certificate is checked; ``repr`` shows no password."""

    options: dict[str, Any]
    """What a redis-py connection is made with, its class too."""

    sentinels: tuple[tuple[str, int], ...] = ()
    """Host and port of the sentinels that know where the master is; without any, the options say it."""

    master: str = ""
    """What the sentinels call it."""

    @property
    def tls(self) -> dict[str, Any]:
        """The options of TLS; empty where the address is not ``rediss://``."""
        return {name: value for name, value in self.options.items() if name in TLS_OPTIONS}

    @property
    def broker_url(self) -> str:
        """The address in the form that kombu reads as we do: no options, everything quoted."""
        who = self.options.get("username") or "", self.options.get("password") or ""
        userinfo = f"{_quote(who[0])}:{_quote(who[1])}@" if any(who) else ""
        db = self.options.get("db", 0)
        if self.sentinels:
            return ";".join(f"sentinel://{userinfo}{_place(*sentinel)}/{db}" for sentinel in self.sentinels)
        if "path" in self.options:
            return f"redis+socket://{userinfo}{quote(self.options['path'])}?virtual_host={db}"
        scheme = "rediss" if self.tls else "redis"
        place = _place(self.options.get("host", "localhost"), self.options.get("port", 6379))
        return f"{scheme}://{userinfo}{place}/{db}"

    @property
    def broker_options(self) -> dict[str, str]:
        """What kombu needs to know beside the address, among its transport options."""
        return {"master_name": self.master} if self.sentinels else {}

    def __repr__(self) -> str:
        return f"Address({mask_url(self.broker_url)!r})"


def read_address(url: str) -> Address:
    """Read an address. A ``rediss://`` one verifies certificate and host name unless its options say otherwise.

    Raises:
        RedisUnavailableError: It cannot be read, or names a file that is not there.
    """
    if url.startswith("sentinel://"):
        return _read_sentinels(url)
    try:
        options = parse_url(url)  # type: ignore[no-untyped-call]
        parts = urlsplit(url)
        named = {name for name, _ in parse_qsl(parts.query, strict_parsing=True)} if parts.query else set()
    except ValueError:  # its text may hold a piece of a password that broke the address apart, so nobody gets to see it
        raise _unreadable(url, _QUOTING) from None
    is_tls = options.get("connection_class") is redis.SSLConnection
    if named - PLAIN_OPTIONS - (TLS_OPTIONS if is_tls else set()):
        known = f"options are {_list(PLAIN_OPTIONS)}, and with rediss:// {_list(TLS_OPTIONS)}"
        raise _unreadable(url, f"{known}; {_QUOTING}")
    database = parts.path.strip("/")
    if parts.fragment or ("path" not in options and database and not database.isdigit()):
        raise _unreadable(url, f"after the port comes the number of a database and no more; {_QUOTING}")
    if is_tls:
        options |= _read_tls(url, options)
    return Address(options)


def _read_sentinels(url: str) -> Address:
    """Read ``sentinel://user:password@HOST:PORT,HOST:PORT/MASTER?db=N``: user and password are the master's."""
    found = _SENTINEL.fullmatch(url)
    if found is None:
        raise _unreadable(url, f"with Sentinel it is sentinel://HOST:PORT,HOST:PORT/MASTER; {_QUOTING}")
    sentinels = [urlsplit(f"//{place}") for place in found["hosts"].split(",")]
    try:
        places = tuple((sentinel.hostname or "", sentinel.port or _SENTINEL_PORT) for sentinel in sentinels)
        options = read_address(f"redis://{found['who'] or ''}localhost{found['query'] or ''}").options
    except (ValueError, RedisUnavailableError):  # a port above 65535, or what its own message would show otherwise
        raise _unreadable(url, f"options are {_list(PLAIN_OPTIONS)}; {_QUOTING}") from None
    return Address({name: value for name, value in options.items() if name != "host"}, places, found["master"])


def _read_tls(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of TLS with their defaults."""
    cert_reqs = options.get("ssl_cert_reqs", "required")
    if cert_reqs not in _CERT_REQS:
        raise _unreadable(url, f"ssl_cert_reqs is one of {', '.join(_CERT_REQS)}")
    for name in _FILES:
        if name in options and not Path(options[name]).is_file():
            raise _unreadable(url, f"there is no file {options[name]} for {name}")
    if "ssl_certfile" not in options and "ssl_keyfile" in options:
        raise _unreadable(url, "ssl_keyfile needs ssl_certfile beside it")
    return {
        "ssl_cert_reqs": cert_reqs,
        "ssl_check_hostname": options.get("ssl_check_hostname", True),
        # Without one OpenSSL would ask the terminal for an encrypted key's password, and a service would wait for ever.
        "ssl_password": options.get("ssl_password", ""),
    }


def _unreadable(url: str, how: str) -> RedisUnavailableError:
    return RedisUnavailableError(f"{_EXPECTED}, got {mask_url(url)}; {how}")


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{_quote(host)}:{port}"


def _quote(text: str) -> str:
    return quote(text, safe="")


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
