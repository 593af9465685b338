"""Published bundles for tests: archives with their hashes, and a server that can be told to misbehave."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

NAME = "toy_mean_teacher"


def weights(value: float = 1.0) -> bytes:
    """A state dict as ``torch.save`` writes it."""
    file = io.BytesIO()
    torch.save({"weight": torch.full((2,), value)}, file)
    return file.getvalue()


def files(version: str) -> dict[str, bytes]:
    """What a bundle of that version holds, the smallest that is accepted."""
    return {
        "configs/metadata.json": json.dumps({"version": version, "monai_version": "1.6.1"}).encode(),
        "docs/README.md": f"# Toy {version}\n".encode(),
        "models/model.pt": weights(float(version[0])),
        "scripts/__init__.py": b"",
        "ballast.bin.txt": os.urandom(200_000),  # so that a transfer has a middle
    }


def pack(path: Path, content: Mapping[str, bytes], top: str = NAME) -> Path:
    """A zip of ``content`` below one top folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(f"{top}/{name}", data)
    return path


def publish(dist: Path, version: str, more: Mapping[str, bytes] | None = None) -> Path:
    """A version, listed in ``SHA256SUMS``; ``more`` is added to its files."""
    dist.mkdir(parents=True, exist_ok=True)
    zipped = pack(dist / f"{NAME}_v{version}.zip", {**files(version), **(more or {})})
    list_sums(dist)
    return zipped


def list_sums(dist: Path) -> None:
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(dist.glob("*.zip"))]
    (dist / "SHA256SUMS").write_text("".join(lines))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file of a folder with its bytes, every folder with None; the lock does not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


class Server(ThreadingHTTPServer):
    """Serves a folder on loopback.

    Attributes:
        ranges: answers ``Range`` with a part.
        tags: sends an entity tag, and minds ``If-Range``.
        cuts: for each coming request of a zip, after how many bytes the connection is cut; then none is.
        statuses: what the coming requests of a zip are answered with instead.
        before: called with the path before each request.
        seen: (path, Range header, status, bytes sent) of each request.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.ranges = self.tags = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.before: Callable[[str], None] = lambda path: None
        self.seen: list[tuple[str, str | None, int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def zips(self) -> list[tuple[str | None, int, int]]:
        """(Range header, status, bytes sent) of the requests of archives."""
        return [row[1:] for row in self.seen if row[0].endswith(".zip")]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.before(self.path)
        path = server.root / self.path.lstrip("/")
        asked = self.headers.get("Range")
        archive = self.path.endswith(".zip")
        if archive and server.statuses:
            return self._plain(server.statuses.pop(0), asked)
        if not path.is_file():
            return self._plain(404, asked)
        data = path.read_bytes()
        tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        start = self._start(asked, tag) if archive else 0
        if start and start >= len(data):
            return self._plain(416, asked)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = server.cuts.pop(0) if archive and server.cuts else len(data)
        body = data[start : start + end]
        server.seen.append(
            (self.path, asked, 206 if start else 200, len(body))
        )  # first: the next request may overtake the end of this
        self.wfile.write(body)
        self.close_connection = True

    def _start(self, asked: str | None, tag: str) -> int:
        changed = self.server.tags and self.headers.get("If-Range", tag) != tag
        return 0 if asked is None or changed or not self.server.ranges else int(asked[len("bytes=") : -1])

    def _plain(self, status: int, asked: str | None) -> None:
        self.server.seen.append((self.path, asked, status, 0))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def stem(folder: Path) -> list[str]:
    """Names of what is in a folder, its lock aside."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def installed(to: Path) -> str:
    """The version that the bundle in a folder says it is of."""
    return (to / NAME / "docs/README.md").read_text().split()[-1]
