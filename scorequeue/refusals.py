"""What Redis's errors mean to a caller: away, without writes, refused, full, too new.

redis-py's errors are turned into ours at one edge, ``translated``; what a script of ours refused passes as it is.
"""

from __future__ import annotations

import re
import ssl

import redis
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.sentinel import SentinelConnectionPool

from scorequeue.errors import (
    ProtocolTooNewError,
    RedisFullError,
    RedisNotReadyError,
    RedisRefusedError,
    RedisUnavailableError,
)
from scorequeue.keys import PROTOCOL
from scorequeue.masking import SECRET_OPTIONS, scrub

_WAIT_FOR_FAILOVER = "name its master with --redis-url; a failover ends by itself"

_NO_WRITES = {
    "READONLY": ("it is a replica", _WAIT_FOR_FAILOVER),
    "UNBLOCKED": ("it has just become a replica", _WAIT_FOR_FAILOVER),
    "MASTERDOWN": ("it is a replica that has lost its master", _WAIT_FOR_FAILOVER),
    "NOREPLICAS": ("too few replicas keep up with it", "start one, or lower min-replicas-to-write"),
    "MISCONF": ("it cannot write to its disk", "make room there; its log names the error"),
    "LOADING": ("it is reading its data after a start", "wait until it has read all"),
    "BUSY": ("a script is running for too long", "wait, or end it with SCRIPT KILL"),
    "max number of clients reached": ("maxclients connections are open", "close some, or raise maxclients"),
}
"""What the server says while it takes no writes for a while: why, and what to do."""

_MOVED = frozenset({"READONLY", "UNBLOCKED", "MASTERDOWN"})
"""After these only a new connection can find the new master, behind a name or a proxy that follows it."""

_CLUSTER = frozenset({"CLUSTERDOWN", "MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"})

_CODE = re.compile(rf"(?:^|-|^ERR )(OOM|NOPERM|NOAUTH|WRONGPASS|{'|'.join(_CLUSTER)}|{'|'.join(_NO_WRITES)})\b")
"""Words of the server that no script of ours uses."""

_WRONG_NAME_CODES = (62, 63, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL's x509_vfy.h."""


class translated:
    """Turns redis-py's errors into ours; what a script refused passes as it is."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RedisError):
            found = meaning_of(error, self._client)
            if found is not None:
                raise found from error


def meaning_of(error: RedisError, client: redis.Redis) -> RedisUnavailableError | None:
    """Say what Redis's error means to a caller; None for what a script of ours refused.

    A server that takes no writes has given up its place as master, perhaps: idle connections to it are closed, so that
    the next try asks for the address anew.
    """
    code, said = _code_of(error), _scrubbed(error, client)
    if code == "OOM":
        return RedisFullError(
            f"Redis has no memory left for new rows ({said}); wait for workers, delete old jobs or raise maxmemory"
        )
    if isinstance(error, AuthenticationError | NoPermissionError) or code in ("NOPERM", "NOAUTH", "WRONGPASS"):
        return RedisRefusedError(
            f"Redis refused: {said}; check the user and password in --redis-url and the user's rights"
        )
    if code in _NO_WRITES:
        if code in _MOVED:
            client.connection_pool.disconnect(inuse_connections=False)
        why, step = _NO_WRITES[code]
        return RedisNotReadyError(f"Redis at {_address(client)} takes no writes now: {why} ({code}); {step}")
    if code in _CLUSTER:
        return cluster_error(client)
    if isinstance(error, ResponseError):
        answer = str(error).split()
        return protocol_error(answer[-1]) if answer[0] == "PROTOCOL" else None
    cause = error.__cause__ or error.__context__
    found = _certificate_error(cause, client) if isinstance(cause, ssl.SSLError) else None
    if found is not None:
        return found
    return RedisUnavailableError(
        f"expected Redis at {_address(client)}, got: {said.rstrip('.')}; start it (worker start --local brings one)"
        " or name it with --redis-url"
    )


def cluster_error(client: redis.Redis) -> RedisRefusedError:
    """Refuse a Redis Cluster by name."""
    return RedisRefusedError(
        f"expected one Redis, got a node of a Redis Cluster at {_address(client)}; name a server that is in no cluster"
    )


def _scrubbed(error: RedisError, client: redis.Redis) -> str:
    """Return what the server said without the password, which goes from the error too: a trace shows both."""
    options = client.connection_pool.connection_kwargs
    said = scrub(str(error), [secret for name in SECRET_OPTIONS if (secret := options.get(name))])
    if said != str(error):
        error.args = (said,)
    return said


def _code_of(error: RedisError) -> str:
    """Return the server's word for what is wrong; empty where it has none that is known here.

    redis-py cuts the word off where it has a class for it. Redis 6.2 wraps what a command inside a script met into a
    plain error ("Error running script ... -OOM ...").
    """
    code = getattr(error, "status_code", None)
    if code is not None and code != "ERR":
        return str(code)
    found = _CODE.search(str(error))
    return found[1] if found else ""


def protocol_error(text: str | bytes) -> RedisUnavailableError | None:
    """Say what it means that a namespace has this protocol; None if it is ours."""
    try:
        found = int(text)
    except ValueError:
        return RedisRefusedError(
            f"expected protocol {PROTOCOL} in this namespace, got {text!r}: something else wrote it;"
            " name another --namespace"
        )
    if found == PROTOCOL:
        return None
    if found > PROTOCOL:
        return ProtocolTooNewError(
            f"expected protocol {PROTOCOL} in this namespace, got {found}: a newer Scorequeue serves it;"
            " update this program"
        )
    return RedisRefusedError(
        f"expected protocol {PROTOCOL} in this namespace, got {found}: an older Scorequeue wrote it;"
        " let that one finish its jobs, or name another --namespace"
    )


def _certificate_error(error: ssl.SSLError, client: redis.Redis) -> RedisRefusedError | None:
    """Say what is wrong with a certificate, theirs or ours; None for a connection that merely broke."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return None
    if not isinstance(error, ssl.SSLCertVerificationError):
        return RedisRefusedError(
            f"no TLS with Redis at {_address(client)}: {error}; check its port, and ssl_ca_certs, ssl_certfile,"
            " ssl_keyfile and ssl_password in --redis-url"
        )
    if error.verify_code in _WRONG_NAME_CODES:
        return RedisRefusedError(
            f"the certificate of Redis at {_address(client)} is for another host: {error.verify_message};"
            " name the host that it is for in --redis-url, or add ?ssl_check_hostname=false"
        )
    return RedisRefusedError(
        f"the certificate of Redis at {_address(client)} is not trusted: {error.verify_message};"
        " name the file of its authority in --redis-url: ?ssl_ca_certs=FILE"
    )


def _address(client: redis.Redis) -> str:
    if isinstance(client.connection_pool, SentinelConnectionPool):
        return f"the master {client.connection_pool.service_name} of Sentinel"
    where = client.connection_pool.connection_kwargs
    return str(where["path"]) if "path" in where else f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
