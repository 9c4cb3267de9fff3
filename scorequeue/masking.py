"""Hides passwords: in addresses before they are shown, and in log lines, whatever a library writes into them.

An address that came out wrong is the one that gets printed, and a password with ``@ / : ? #`` in it is what makes it
come out wrong. So nothing is shown of an address but what is clearly a scheme, a user, a place or a harmless option.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MASK = "***"

SECRET_OPTIONS = frozenset({"password", "ssl_password"})
"""Options of an address that are never shown."""

PLAIN_OPTIONS = frozenset({"db", "username", "password"})
"""Options that any address may have."""

TLS_OPTIONS = frozenset(
    {
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"),
        *("ssl_password", "ssl_min_version", "ssl_ciphers"),
    }
)
"""Options that a rediss:// address may have."""

_KNOWN_OPTIONS = PLAIN_OPTIONS | TLS_OPTIONS
_SHOWN_OPTIONS = _KNOWN_OPTIONS - SECRET_OPTIONS

_SHORTEST_SECRET = 4
"""Characters; a shorter password is no secret, and hiding it would make holes in every line of a log."""

_REPEATED = re.compile(r"(with args beginning with: ?)[^\n]*")
"""What ``ERR unknown command`` goes on with."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_USER = re.compile(r"[\w.%~-]*")
_HOST = re.compile(r"\[[0-9A-Fa-f:.%]*\]|[\w.%-]*")
_SOCKET = re.compile(r"/[^?#]*")
_SENTINELS = re.compile(r"[\w.%:,\[\]-]*(?:/[\w.-]*)?")
_PLACE = re.compile(rf"(?:{_HOST.pattern})(?::\d+)?(?:/\d*)?")


def mask_url(url: str) -> str:
    """Return the address without its password and key password, for messages and logs. Any text will do."""
    scheme, mark, rest = url.partition("://")
    if not _SCHEME.fullmatch(scheme) or not mark:
        scheme, mark, rest = "", "", url
    kind = {"unix": _SOCKET, "redis+socket": _SOCKET, "sentinel": _SENTINELS}.get(scheme, _PLACE)
    userinfo, rest = _cut(rest, kind)
    if userinfo:
        user, colon, _ = userinfo.partition(":")
        is_user = colon and _USER.fullmatch(user)
        mark += f"{user}:{MASK}@" if is_user else f"{MASK}@"
    return f"{scheme}{mark}{_mask_rest(rest, kind)}"


def secrets_of(url: str) -> tuple[str, ...]:
    """Return the passwords in an address in every form in which a library may print them, the longest first."""
    try:
        parts = urlsplit(url)
        found = {parts.password or "", unquote(parts.password or "")}
    except ValueError:  # such an address is refused before anything is connected
        return ()
    found |= {value for name, value in parse_qsl(parts.query) if name in SECRET_OPTIONS}
    found |= {value for name, value in _options(parts.query) if unquote(name) in SECRET_OPTIONS}
    for secret in tuple(found):
        found |= {quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    return tuple(sorted(found - {""}, key=len, reverse=True))


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return a text with secrets replaced; the longest should come first.

    A server that does not know HELLO or AUTH repeats what came with it, cut off after 128 bytes: all of that goes.
    """
    text = _REPEATED.sub(rf"\1{MASK}", text)
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return text


def _cut(rest: str, kind: re.Pattern[str]) -> tuple[str, str]:
    """Part user and password from the place: at the first @ that a place follows, else at the last one."""
    pieces = rest.split("@")
    # A socket's path may hold an @ itself, and so may a password in the options: each is looked for from its own side.
    for n in reversed(range(len(pieces))) if kind is _SOCKET else range(len(pieces)):
        if _is_place("@".join(pieces[n:]), kind):
            return "@".join(pieces[:n]), "@".join(pieces[n:])
    userinfo, _, rest = rest.rpartition("@")
    return userinfo, rest


def _is_place(text: str, kind: re.Pattern[str]) -> bool:
    """Whether this is ``host:port/db?options`` or a socket's path, and no part of a password."""
    place, _, query = text.partition("?")
    if not kind.fullmatch(place) or "#" in query:
        return False
    # Behind an @ in the options may be the host that was meant; only a value that is hidden anyway may hold one.
    return all(unquote(name) in SECRET_OPTIONS for name, value in _options(query) if "@" in name + value)


def _mask_rest(text: str, kind: re.Pattern[str]) -> str:
    if not _is_place(text, kind):
        found = _HOST.match(text)
        host = found[0] if found else ""
        return f"{host}{text[len(host) : len(host) + 1].strip('?#')}{MASK}" if text else ""
    place, mark, query = text.partition("?")
    shown = [
        f"{name}={value if unquote(name) in _SHOWN_OPTIONS else MASK}" if unquote(name) in _KNOWN_OPTIONS else MASK
        for name, value in _options(query)
    ]
    return f"{place}{mark}{'&'.join(shown)}"


def _options(query: str) -> list[tuple[str, str]]:
    """Split a query without decoding it: what is shown is shown as it was written."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return [(name, value) for name, _, value in parts]
