"""How a process is set up before anything is computed: which warnings it shows, and that it keeps its memory."""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from pathlib import Path


def quiet_known_noise() -> None:
    """Hide warnings of pinned libraries about their own insides, which no user can act on."""
    warnings.filterwarnings("ignore", message=r".*`torch\.cuda\.amp\.GradScaler.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*non-tuple sequence for multidimensional indexing.*")
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.(script|trace|export).*", category=DeprecationWarning)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of handing them back to the kernel, where there is glibc.

    A training step frees and takes the same blocks again; with the default every one of them is mapped and zeroed
    anew, which costs a third of a 2D step on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Undo :func:`keep_freed_memory`, and hand back what is free now: where memory is bounded it counts, and time less."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 65536)
    libc.mallopt(trim_threshold, 2**17)
    libc.malloc_trim(0)


def resident_bytes() -> int:
    """Bytes of memory that this process has at the moment; 0 where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
