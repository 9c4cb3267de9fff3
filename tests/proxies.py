"""Stand in front of a Redis: TLS for a server that has none, and certificates for it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from pathlib import Path
from typing import Self, cast

import trustme

# asyncio logs each refused handshake as an error; refusing is what the tests are about.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

_START_TIMEOUT_S = 10.0
_PIECE_BYTES = 64 * 1024


class Authority:
    """A certificate authority of the tests, and files of what it issues.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.file = folder / "authority.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def client_files(self) -> tuple[Path, Path]:
        """Return a client's certificate and key, as two files."""
        issued = self.ca.issue_cert("client@scorequeue.example")
        certificate, key = self.folder / "client.pem", self.folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


class TlsProxy:
    """Takes TLS on a port of its own and hands the plain bytes to a server on the loopback. Use as a context.

    Args:
        target_port: Port of the plain server.
        authority: Issues the certificate, and the clients' where they need one.
        host: What the certificate is for.
        wants_client: Whether clients must show a certificate of the same authority.
    """

    def __init__(
        self, target_port: int, authority: Authority, *, host: str = "127.0.0.1", wants_client: bool = False
    ) -> None:
        self.port = 0
        self._target_port = target_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.ca.issue_cert(host).configure_cert(self._context)
        if wants_client:
            authority.ca.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="tls-proxy", daemon=True)

    def url(self, **options: object) -> str:
        """Return the rediss:// address with these options."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss://127.0.0.1:{self.port}/0" + (f"?{query}" if query else "")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(_START_TIMEOUT_S), "the proxy did not start"
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_START_TIMEOUT_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve_client, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(cast("asyncio.Task[None]", asyncio.current_task()))
        there: asyncio.StreamWriter | None = None
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(_relay(reader, there), _relay(there_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for side in (writer, there):
                if side is not None:
                    side.transport.abort()  # no farewell: whoever stops the proxy wants it gone
            await asyncio.sleep(0)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    writer.close()
