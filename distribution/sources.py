"""Where published bundles lie, which versions there are, and their SHA-256."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from packaging.version import InvalidVersion, Version

from custom.errors import UserError, nearest

GITHUB = "https://github.com"
HUGGING_FACE = "https://huggingface.co"
FORMS = "http(s)://HOST/FOLDER, file:///FOLDER, github:OWNER/NAME@TAG, hf:OWNER/NAME or a folder of this machine"
SUMS = "SHA256SUMS"

_PLACE = re.compile(r"(github|hf):([\w.-]+/[\w.-]+)(?:@([\w./+-]+))?", re.ASCII)
_SUM = re.compile(r"([0-9a-fA-F]{64})  ?\*?(\S+)")


class SourceError(UserError, ValueError):
    """The place of the bundles cannot be understood, or does not offer what is asked for."""


@dataclass(frozen=True)
class Offer:
    """One archive that can be had.

    Args:
        url: its address.
        file: ``NAME_vVERSION.zip``.
        version: the version in that name.
        sha256: what the archive must hash to, 64 hexadecimal digits in small letters.
    """

    url: str
    file: str
    version: Version
    sha256: str


def folder_url(source: str) -> str:
    """The address of the folder that holds ``SHA256SUMS`` and the archives.

    Args:
        source: an address with http, https or file; ``github:OWNER/NAME@TAG``, the files of a release;
            ``hf:OWNER/NAME``, a model page, or ``hf:OWNER/NAME@REVISION`` (``HF_ENDPOINT`` names another server); the path of
            a folder, also behind ``file://`` as it is, without its ``#`` and ``%`` quoted.

    Raises:
        SourceError: none of these.
    """
    place = _PLACE.fullmatch(source)
    if place and place[1] == "github" and place[3]:
        return f"{GITHUB}/{place[2]}/releases/download/{quote(place[3])}"
    if place and place[1] == "hf":
        server = os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")
        return f"{server}/{place[2]}/resolve/{quote(place[3] or 'main', safe='')}"
    there = Path(source.removeprefix("file://")).expanduser()
    if there.is_dir() and (there.is_absolute() or not source.startswith("file:")):
        return there.resolve().as_uri()
    parts = urlsplit(source)
    if parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment:
        return source.rstrip("/")
    if parts.scheme == "file" and parts.path.startswith("/"):
        return source.rstrip("/")
    raise SourceError(f"--from {source}: not understood. It is one of {FORMS}.")


def parse_sums(text: str, where: str) -> dict[str, str]:
    """File name to SHA-256, from lines as ``sha256sum`` writes them.

    Raises:
        SourceError: a line of another form; one file with two hashes.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = _SUM.fullmatch(line)
        if not found:
            raise SourceError(f"{where}: line {number} is not '<64 hexadecimal digits>  <file>': {line[:80]!r}.")
        if sums.setdefault(found[2], found[1].lower()) != found[1].lower():
            raise SourceError(f"{where}: line {number} gives {found[2]} a second SHA-256.")
    return sums


def versions(sums: Mapping[str, str], name: str) -> dict[Version, str]:
    """The archives of one bundle: version to file name."""
    found = {}
    for file in sums:
        match = re.fullmatch(rf"{re.escape(name)}_v(.+)\.zip", file)
        if match:
            try:
                found[Version(match[1])] = file
            except InvalidVersion:  # the archive of another bundle, whose name begins with this one's
                continue
    return found


def choose(sums: Mapping[str, str], folder: str, name: str, version: Version | None) -> Offer:
    """The archive of ``version``, or of the newest; a pre-release only where there is nothing else.

    Raises:
        SourceError: there is no such bundle or version; says what there is.
    """
    there = versions(sums, name)
    if not there:
        names = sorted({file.rsplit("_v", 1)[0] for file in sums if "_v" in file})
        raise SourceError(
            f"{folder}/{SUMS} names no archive of {name}{nearest(name, names)}. It has {', '.join(names) or 'none'}."
        )
    chosen = version or max(there, key=lambda v: (not v.is_prerelease, v))
    if chosen not in there:
        raise SourceError(
            f"{name} {chosen} is not published at {folder}: there is {', '.join(map(str, sorted(there)))}."
        )
    return Offer(f"{folder}/{there[chosen]}", there[chosen], chosen, sums[there[chosen]])
