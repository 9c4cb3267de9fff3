"""A mark in a shared folder: a file that says who is at work, so that nobody else begins.

::

    free -> held          created by its holder alone (exclusive creation), who touches it every few seconds
    held -> free          removed by its holder at the end
    held -> taken over    its holder has ended without removing it, as far as that can be seen from here; or it was not
                          touched for ``stale_s``: its holder died or was stopped. Renamed away by whoever waits

It asks little of the file system: exclusive creation, atomic rename, times of files; no locks, which a shared one may
not have. A holder that was stopped for long may wake up to find its mark taken over, so it asks `Mark.is_held`
before each step that cannot be taken back. Ages are taken between two files' times, never from a clock of ours: a file
server and its clients may differ by minutes.

A process id says something only where it was given: the same host name, the same boot, the same PID namespace. There a
mark whose process is gone is taken over at once. A restarted container has another namespace, and a process that has
got the old one's number is taken for it; both wait for ``stale_s``, which is slower and never wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from scorequeue.errors import MarkHeldError

BEATS = 4
"""How often a mark is touched within the time after which it counts as left behind."""

POLL_S = 0.05

BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")

FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a mark.

    Attributes:
        host: The machine's name; empty where the mark does not say.
        pid: Process id there; 0 where the mark does not say.
        since: When it was taken, by the holder's clock; empty where the mark does not say.
        token: What no other holder has.
        pids: What tells where ``pid`` means this process: boot and PID namespace; empty where it cannot be told.
    """

    host: str = ""
    pid: int = 0
    since: str = ""
    token: str = ""
    pids: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to be gone; False also where that cannot be seen from here."""
        if not self.pid or not self.pids or (self.host, self.pids) != (socket.gethostname(), _read_pid_space()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}" if self.pid else "a process that has just begun"


class Mark:
    """Hold a mark for as long as a ``with`` block runs.

    Args:
        path: The file; its folder must exist.
        stale_s: Seconds without a touch after which a mark counts as left behind.
        wait_s: Seconds to wait for another holder.
        now: The clock of what the mark says; nothing is compared with it.

    Raises:
        MarkHeldError: Somebody else holds it; the message says who, and since when.
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        stale_s: float,
        wait_s: float = 0.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.path = path
        self.stale_s = stale_s
        self.wait_s = wait_s
        self._now = now
        self._holder = Holder()
        self._inode = 0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Self:
        give_up_at = time.monotonic() + self.wait_s
        while not self._create():
            found = read_holder(self.path)
            if found is None:
                continue
            if found.has_ended or ((age_s := self._age_s()) is not None and age_s > self.stale_s):
                self._take_over(found)
            elif time.monotonic() >= give_up_at:
                raise MarkHeldError(
                    f"{self.path} is held by {found}; wait for it to end (if it was killed: up to {self.stale_s:g} s)"
                )
            else:
                time.sleep(POLL_S)
        self._stop.clear()
        self._heart = threading.Thread(target=self._beat, name="mark", daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
        if self.is_held():
            self.path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether the mark is still ours: nobody has taken it over meanwhile."""
        found = read_holder(self.path)
        if found is None or found.token != self._holder.token:
            return False
        return bool(found.token) or self.path.stat().st_ino == self._inode

    def _create(self) -> bool:
        since = self._now().isoformat(timespec="seconds")
        holder = Holder(socket.gethostname(), os.getpid(), since, secrets.token_hex(8), _read_pid_space())
        try:
            file = self.path.open("x", encoding="utf-8")
        except FileExistsError:
            return False
        try:
            with file:
                json.dump({name: getattr(holder, name) for name in Holder.__slots__}, file)
        except OSError as error:
            if error.errno not in FULL:
                self.path.unlink(missing_ok=True)
                raise
            os.truncate(self.path, 0)
            holder = Holder()  # a full disk has room for a mark without words, and whoever makes room needs one
        self._holder = holder
        self._inode = self.path.stat().st_ino
        return True

    def _beat(self) -> None:
        while not self._stop.wait(self.stale_s / BEATS):
            # What cannot be touched now is tried again; a mark that is somebody else's is left alone.
            with contextlib.suppress(OSError):
                if self.is_held():
                    os.utime(self.path)  # without a time: the file server's clock sets it

    def _age_s(self) -> float | None:
        """Seconds since the mark was touched, by the file system's own clock; None if it is gone."""
        probe = self.path.with_name(f".probe-{secrets.token_hex(8)}")
        try:
            with self.path.open("rb") as file:  # opening asks the server; a bare stat may answer from a cache
                touched_at = os.fstat(file.fileno()).st_mtime
            with probe.open("xb") as file:
                return os.fstat(file.fileno()).st_mtime - touched_at
        except OSError as error:
            if is_gone(error):
                return None
            raise
        finally:
            probe.unlink(missing_ok=True)

    def _take_over(self, stale: Holder) -> None:
        aside = self.path.with_name(f".stale-{secrets.token_hex(8)}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        try:
            found = read_holder(aside)
            if found is not None and found.token != stale.token:
                # Another waiter was faster, and this is its fresh mark. Linking puts it back only if nobody came since.
                with contextlib.suppress(OSError):
                    os.link(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)


def read_holder(path: Path) -> Holder | None:
    """Say who holds a mark; None if nobody does."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        if is_gone(error):
            return None
        raise
    try:
        facts = json.loads(text)
        return Holder(
            str(facts["host"]), int(facts["pid"]), str(facts["since"]), str(facts["token"]), str(facts.get("pids", ""))
        )
    except (ValueError, KeyError, TypeError):
        return Holder()  # being written just now, or torn


def _read_pid_space() -> str:
    """Boot and PID namespace of this process; empty where the system does not say, as on macOS."""
    try:
        return f"{BOOT_FILE.read_text().strip()}/{os.stat(PID_NAMESPACE).st_ino}"
    except OSError:
        return ""


def is_gone(error: OSError) -> bool:
    """Whether a file that was there has been removed, as a client of a file server may be told as well."""
    return isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE
