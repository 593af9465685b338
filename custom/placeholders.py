"""What lies where a file should be: links that lead nowhere, pointers to content that was not fetched, notes of macOS."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

FETCH_ANNEX = "fetch it with `datalad get` (or `git annex get`)"
HERE = "put the file itself there"
ANNEX = re.compile(rb"""[^\n\0{"',]{0,4096}?/annex/objects/""")  # a list that names such paths is not a pointer
# What a file begins with that holds no content of its own, and what it is, with the remedy.
BEGINNINGS = (
    (
        b"version https://git-lfs.github.com/spec/",
        "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    ),
    (b"book\0\0\0\0mark\0\0\0\0", f"is an alias of macOS, not the file; {HERE}"),
    (b"\x00\x05\x16\x07", "holds notes of macOS on another file (AppleDouble), not the file; delete it"),
    (b"<!doctype html", "is a web page, not the file; download the file again, perhaps after a login"),
    (b"<html", "is a web page, not the file; download the file again, perhaps after a login"),
)
ICLOUD = re.compile(
    r"\.(.+)\.icloud"
)  # iCloud's name of p1.nii.gz while that is not on this machine: .p1.nii.gz.icloud


def placeholder(path: str | Path) -> str:
    """What is at ``path`` in place of a file's content, with the remedy, to follow its name; empty where there is nothing to say.

    ``is a link of git-annex whose content is not here; fetch it with `datalad get` (or `git annex get`)``. A path at
    which there is nothing at all is judged by the link in it that leads nowhere. Of a folder nothing is said.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with path.open("rb") as file:
            start = file.read(8192)
    except PermissionError as error:
        return f"cannot be read ({error.strerror}); see its permissions"
    except ValueError:  # a null byte, a lone surrogate: no file system has such a name, whoever opens it says so
        return ""
    except OSError:
        return _nowhere(path)
    if ANNEX.match(start):
        return f"is a pointer of git-annex, not the file; {FETCH_ANNEX}"
    return next((text for mark, text in BEGINNINGS if start.lstrip()[: len(mark)].lower() == mark.lower()), "")


def evicted(name: str) -> str:
    """The file for which iCloud keeps a hidden stand-in of this name; empty where it is not one."""
    found = ICLOUD.fullmatch(name)
    return found[1] if found else ""


def _nowhere(path: Path) -> str:
    """What to say of the first link in a path, the path itself included, that cannot be followed."""
    link = next((p for p in [*reversed(path.parents), path] if os.path.islink(p) and not os.path.exists(p)), None)
    if link is None:
        return ""
    target = os.readlink(link)
    what = "is a link" if link == path else f"is behind the link {link}"
    if "/annex/objects/" in target.replace("\\", "/"):
        return f"{what} of git-annex whose content is not here; {FETCH_ANNEX}"
    try:
        os.stat(link)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"{what} that leads back to itself; {HERE}"
    return f"{what} to {target}, which does not exist; mend the link, or {HERE}"
