"""The processor's cores: which ones this process may use, and how several processes share them."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

from .cgroups import folders


@dataclass(frozen=True)
class Share:
    """What one of several processes side by side gets.

    Args:
        cores: their numbers, nobody else's; empty: the system deals them out.
        threads: as many as it computes with; the same in all shares, as results may depend on it in the last bits. None: as
            many as the libraries take by themselves.
    """

    cores: tuple[int, ...]
    threads: int | None

    def environment(self) -> dict[str, str]:
        """Variables of the process's environment, in addition to what it inherits."""
        return {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}

    def hold(self, pid: int) -> None:
        """Keep a process that has just been started, and all that it starts, on its cores; one that has ended, or that the
        system does not let be held, is left as it is."""
        if self.cores:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(pid, self.cores)

    def __str__(self) -> str:
        where = f"core{'s' * (len(self.cores) > 1)} {_ranges(self.cores)}" if self.cores else "all cores"
        return where + ("" if self.threads is None else f", {self.threads} thread{'s' * (self.threads != 1)}")


def mine() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on (``taskset``, Slurm)."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def count() -> int:
    """How many cores this process may keep busy: a container's limit counts."""
    return min(len(mine()), _quota())


def shares(processes: int) -> list[Share]:
    """The cores of this process dealt out to that many: neighbouring ones to the same process, as evenly as possible.

    One process gets them all, as it has them. Each of several computes with as many threads as there are cores for each, and
    no more than OMP_NUM_THREADS says. None is held to its cores where the system cannot do that, where there are fewer
    cores than processes, or where a container may use only a part of the time of many cores.

    Raises:
        ValueError: not at least one process.
    """
    if processes < 1:
        raise ValueError(f"expected at least one process, got {processes}")
    if processes == 1:
        return [Share((), None)]
    cores, wanted = mine(), os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, count() // processes)
    if wanted.isdigit():
        threads = max(1, min(threads, int(wanted)))
    held = processes <= len(cores) <= count() and hasattr(os, "sched_setaffinity")
    ends = [len(cores) * k // processes for k in range(processes + 1)]
    return [Share(cores[ends[k] : ends[k + 1]] if held else (), threads) for k in range(processes)]


def _quota() -> int:
    """Whole cores' worth of time that a container or a batch job may use; at least 1."""
    found = [os.cpu_count() or 1]
    for folder in folders("cpu"):
        # microseconds of all cores together, in how many
        for text in (
            _text(folder / "cpu.max"),
            _text(folder / "cpu.cfs_quota_us") + _text(folder / "cpu.cfs_period_us"),
        ):
            limit, period = [*text.split(), "", ""][:2]
            if limit.isdigit() and period.isdigit():  # neither "max" nor -1, which is none
                found.append(max(1, math.ceil(int(limit) / int(period))))
    return min(found)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""


def _ranges(numbers: tuple[int, ...]) -> str:
    """``0-3,6``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
