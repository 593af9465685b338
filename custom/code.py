"""What code computed something: a digest of source files and of the versions of libraries."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path


@functools.cache
def digest(files: tuple[Path, ...], libraries: tuple[str, ...]) -> str:
    """SHA-256; another one where a file reads otherwise or a library has another version."""
    state = hashlib.sha256()
    for file in sorted(set(files)):
        state.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for library in libraries:
        state.update(f"{library} {_version(library)}\0".encode())
    return state.hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
