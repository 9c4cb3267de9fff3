"""A small TCP proxy in front of a server: it cuts connections, or lets bytes vanish."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

_BLOCK = 65_536


class Proxy:
    """Passes bytes on until it is told not to. A context; ``url`` is set inside.

    Args:
        target_port: Port of the server on the loopback.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.lets_requests_through = True
        self.lets_answers_through = True
        self.most_answer_bytes: int | None = None
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def black_hole(self) -> None:
        """From now on nothing comes through in either direction, on any connection; none is closed."""
        self.lets_requests_through = self.lets_answers_through = False

    def let_through(self) -> None:
        """Pass bytes on again, on new connections; the old ones have lost some, so they are closed."""
        self.lets_requests_through = self.lets_answers_through = True
        self.most_answer_bytes = None
        self.cut()

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _close(end)

    def lead_to(self, port: int) -> None:
        """From now on new connections go to another server; those that are there stay where they are."""
        self._target_port = port

    def lose_large_answer(self, most_bytes: int) -> None:
        """The first answer with more bytes vanishes, and all that come after it."""
        self.most_answer_bytes = most_bytes

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pass_requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass_answers, args=(server, client), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        def send(data: bytes) -> None:
            if self.lets_requests_through:
                server.sendall(data)

        self._pass(client, server, send)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        def send(data: bytes) -> None:
            if self.most_answer_bytes is not None and len(data) > self.most_answer_bytes:
                self.lets_answers_through = False
            if self.lets_answers_through:
                client.sendall(data)

        self._pass(server, client, send)

    def _pass(self, source: socket.socket, other: socket.socket, send: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BLOCK):
                send(data)
        _close(source)
        _close(other)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
