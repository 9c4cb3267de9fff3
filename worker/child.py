"""A child process of the worker at the other end of a socket.

It is started fresh, never forked, so that it inherits no thread, lock or CUDA context. It ignores signals, which are
the worker's to handle, and ends when the worker does, however that died. Messages are Python objects: both ends are the
same program.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import signal
import socket
import struct
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any

from scorequeue.errors import ExitCode

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

SOCKET_S = 10
"""Seconds that the child may leave a message half read or half written: it reads at once, so then it is stopped."""

_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.25
_REAP_S = 10.0


class ChildLostError(Exception):
    """The child process ended, or was ended because it did not answer in time."""


class Child:
    """``python -m MODULE``, which calls ``connect_to_parent`` first.

    Start it in a thread that lives as long as the child is to live: on Linux the child is killed when that thread ends.
    Once it has ended, ``send``, ``receive`` and ``call`` raise ``ChildLostError``, which says how.
    """

    def __init__(self, module: str) -> None:
        self._connection, theirs = Pipe()
        with socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SOCKET_S, 0))  # struct timeval
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # inherited, so there is no moment without it
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: not the folder it is started in, where a file may have the name of a package
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
                    env=os.environ | {"PYTHONPATH": path},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno(),  # what libraries print is no result of ours
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message; any thread, one at a time."""
        try:
            self._connection.send(message)
        except OSError as error:
            raise ChildLostError(self._end()) from error

    def receive(self, timeout_s: float) -> Any:
        """Return the child's next message, or None when the time is over."""
        try:
            return self._connection.recv() if self._connection.poll(timeout_s) else None
        except (EOFError, OSError) as error:
            raise ChildLostError(self._end()) from error

    def call(self, message: Any, *, timeout_s: float | None) -> Any:
        """Send a message and return the answer; a child without one in time is killed. None waits for ever."""
        self.send(message)
        # Looks are counted, not seconds: a worker that was stopped for a while has not waited for an answer meanwhile.
        for _ in itertools.count() if timeout_s is None else range(math.ceil(timeout_s / _LOOK_S)):
            answer = self.receive(_LOOK_S)
            if answer is not None:
                return answer
        self.kill()
        raise ChildLostError(f"it gave no answer for {timeout_s:.1f} s and was killed")

    def kill(self) -> None:
        """End it at once; any thread, also while another one waits for it."""
        self._process.kill()

    def close(self) -> None:
        """End it and wait for that."""
        self._end()
        self._connection.close()

    def _end(self) -> str:
        """Make sure that it has ended; returns how, in words."""
        try:
            status = self._process.wait(0.5)  # it closed its end: it is on its way
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait(_REAP_S)
        return f"signal {-status} ({signal.strsignal(-status)}) ended it" if status < 0 else f"it ended with {status}"


def connect_to_parent() -> Connection:
    """Return the child's end of the socket, and tie the child's life to the worker's."""
    connection = Connection(int(sys.argv[1]))
    # The end of the socket shows while the child reads; one that is stuck in a library is ended by the kernel.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        os._exit(ExitCode.INTERRUPTED)  # it died before we could ask to be told
    return connection
