"""Archives of bundles: judged as a whole before a byte is written, then unpacked no further than they declare."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from custom.errors import UserError

MAX_ENTRIES = 10_000
MAX_UNPACKED_BYTES = 4 << 30
MAX_RATIO = 100  # declared size to size of the archive, from FREE_BYTES on; weights hardly shrink
FREE_BYTES = 64 << 20
MAX_NAME = 200  # characters
USERS = ("data", "eval")  # folders of a bundle that belong to its user: no archive may bring them

_PART = re.compile(r"[A-Za-z0-9_.+ -]*[A-Za-z0-9_+-]")  # no slash, backslash, colon, control character, final dot
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, UnicodeDecodeError)


class ArchiveError(UserError, ValueError):
    """The archive is not what a bundle may be; it was not unpacked, or nothing of it is left."""


def unpack(archive: Path, name: str, folder: Path) -> None:
    """Unpack what lies below ``name/`` in the archive into the new folder ``folder``, every file forced to the disk.

    The caller removes ``folder`` when this raises.

    Args:
        archive: a zip with one top folder ``name``.
        name: of the bundle.
        folder: does not exist.

    Raises:
        ArchiveError: truncated, no zip, or anything that :func:`judge` refuses (then ``folder`` is not made); a file
            that is not as long as declared or whose CRC is wrong.
        OSError: the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = judge(file.infolist(), name, archive.stat().st_size)
            folder.mkdir()
            for entry in entries:
                target = folder.joinpath(*PurePosixPath(entry.filename).parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(entry) as source, target.open("xb") as written:
                    _copy(source, written, entry)
    except _BROKEN as error:
        if isinstance(error, UserError):
            raise
        raise ArchiveError(f"{archive.name} is truncated or damaged: {error}. Nothing of it was kept.") from error


def judge(entries: Sequence[zipfile.ZipInfo], name: str, archive_bytes: int) -> list[zipfile.ZipInfo]:
    """The files among the entries, when all of the archive's directory is harmless.

    Raises:
        ArchiveError: names the entry, and says what is wrong with it.
    """
    if len(entries) > MAX_ENTRIES:
        raise ArchiveError(f"{len(entries)} entries, at most {MAX_ENTRIES} are a bundle. Nothing was unpacked.")
    total = sum(entry.file_size for entry in entries)
    allowed = min(MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * archive_bytes))
    if total > allowed:
        raise ArchiveError(
            f"{archive_bytes} bytes that unpack to {total}, at most {allowed} are expected. Nothing was unpacked."
        )
    for entry in entries:
        fault = _fault(entry, name) or _outside(entry, archive_bytes)
        if fault:
            raise ArchiveError(f"entry {entry.orig_filename!r}: {fault}. Nothing was unpacked.")
    files = [entry for entry in entries if not entry.is_dir()]
    _refuse_collisions(entries, files)
    return files


def _fault(entry: zipfile.ZipInfo, name: str) -> str | None:
    """What is wrong with one entry, or None."""
    path, mode = entry.orig_filename, entry.external_attr >> 16
    parts = path.removesuffix("/").split("/")
    kind = stat.S_IFMT(mode)
    if path.startswith("/") or "\\" in path or ":" in path:
        return "an absolute path, a drive or a backslash"
    if ".." in parts:
        return "a path that leaves the folder"
    if entry.filename != path or len(path) > MAX_NAME or not all(map(_PART.fullmatch, parts)):
        return f"a name of other characters than letters, digits, '_.+ -', or longer than {MAX_NAME}"
    if parts[0] != name or (len(parts) == 1 and not entry.is_dir()):
        return f"outside of the one top folder {name}/"
    if len(parts) > 1 and parts[1].casefold() in USERS:
        return f"{' and '.join(USERS)} are the user's folders; no archive brings them"
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        return "a link or special file" if kind == stat.S_IFLNK else "a special file"
    if entry.flag_bits & 0x1:
        return "encrypted"
    if entry.compress_type not in _METHODS:
        return f"compression method {entry.compress_type}, only stored and deflated are read"
    return None


def _outside(entry: zipfile.ZipInfo, archive_bytes: int) -> str | None:
    """Data that cannot be where the directory says."""
    if entry.header_offset + entry.compress_size > archive_bytes:
        return "its data lie outside of the archive"
    return None


def _refuse_collisions(entries: Sequence[zipfile.ZipInfo], files: Sequence[zipfile.ZipInfo]) -> None:
    """Two entries of one place, as file systems that ignore letter case see it; a file that is a folder as well."""
    seen: set[str] = set()
    for entry in entries:
        path = entry.filename.removesuffix("/").casefold()
        if path in seen:
            raise ArchiveError(f"entry {entry.filename!r}: a second one of this name. Nothing was unpacked.")
        seen.add(path)
    folders = {str(parent) for entry in entries for parent in PurePosixPath(entry.filename.casefold()).parents}
    for entry in files:
        if entry.filename.casefold() in folders:
            raise ArchiveError(f"entry {entry.filename!r}: a file that other entries lie in. Nothing was unpacked.")


def _copy(source: IO[bytes], written: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Copy one file. ``zipfile`` reads no more than declared, and then compares the CRC; less is for us to see."""
    came = 0
    while chunk := source.read(1 << 20):
        came += written.write(chunk)
    if came != entry.file_size:
        raise ArchiveError(
            f"entry {entry.filename!r}: {came} bytes, {entry.file_size} declared. Nothing of it was kept."
        )
    written.flush()
    os.fsync(written.fileno())
