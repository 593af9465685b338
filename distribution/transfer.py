"""A file over HTTP, with a bar, resumed where it broke off, and judged by its SHA-256 before anybody opens it.

By our own means: pooch 1.9 verifies, but sends no ``Range`` and starts anew after each break, which is hours on a
hospital's line; huggingface_hub 2.4 resumes, but only from its Hub, without ``If-Range`` (a file that was replaced
meanwhile is joined to the old half), without a hash and without a limit of size.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from custom.errors import UserError

from .packing import digest

ATTEMPTS = 5
WAIT_S = 1.0  # before the second attempt, doubled before each further one
TIMEOUT_S = 30.0  # without a byte
MAX_BYTES = 2 << 30  # of an archive: what a release may hold as one file on GitHub
MAX_TEXT_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that another attempt may not meet

logger = logging.getLogger(__name__)
T = TypeVar("T")


class DownloadError(UserError, RuntimeError):
    """A file cannot be had, or is not the published one."""


class _NotThere(DownloadError):
    """The server says that there is no such file."""


class _BrokeOff(Exception):
    """The connection ended too early, or the two parts do not belong together: worth another attempt."""


class _StaysSafe(urllib.request.HTTPRedirectHandler):
    """Follows a redirection, but never from https to anything else, and never to a file of this machine."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https:",) if req.full_url.startswith("https:") else ("https:", "http:")
        if not newurl.startswith(allowed):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not followed: {allowed[-1]} is left.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_StaysSafe)


def read_text(url: str) -> str | None:
    """A small text in UTF-8, or None where there is no such file.

    Raises:
        DownloadError: it cannot be read, or is larger than ``MAX_TEXT_BYTES``.
    """

    def read() -> bytes:
        with _open(url, {}) as answer:
            return answer.read(MAX_TEXT_BYTES + 1)

    try:
        content = _attempts(read, url, "Try again later.")
    except _NotThere:
        return None
    if len(content) > MAX_TEXT_BYTES:
        raise DownloadError(f"{url} is larger than {MAX_TEXT_BYTES} bytes: not the text that was expected.")
    return content.decode("utf-8", errors="replace")


def fetch(url: str, part: Path, sha256: str) -> None:
    """Make ``part`` the whole file at ``url``.

    What is in ``part`` already is taken as its beginning: the transfer goes on after it (``Range``, ``If-Range`` with
    the entity tag of this call's earlier answer), from the start where the server cannot. A joined file that does not
    have the hash is fetched once more from the start, because an earlier call may have seen another file.

    Args:
        url: http, https or file.
        part: the file to make; its folder exists.
        sha256: what the file must hash to.

    Raises:
        DownloadError: no such file; broken off ``ATTEMPTS`` times (``part`` keeps what came); another hash, or larger
            than ``MAX_BYTES`` (``part`` is removed); it cannot be written.
    """
    if part.exists() and digest(part) == sha256:
        return
    transfer = _Transfer(url, part)
    found = transfer.run()
    if found != sha256 and transfer.joined:
        logger.info("%s: the joined parts are not the published file; once more from the start.", part.name)
        part.unlink()
        found = _Transfer(url, part).run()
    if found != sha256:
        part.unlink()
        raise DownloadError(
            f"{url}: sha256 is {found}, expected {sha256}. Nothing was unpacked, and the file was removed. Try again; "
            "if it stays so, the file or its published hash was changed: ask who published it."
        )


class _Transfer:
    """One file on its way to ``part``, over as many connections as it takes.

    Attributes:
        joined: ``part`` has bytes of more than one answer.
    """

    def __init__(self, url: str, part: Path) -> None:
        self.url = url
        self.part = part
        self.joined = False
        self.tag: str | None = None  # strong entity tag of the bytes in `part`, where this call has seen it

    def run(self) -> str:
        """The SHA-256 of what came."""
        _attempts(self._go_on, self.url, f"What came is kept in {self.part}: the same command goes on from there.")
        return digest(self.part)

    def _go_on(self) -> None:
        start = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self.tag:
            headers["If-Range"] = self.tag
        try:
            answer = _open(self.url, headers)
        except HTTPError as error:
            if error.code == 416 and start:  # nothing after what we have: it cannot be a part of this file
                self._forget("is shorter than what came before")
            raise
        with answer:
            start = self._begins_at(answer, start)
            length = answer.headers.get("Content-Length", "")
            self._receive(answer, start, start + int(length) if length.isdigit() else None)

    def _begins_at(self, answer: Any, start: int) -> int:
        """Where the bytes of this answer belong; 0: a file from its beginning."""
        tag = answer.headers.get("ETag")
        tag = None if tag is None or tag.startswith("W/") else tag
        if getattr(answer, "status", None) != 206:
            self.tag = tag
            return 0
        part = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", answer.headers.get("Content-Range", ""))
        if part is None or int(part[1]) != start or (self.tag and tag != self.tag):
            self._forget("has changed meanwhile")
        self.tag = tag
        self.joined = True
        return start

    def _forget(self, why: str) -> None:
        self.part.unlink()
        self.tag = None
        raise _BrokeOff(f"the file {why}; from the start")

    def _receive(self, answer: Any, start: int, total: int | None) -> None:
        if (total or 0) > MAX_BYTES:
            self._too_large()
        came = start
        shown = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}  # in a terminal only
        bar = tqdm(desc=self.part.name.removesuffix(".part"), initial=start, total=total, **shown)
        with _on_disk(self.part):
            file = self.part.open("ab" if start else "wb", buffering=0)
        with bar, file:
            while chunk := answer.read(CHUNK_BYTES):
                came += len(chunk)
                if came > MAX_BYTES:
                    self._too_large()
                while chunk:
                    with _on_disk(self.part):
                        written = file.write(chunk)
                    chunk = chunk[written:]
                    bar.update(written)
        if total is not None and came < total:
            raise _BrokeOff(f"the connection ended after {came} of {total} bytes")

    def _too_large(self) -> None:
        self.part.unlink(missing_ok=True)
        raise DownloadError(f"{self.url} is larger than {MAX_BYTES} bytes: no bundle is. Nothing was kept.")


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "semi-supervised-bundles", **headers})
    return _opener.open(request, timeout=TIMEOUT_S)


def _attempts(action: Callable[[], T], url: str, remedy: str) -> T:
    """``action()``, again after a fault that may pass."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (_BrokeOff, OSError, http.client.HTTPException) as error:  # of a network; a disk's is a DownloadError
            _raise_lasting(error, url)
            why = _reason(error)
        if attempt + 1 < ATTEMPTS:
            logger.info("%s: %s. Attempt %d of %d.", url, why, attempt + 2, ATTEMPTS)
            time.sleep(WAIT_S * 2**attempt)
    raise DownloadError(f"{url}: {why}; {ATTEMPTS} attempts. {remedy}")


def _raise_lasting(error: Exception, url: str) -> None:
    if isinstance(error, HTTPError):
        if error.code in (404, 410):
            raise _NotThere(f"{url}: there is no such file ({error.code}).") from error
        if error.code not in PASSING:
            raise DownloadError(f"{url}: the server refuses it: {error.code} {error.reason}.") from error
    elif isinstance(error, URLError) and url.startswith("file:"):
        kind = _NotThere if isinstance(error.reason, FileNotFoundError) else DownloadError
        raise kind(f"{url} cannot be read: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """Apart, so that a full disk is not taken for a broken connection."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"Cannot write {path}: {error.strerror}. Make room; the same command goes on from what is there."
        ) from error
