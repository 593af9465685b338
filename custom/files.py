"""Files that are whole or not there, and paths below a root."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError

LITTER = re.compile(r"\.(.+)\.\d+\.tmp")
REASONS = {
    errno.ENOSPC: "no space on {folder}",
    errno.EDQUOT: "quota used up on {folder}",
    errno.EFBIG: "larger than a file may be (ulimit -f) on {folder}",
}


class FileError(UserError, RuntimeError):
    """A file could not be written."""


def typed(text: str) -> Path:
    """A path of a command line, where a shell leaves the ``~`` of ``--out=~/list.json`` as it is."""
    return Path(text).expanduser()


def under(root: str | Path, path: str | Path) -> Path:
    """``path`` if it is absolute, or in a home folder (``~``: a shell leaves that behind a ``=``), else below ``root``."""
    return (Path(root) / Path(path).expanduser()).resolve()


def located(file: Path) -> Path:
    """Where a file lies, with links followed, as what belongs to it lies around it there; except into the store of
    git-annex, where nothing else is, and to where nothing is."""
    real = file.resolve()
    followed = real.is_file() and not {".git", "annex"} <= set(real.parts)
    return real if followed else file.parent.resolve() / file.name


def write_atomically(
    path: Path, write: Callable[[BinaryIO], Any], *, needed: int | None = None, kept: str = ""
) -> None:
    """Make the file ``path`` whole or not at all; an earlier ``path`` stays until the new one is on the disk.

    Args:
        path: the file to make; its folder exists.
        write: writes the content to the open binary file that it is given.
        needed: size in bytes for the error text, where the caller knows it.
        kept: which other file stays, for the error text.

    Raises:
        FileError: the disk is full, or any other ``OSError``; says why and which earlier file stays.
        Exception: whatever ``write`` raises for another reason. Nothing is left behind in either case.
    """
    path = Path(path)
    try:
        _write_and_rename(path, write)
    except OSError as error:
        raise FileError(_cannot_write(path, error, needed, kept)) from error


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically` of a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def link_or_copy(place: Path, file: Path) -> None:
    """Make ``place``, where nothing is, a link to a file; a copy on a file system that knows no links.

    Raises:
        FileError: the copy cannot be written.
    """
    try:
        place.symlink_to(file.resolve())
    except OSError:
        if os.path.lexists(place):
            raise
        # no hard link, by which a program that writes in place would change the file itself
        with file.open("rb") as content:
            write_atomically(place, lambda out: shutil.copyfileobj(content, out), needed=file.stat().st_size)
        shutil.copystat(file, place)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is none."""
    return sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []


def sweep(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """Remove the temporary files of writers that were killed; returns them. Call it while no other writer is there.

    Args:
        names: of the files that were to be written; None: any.
    """
    found = [(path, match[1]) for path in entries(folder) if (match := LITTER.fullmatch(path.name)) and path.is_file()]
    litter = [path for path, name in found if names is None or name in names]
    for path in litter:
        path.unlink(missing_ok=True)
    return litter


class _RememberingFile(io.BufferedWriter):
    """Keeps the first ``OSError`` of a write: torch's zip writer replaces it with a ``RuntimeError`` of its own."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            raise


def _write_and_rename(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    # no number of a process or thread: containers that share a folder count alike
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().int}.tmp")
    try:
        _write_whole(temporary, write)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise


def _write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    with _RememberingFile(io.FileIO(path, "wb")) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except Exception as error:
            if file.error is not None and file.error is not error:
                raise file.error from error
            raise


def _sync_folder(folder: Path) -> None:
    """Force the renaming itself to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError, needed: int | None, kept: str) -> str:
    number = error.errno or 0
    reason = REASONS.get(number, f"{error.strerror or error} on {{folder}}").format(folder=path.parent)
    sizes = [] if needed is None else [f"needs {size_text(needed)}"]
    with contextlib.suppress(OSError):
        sizes.append(f"{size_text(shutil.disk_usage(path.parent).free)} free")
    room = f" ({', '.join(sizes)})" if sizes else ""
    return f"Cannot write {path.name}: {reason}{room}. {_kept(path, kept)}"


def _kept(path: Path, kept: str) -> str:
    if kept:
        return f"Kept {kept}."
    return f"Kept the earlier {path.name}." if path.exists() else "Nothing was written before."


def size_text(count: float) -> str:
    """``1.5 GB``, ``20 bytes``: of a thousand each."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
