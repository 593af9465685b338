"""Where the scans of a bank are kept: in memory, or in a folder where they would take too much of it."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .. import distributed
from ..cohort.formats import load_libraries
from ..cohort.words import plural
from ..files import size_text, under
from ..memory import free_memory
from ..pace import shown
from .cache import Cache, CacheError, OnDisk
from .identity import preprocessing
from .preprocessed import Preprocessed, ScanError
from .scan import Kept, Scan

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Storage:
    """Keeps the preprocessed scans of a cohort.

    With a ``cache_dir`` every scan lies there, and only what is not there yet is read and preprocessed; if all of them
    fit, they are then copied to memory. Without one, scans are kept in memory until they have ``memory_share`` of what
    is free; then all of them go to ``output_dir/cache``.

    Args:
        memory_share: of the memory that is free when the first cohort is read, in [0, 1], for all cohorts together; 0 leaves
            all of them on disk.
        cache_dir: a folder that any number of runs may share, absolute or below ``root``; "" for none.
        output_dir: of the run; "" where there is none: without a ``cache_dir`` all scans are kept in memory then.
        root: of the bundle.

    Raises:
        ValueError: ``memory_share`` is outside of [0, 1].
    """

    def __init__(
        self, memory_share: float = 0.6, cache_dir: str = "", output_dir: str = "", root: str | Path = "."
    ) -> None:
        if not 0 <= memory_share <= 1:
            raise ValueError(f"memory_share is a share of the free memory, in [0, 1], got {memory_share}")
        self.memory_share = memory_share
        self.cache_dir = under(root, cache_dir) if cache_dir else None
        self.spill_dir = under(root, output_dir) / "cache" if output_dir else None
        self._left = math.inf  # bytes of the share that earlier cohorts have not taken

    def keep(self, cases: Preprocessed, workers: int = 0) -> tuple[list[Kept], str]:
        """All cases in order, and what the log is to say of their place.

        Args:
            workers: threads that read files; the result does not depend on it.

        Raises:
            ScanError: a case cannot be read.
            CacheError: there is room neither in memory nor on the disk.
        """
        # the processes that torchrun starts have the machine's memory together
        free = free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        room = self._left = min(self._left, self.memory_share * free)
        short = f"more than the {size_text(room)} that are left of {self.memory_share:.0%} of the free memory"
        if self.cache_dir is not None:
            on_disk, written = self._filled(self.cache_dir, cases, workers, {})
            source = f", from {self.cache_dir}" + (f", {written} of them written there now" if written else "")
            if sum(scan.bytes for scan in on_disk) <= room:
                return self._taken([scan.in_memory() for scan in on_disk]), source
            return [*on_disk], f"{source}: {short}"
        if self.spill_dir is None:
            scans, _ = _in_memory(cases, math.inf, workers)
            return self._taken([scans[index] for index in range(len(cases))]), ""
        if any(self.spill_dir.glob("*/*.scan")):  # of this run, before it was killed: nothing is preprocessed twice
            on_disk, _ = self._filled(self.spill_dir, cases, workers, {})
            if sum(scan.bytes for scan in on_disk) <= room:
                return self._taken([scan.in_memory() for scan in on_disk]), f", from {self.spill_dir}"
            return [*on_disk], f" in {self.spill_dir}: {short}"
        scans, fit = _in_memory(cases, room, workers)
        if fit:
            return self._taken([scans[index] for index in range(len(cases))]), ""
        logger.info("%s: %d scans in memory, and those to come, are %s.", cases.name, len(scans), short)
        on_disk, _ = self._filled(self.spill_dir, cases, workers, scans)
        return [*on_disk], f" in {self.spill_dir}: {short}"

    def _taken(self, scans: list[Scan]) -> list[Kept]:
        self._left = max(0.0, self._left - sum(scan.bytes for scan in scans))
        return [*scans]

    def _filled(
        self, folder: Path, cases: Preprocessed, workers: int, scans: dict[int, Scan]
    ) -> tuple[list[OnDisk], int]:
        shared = folder == self.cache_dir
        return _Filling(Cache(folder), cases, workers, shared).run(scans)


def _in_memory(cases: Preprocessed, room: float, workers: int) -> tuple[dict[int, Scan], bool]:
    """The cases by their number, until they have more than ``room`` bytes; and whether all fit."""
    used, lock = 0, threading.Lock()

    def take(index: int) -> Scan | None:
        nonlocal used
        if used > room:
            return None
        scan = cases[index]
        with lock:
            used += scan.bytes
        return scan

    every = range(len(cases))
    scans = {
        index: scan for index, scan in zip(every, _each(take, every, cases, workers), strict=True) if scan is not None
    }
    return scans, used <= room


class _Filling:
    """A cohort on its way to a cache."""

    def __init__(self, cache: Cache, cases: Preprocessed, workers: int, shared: bool) -> None:
        self.cache, self.cases, self.workers, self.shared = cache, cases, workers, shared
        self.settings = preprocessing(cases.transform, keys=cases.keys, slices=cases.slices, channels=cases.channels)

    def run(self, scans: dict[int, Scan]) -> tuple[list[OnDisk], int]:
        """All cases, and how many were not there yet.

        Args:
            scans: those that have been read already.
        """
        keys = list(_each(self._key, range(len(self.cases)), self.cases, self.workers))
        found = {index: scan for index, key in enumerate(keys) if (scan := self.cache.find(key, self._again(index)))}
        # each rank begins elsewhere, and finds what the others have written when it comes there
        first = len(keys) * distributed.rank() // distributed.world_size()
        missing = [index for index in [*range(first, len(keys)), *range(first)] if index not in found]
        if missing:
            scans = scans or {missing[0]: self.cases[missing[0]]}
            self._judge_room(missing, [scan.bytes for scan in scans.values()])

        def fill(index: int) -> OnDisk:
            again = self._again(index)
            there = self.cache.find(keys[index], again, quiet=True)  # another process may have been here
            return there or self.cache.keep(keys[index], (scans.pop(index) if index in scans else again()), again)

        found.update(zip(missing, _each(fill, missing, self.cases, self.workers), strict=True))
        return [found[index] for index in range(len(keys))], len(missing)

    def _again(self, index: int) -> Callable[[], Scan]:
        return lambda: self.cases[index]

    def _key(self, index: int) -> str:
        state = hashlib.sha256(self.settings.encode())
        for part, file in self.cases.files(index):
            state.update(f"{part} {self._content(index, file)}\n".encode())
        return state.hexdigest()

    def _content(self, index: int, file: Path) -> str:
        try:
            return self.cache.contents.of(file)
        except OSError as error:
            name = self.cases.names[index]
            text = f"{self.cases.name} case {name}: cannot use {file}: {error.strerror or error}"
            raise ScanError(text) from error

    def _judge_room(self, missing: Sequence[int], sizes: Sequence[int]) -> None:
        needed, free = sum(sizes) / len(sizes) * len(missing), shutil.disk_usage(self.cache.folder).free
        what = f"{self.cases.name}: {plural(len(missing), 'scan')} for {self.cache.folder}, some {size_text(needed)}"
        if needed > free:
            other = (
                "" if self.shared else " a larger memory_share where they fit into memory,"
            )  # which nothing else fills
            raise CacheError(
                f"{what}, where {size_text(free)} are free. Name another folder as cache_dir,{other} or a coarser spacing_mm"
            )
        logger.info("%s (%s free).", what, size_text(free))


def _each(do: Callable[[int], Result], numbers: Sequence[int], cases: Preprocessed, workers: int) -> Iterator[Result]:
    """The results in order, whatever the number of threads; reports its progress where that takes long."""
    if workers:
        load_libraries(file for number in numbers for _, file in cases.files(number))
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        results = (pool.map if workers else map)(do, numbers)
        yield from shown(results, f"reading {cases.name}", len(numbers), "scan")
