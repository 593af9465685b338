"""How much memory a process may have, on machines and in containers."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
from pathlib import Path

from .cgroups import folders
from .errors import UserError

FILES = (  # of a group: its limit, what is used of it, and where files kept in memory are counted
    ("memory.max", "memory.current", "file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
)
MEMINFO = Path("/proc/meminfo")


class BoundError(UserError, ValueError):
    """A bound of memory that is not one."""


def bound_bytes(memory_gb: float | None) -> float:
    """Bytes of a bound of the whole process in GB (1e9 bytes); infinite without one.

    Raises:
        BoundError: it is not above 0.
    """
    if memory_gb is None:
        return math.inf
    if not memory_gb > 0:
        raise BoundError(f"memory_gb is {memory_gb}: expected GB above 0, or null for all that the machine has.")
    return memory_gb * 1e9


def physical_memory() -> float:
    """Bytes that this process may have: the machine's, or fewer where a container or a batch job is limited; infinite
    where that is not known."""
    try:
        machine: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        machine = math.inf
    return min([machine, *(_number(limit) for limit, _, _ in _groups())])


def free_memory() -> float:
    """Bytes that this process may still take; where that is not known, all of :func:`physical_memory`."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(MEMINFO), re.MULTILINE)
    machine = int(found[1]) * 1024 if found else math.inf
    left = [_number(limit) - _used(used, files) for limit, used, files in _groups()]
    return max(0.0, min([machine, physical_memory(), *left]))


def return_freed_memory() -> None:
    """Undo :func:`.run.process.keep_freed_memory`, and hand back what is free now: where memory is bounded it counts, and
    time less."""
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


def _groups() -> list[tuple[Path, Path, str]]:
    return [(folder / limit, folder / used, files) for folder in folders("memory") for limit, used, files in FILES]


def _used(file: Path, files: str) -> float:
    """Bytes in use, without the files that are kept in memory, which give way."""
    kept = re.search(rf"^{files} (\d+)$", _text(file.with_name("memory.stat")), re.MULTILINE)
    return _number(file, 0.0) - (int(kept[1]) if kept else 0)


def _number(file: Path, otherwise: float = math.inf) -> float:
    """The number in a file, or ``otherwise`` where there is none: no such file, or ``max``."""
    try:
        return float(_text(file).strip().replace("max", "inf"))
    except ValueError:
        return otherwise


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
