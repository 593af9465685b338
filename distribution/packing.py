"""Zip archives whose bytes follow from their content alone."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


def write_zip(file: BinaryIO, contents: Mapping[str, bytes]) -> None:
    """Names and contents as a zip: sorted, one date, one mode, stored. Deflated bytes differ between versions of zlib, and
    weights, which are most of a bundle, hardly shrink."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, contents[name])


def folder_contents(folder: Path) -> dict[str, bytes]:
    """All files below ``folder`` by their names below its parent: one top folder."""
    return {
        path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal hash of a file."""
    found = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
