"""Arrays that do not fit in memory: in a temporary file without a name, mapped, whose pages the kernel may drop at any time."""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import FileError, size_text

logger = logging.getLogger(__name__)

_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def mapped(shape: Sequence[int], folder: Path, name: str) -> NDArray[np.float32]:
    """Zeros, float32 in the order of C, in a file of ``folder`` that has no name there: its space is free again when the array
    and all views of it are gone, or the process is, however it ends.

    Args:
        shape: none of whose lengths is 0.
        folder: is made where it is not there.
        name: of what it holds, in the log and in the error.

    Raises:
        FileError: the folder cannot be written, or has too little space; nothing is left there.
    """
    needed = math.prod(shape) * np.dtype(np.float32).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise FileError(f"{_fault(name, needed, folder)}: {size_text(free)} free. {REMEDY}")
        logger.info("%s: %s as a temporary file in %s (%s free), for the time that it is segmented.", name,
                    size_text(needed), folder, size_text(free))  # fmt: skip
        with tempfile.TemporaryFile(dir=folder) as file:
            # a page that finds no space when it is written would kill the process
            os.posix_fallocate(file.fileno(), 0, needed)
            pages = mmap.mmap(file.fileno(), needed)
    except OSError as error:
        raise FileError(f"{_fault(name, needed, folder)}: {error.strerror or error}. {REMEDY}") from error
    _maps.add(pages)
    return np.frombuffer(pages, np.float32).reshape(shape)


REMEDY = "Give a cache_dir with more space, or more memory_gb"


def _fault(name: str, needed: float, folder: Path) -> str:
    return f"{name} does not fit in memory and needs {size_text(needed)} for a temporary file in {folder}"


def release_pages() -> None:
    """Give back the memory of all that is mapped so; what was written stays, and comes again when it is read."""
    for pages in list(_maps):
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile; a kernel without it
            pages.madvise(mmap.MADV_DONTNEED)
