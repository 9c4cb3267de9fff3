"""A model and dataset hub on this machine: the part of its HTTP API that its client libraries ask for, from a folder.

Repositories are folders ``models/OWNER/NAME`` and ``datasets/OWNER/NAME`` under a root. A library that is told the
address (``Hub.environment``) cannot tell it from the real one as far as a fit and an import go: information about a
repository, its tree, and files with the headers that decide what is in the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The only commit that every repository has; ``main`` is its branch."""

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """A running hub; its attributes may be changed while it runs.

    Attributes:
        root: Folder of the repositories.
        tokens: Tokens that open gated repositories.
        gated: Repositories that answer nobody else.
        breaks_off: Files, by their last part, of which only so many bytes are sent before the connection is closed.
        requests: What was asked: method, path and token, in order.
    """

    root: Path
    tokens: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    breaks_off: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, cache: Path, *, token: str = "") -> dict[str, str]:
        """Variables that send the libraries of a process here, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": token,
            "NO_PROXY": "127.0.0.1",
        }

    def add(self, repo: str, files: Mapping[str, bytes | str], *, kind: str = "models") -> Path:
        """Make a repository, or add files to it; return its folder."""
        folder = self.root / kind / repo
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, unquote(url.path), token))
        for pattern, answer in ((API, self._answer_api), (FILE, self._answer_file)):
            if found := pattern.fullmatch(unquote(url.path)):
                return answer(*found.groups())
        return self._refuse(404, "NotFound", "no such page")

    def _open(self, kind: str, repo: str, revision: str | None) -> Path | None:
        """The repository's folder; None where the answer was sent already."""
        folder = self.hub.root / kind / repo
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not folder.is_dir():
            # As the real one: it does not tell who has no token whether a repository is private or missing.
            self._refuse(404 if token in self.hub.tokens else 401, "RepoNotFound", "Repository not found")
        elif repo in self.hub.gated and token not in self.hub.tokens:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to {kind[:-1]} {repo} is restricted.")
        elif revision not in (None, "main", COMMIT):
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        else:
            return folder
        return None

    def _answer_api(self, kind: str, repo: str, what: str | None, revision: str | None, path: str | None) -> None:
        folder = self._open(kind, repo, revision)
        if folder is None:
            return None
        if what in (None, "revision"):
            files = [{"rfilename": str(file.relative_to(folder))} for file in _files(folder)]
            known = {"_id": repo, "id": repo, "sha": COMMIT, "private": False, "gated": False, "disabled": False}
            times = {"createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2024-01-01T00:00:00.000Z"}
            return self._send_json(known | times | {"downloads": 0, "likes": 0, "tags": [], "siblings": files})
        if what == "paths-info":
            return self._send_json(
                [_entry(folder, folder / name) for name in self._paths() if (folder / name).exists()]
            )
        place = folder / (path or "")
        if not place.is_dir():
            return self._refuse(404, "EntryNotFound", f"{path} does not exist on main")
        is_deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        return self._send_json(
            [_entry(folder, one) for one in sorted(place.rglob("*") if is_deep else place.iterdir())]
        )

    def _paths(self) -> list[str]:
        if "json" in (self.headers.get("Content-Type") or ""):
            paths: list[str] = json.loads(self.body)["paths"]
            return paths
        return parse_qs(self.body.decode())["paths"]

    def _answer_file(self, dataset: str | None, repo: str, revision: str, name: str) -> None:
        folder = self._open("datasets" if dataset else "models", repo, revision)
        if folder is None:
            return None
        if not (folder / name).is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        content = (folder / name).read_bytes()
        headers = {
            "ETag": f'"{_oid(content)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            return self._send(206, content[start:end], headers)
        return self._send(200, content, headers, cut=self.hub.breaks_off.get(Path(name).name))

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.close_connection = True


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def _entry(folder: Path, place: Path) -> dict[str, Any]:
    path = str(place.relative_to(folder))
    if place.is_dir():
        return {"type": "directory", "oid": _oid(path.encode()), "size": 0, "path": path}
    content = place.read_bytes()
    return {"type": "file", "oid": _oid(content), "size": len(content), "path": path}


def _oid(content: bytes) -> str:
    """The name that git gives to a blob."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
