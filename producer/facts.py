"""Gathers what the doctor judges: asks Redis and looks at the registry of this host."""

from __future__ import annotations

from pathlib import Path

from producer.diagnosis import Facts, RegistryFacts
from scorequeue.errors import RedisRefusedError, RedisUnavailableError, VersionError
from scorequeue.folders import list_files
from scorequeue.ledger import Ledger
from scorequeue.manifest import MANIFEST_NAME
from scorequeue.masking import mask_url
from scorequeue.registry import Registry
from scorequeue.settings import Settings

_SETTINGS = ("appendfsync", "lazyfree-lazy-expire")
"""What the server does not say in INFO; asking takes a right that the users of deploy/redis/users.acl do not have."""


def gather(settings: Settings, *, verify: bool = False) -> Facts:
    """Ask Redis and look at the registry. Expired leases are taken back on the way, as ``producer status`` does.

    Args:
        settings: Where Redis and the registry are, and the namespace.
        verify: Whether to hash the files of the current version.
    """
    registry = look_at_registry(settings.registry, verify=verify)
    address = mask_url(settings.redis_url)
    try:
        ledger = Ledger.connect(settings, patience_s=0)
    except RedisUnavailableError as exc:
        return Facts(address, str(exc), None, {}, 0, None, None, registry)
    try:
        before = ledger.overview()
        write_error = _take_back(ledger)
        now = ledger.overview()
        found = ledger.server_settings(_SETTINGS)
    except RedisUnavailableError as exc:
        return Facts(address, str(exc), None, {}, 0, None, None, registry)
    finally:
        ledger.close()
    taken_back = None if write_error != "" else now.leases_expired - before.leases_expired
    return Facts(address, "", now, found, before.overdue_leases, taken_back, write_error, registry)


def look_at_registry(root: Path, *, verify: bool) -> RegistryFacts:
    """Look at the registry's current version; its files are hashed if asked for, else they only have to be there."""
    if not root.is_dir():
        return RegistryFacts(str(root), is_there=False)
    registry, current, files = Registry(root), None, 0
    try:
        current = registry.current()
        if current is not None:
            manifest = registry.verify(current) if verify else registry.manifest(current)
            files = len(manifest.files)
            missing = sorted(set(manifest.files) - set(list_files(registry.path(current))))
            if missing:
                error = f"{current} lacks {missing[0]}, which its {MANIFEST_NAME} lists; publish the checkpoint again"
                return RegistryFacts(str(root), True, current, files, verify, error)
    except VersionError as exc:
        return RegistryFacts(str(root), True, current, files, verify, str(exc))
    except OSError as exc:
        why = f"{exc.filename or root} cannot be read: {exc.strerror}"
        return RegistryFacts(str(root), True, current, files, verify, why)
    return RegistryFacts(str(root), True, current, files, verify)


def _take_back(ledger: Ledger) -> str | None:
    """Take expired leases back, which begins with a write; return why Redis took none, None where we may not write."""
    try:
        ledger.sweep()
    except RedisRefusedError:
        return None
    except RedisUnavailableError as exc:
        return str(exc)
    return ""
