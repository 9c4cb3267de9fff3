"""Reads the address of Redis once, so that the ledger's client and Celery's understand the same by it.

Left to itself kombu reads it otherwise than redis-py: ``rediss://`` without options verifies no certificate, and only a
warning in a log says so; ``ssl_check_hostname=0`` means yes; ``?db=1`` is a TypeError; ``;`` begins a second address
(kombu/connection.py ``_init_params``, kombu/utils/url.py ``parse_url``). So redis-py reads, and kombu gets the parts.
"""

from __future__ import annotations

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
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class Address(NamedTuple):
    """Where Redis is, who we are there, and how its certificate is checked; ``repr`` shows no password."""

    options: dict[str, Any]
    """What a redis-py connection is made with, its class too."""

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
        if "path" in self.options:
            return f"redis+socket://{userinfo}{quote(self.options['path'])}?virtual_host={db}"
        host = self.options.get("host", "localhost")
        host = f"[{host}]" if ":" in host else _quote(host)
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{userinfo}{host}:{self.options.get('port', 6379)}/{db}"

    def __repr__(self) -> str:
        return f"Address({mask_url(self.broker_url)!r})"


def read_address(url: str) -> Address:
    """Read an address. A ``rediss://`` one verifies certificate and host name unless its options say otherwise.

    Raises:
        RedisUnavailableError: It cannot be read, or names a file that is not there.
    """
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


def _quote(text: str) -> str:
    return quote(text, safe="")


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
