"""How a process is set up before anything is computed: which warnings it shows, and that it keeps its memory."""

from __future__ import annotations

import ctypes
import platform
import warnings


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
