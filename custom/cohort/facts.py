"""What a scan's file holds, found by reading it once to its end; and a record, so that an unchanged file is not read
again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import FileError, write_text
from ..pace import shown
from .formats import TURNED, ScanFault, files_of, load_libraries, open_scan
from .formats.opened import MOST_VALUES, whole

__all__ = ["Facts", "Record", "ScanFault", "read"]

Vector = tuple[float, ...]

PERCENTILES = (0.5, 50.0, 99.5)
SAMPLE = 2**18  # voxels that percentiles are taken of
VERSION = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What one file (or one folder of a DICOM series) holds.

    Args:
        sha256: of the bytes; of a series, over its files in the order of their names.
        voxels: SHA-256 of shape and values as float32: equal for a copy that was renamed or compressed anew.
        shape: D voxels, D = 2 or 3.
        channels: of the file: 3 for colour; the length of a fourth axis of a NIfTI file.
        spacing_mm: D sizes of a voxel, mm, as readers use them.
        affine: 4 x 4, voxel index to RAS, mm, row by row, as readers use it.
        dtype: of the file, numpy's name.
        low, high: of the finite voxels; NaN where there is none.
        percentiles: 0.5, 50 and 99.5 % of the finite voxels, a triple a channel.
        nonfinite: how many voxels are NaN or infinite.
        values: the different finite values and their counts, in order, where there are at most 256; else None. As a label has
            them, :func:`.formats.opened.whole`; nothing else here is rounded.
        warnings: what is odd but can be read, a sentence each; what stands before its first colon names the kind.
        unused: of a NIfTI file whose sform and qform differ, name and affine of the one that readers do not use.
        stored: of a scan of two axes, where they run to in the file, ``RA``; all else is of the picture that is read.
    """

    sha256: str
    voxels: str
    shape: tuple[int, ...]
    channels: int
    spacing_mm: Vector
    affine: tuple[Vector, ...]
    dtype: str
    low: float
    high: float
    percentiles: tuple[Vector, ...]
    nonfinite: int
    values: tuple[tuple[float, int], ...] | None
    warnings: tuple[str, ...] = ()
    unused: tuple[str, tuple[Vector, ...]] | None = None
    stored: str = ""

    @property
    def turned(self) -> bool:
        """Whether it is a picture that is not read in the order of its pixels."""
        return any(text.startswith(f"{TURNED}:") for text in self.warnings)


def read(path: str | Path, max_voxels: int = 2**31) -> Facts:
    """Read a file to its end.

    Raises:
        ScanFault: it is missing, truncated, damaged, of zero size, larger than ``max_voxels``, or its affine is
            singular or not finite.
    """
    scan = open_scan(Path(path), max_voxels)
    voxels = np.moveaxis(scan.voxels, -1, 0) if scan.channels_last else scan.voxels[None]  # (C, *spatial)
    finite, nonfinite = _finite(voxels)
    return Facts(
        sha256=scan.sha256,
        voxels=_digest(voxels),
        shape=tuple(scan.shape),
        channels=len(voxels),
        spacing_mm=scan.spacing_mm,
        affine=_rows(scan.affine),
        dtype=scan.dtype,
        low=float(finite.min()) if finite.size else math.nan,
        high=float(finite.max()) if finite.size else math.nan,
        percentiles=tuple(_percentiles(channel) for channel in voxels),
        nonfinite=nonfinite,
        values=_values(_finite(whole(voxels))[0]),
        warnings=tuple(scan.warnings),
        unused=(scan.unused[0], _rows(scan.unused[1])) if scan.unused else None,
        stored=scan.stored,
    )


def _rows(affine: np.ndarray) -> tuple[Vector, ...]:
    return tuple(tuple(row) for row in affine.tolist())


def _digest(voxels: np.ndarray) -> str:
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for channel in voxels:
        digest.update(np.ascontiguousarray(channel, dtype="<f4").data)
    return digest.hexdigest()


def _finite(voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """The finite values, in any order, and how many there are not."""
    flat = voxels.ravel(order="K")
    if voxels.dtype.kind != "f":
        return flat, 0
    good = np.isfinite(flat)
    count = flat.size - int(np.count_nonzero(good))
    return (flat[good], count) if count else (flat, 0)


def _percentiles(channel: np.ndarray) -> Vector:
    flat = _finite(channel)[0]
    step = max(flat.size // SAMPLE, 1)
    while math.gcd(step, channel.size) > 1:  # else the sample might run down a few columns alone
        step += 1
    return tuple(np.percentile(flat[::step], PERCENTILES).tolist()) if flat.size else (math.nan,) * len(PERCENTILES)


def _values(finite: np.ndarray) -> tuple[tuple[float, int], ...] | None:
    if not finite.size or len(np.unique(finite[:: max(finite.size // 4096, 1)])) > MOST_VALUES:
        return () if not finite.size else None
    values, counts = _counted(finite)
    return (
        tuple(zip(values.astype(float).tolist(), counts.tolist(), strict=True)) if len(values) <= MOST_VALUES else None
    )


def _counted(finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values and their counts, in order; without sorting where they are small whole numbers."""
    low, high = float(finite.min()), float(finite.max())
    if low.is_integer() and high - low < 2**16:
        numbers = finite.astype(np.int64) - int(low)
        if finite.dtype.kind != "f" or np.array_equal(numbers + low, finite):
            counts = np.bincount(numbers)
            present = np.flatnonzero(counts)
            return present + low, counts[present]
    return np.unique(finite, return_counts=True)


class Record:
    """Facts of files by path, kept in a JSON file; a file that changed is read again.

    A file has changed when its size, its time of writing or its time of change is another: the last cannot be put
    back, so an overwritten file is noticed even where the time of writing was restored. A fault is not recorded.
    A record that cannot be read is made anew; one that cannot be written is said once and stops nothing.

    Args:
        path: of the record; None keeps it in memory alone.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._files: dict[str, dict[str, Any]] = _load(self.path) if self.path else {}
        self._told = False

    def facts(self, paths: Sequence[str], workers: int = 2) -> dict[str, Facts | ScanFault]:
        """Facts, or the fault, of each file; what is not in the record, or changed, is read and then recorded."""
        wanted = list(dict.fromkeys(str(path) for path in paths))
        found: dict[str, Facts | ScanFault] = {path: known for path in wanted if (known := self.known(path))}
        unread = [path for path in wanted if path not in found]
        load_libraries(unread)
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            # taken before reading: a file that is written meanwhile has changed
            signatures = {path: _signature(path) for path in unread}
            results = shown(pool.map(_read_or_fault, map(_key, unread)), "reading scans", len(unread), "scan")
            for path, result in zip(unread, results, strict=True):
                found[path] = result
                if isinstance(result, Facts) and signatures[path]:
                    self._files[_key(path)] = {"signature": signatures[path], "facts": result}
        if any(isinstance(found[path], Facts) for path in unread):
            self._write()
        return {path: found[path] for path in wanted}

    def known(self, path: str) -> Facts | None:
        """The facts of an unchanged file without reading it, if they are recorded."""
        entry = self._files.get(_key(path))
        return entry["facts"] if entry and entry["signature"] == _signature(path) else None

    def _write(self) -> None:
        if self.path is None:
            return
        files = {key: {"signature": e["signature"], "facts": asdict(e["facts"])} for key, e in self._files.items()}
        try:
            write_text(self.path, json.dumps({"version": VERSION, "files": files}))
        except FileError as error:
            if not self._told:
                logger.info("What was read is not recorded, the next check reads every scan again: %s", error)
            self._told = True


def _read_or_fault(path: str) -> Facts | ScanFault:
    try:
        return read(path)
    except ScanFault as fault:
        return fault
    except Exception as error:  # a bug in a reader must not lose what was found in the other files
        first = next(iter(str(error).strip().splitlines()), "")
        return ScanFault(f"{Path(path).name} cannot be read: {type(error).__name__}: {first}")


def _key(path: str) -> str:
    return os.path.abspath(path)


def _signature(path: str) -> str | None:
    """Name, size and times of each of its files, as one digest; None where it is missing."""
    try:
        stats = [(file.name, file.stat()) for file in files_of(Path(path))]
    except OSError:
        return None
    seen = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return {}
        return {
            key: {"signature": entry["signature"], "facts": Facts(**{k: _tuples(v) for k, v in entry["facts"].items()})}
            for key, entry in content["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or not ours
        return {}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
