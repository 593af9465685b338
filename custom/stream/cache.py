"""Preprocessed scans on disk: a file each, which every run that names the folder shares, read by memory map."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..cohort.intensities import Intensities
from ..errors import UserError
from ..files import LITTER, write_atomically
from .identity import Contents
from .scan import Foreground, Scan

logger = logging.getLogger(__name__)

SUFFIX = ".scan"
MAGIC = b"scan 1"
FIRST = re.compile(MAGIC + rb" (\d{10}) (\d{10}) (\d{10}) (\d{15}) *\n")  # lengths and checksums: header, voxels
FIRST_LINE = 64  # bytes
ALIGNED = 64  # bytes: where an array may begin
KINDS = {"image": np.float16, "label": np.uint8, "rows": np.int32, "positions": np.int32}
NANOSECONDS = 10**9
DAY_S = 86400


class CacheError(UserError, RuntimeError):
    """Preprocessed scans cannot be kept."""


class Damaged(Exception):
    """A file of the cache that is not whole."""


class Cache:
    """Scans by what they are made of: the content of their files and their preprocessing.

    Each is a file that is whole or not there, so that any number of processes may read and write at once; what two of
    them write under one name is the same. All of it may be removed at any time, while runs use it too: what is missing
    or damaged is made anew.

    Args:
        folder: made where it is missing.

    Raises:
        CacheError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"cache_dir {folder}: cannot be made ({error.strerror}). Name another folder") from error
        self._sweep()
        self.contents = Contents(folder / "contents.jsonl")

    def _sweep(self) -> None:
        """Remove what writers left that were killed: others may be writing, but none of them for a day."""
        for path in self.folder.glob("*/.*.tmp"):
            with contextlib.suppress(OSError):
                if LITTER.fullmatch(path.name) and time.time() - path.stat().st_mtime > DAY_S:
                    path.unlink()

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def find(self, key: str, again: Callable[[], Scan], quiet: bool = False) -> OnDisk | None:
        """The scan of that key; None where there is none that is whole.

        Args:
            again: reads the scan anew, if its file should go later.
            quiet: a damaged one is not named, since it was before.
        """
        path = self.path(key)
        try:
            return OnDisk(path, read_header(path), again)
        except FileNotFoundError:
            return None
        except (Damaged, OSError) as error:
            logger.log(logging.DEBUG if quiet else logging.WARNING, "%s %s and is made anew.", path, error)
            return None

    def keep(self, key: str, scan: Scan, again: Callable[[], Scan]) -> OnDisk:
        """Write a scan.

        Raises:
            FileError: it cannot be written.
        """
        path = self.path(key)
        write(path, scan)
        return OnDisk(path, read_header(path), again)


@dataclass
class OnDisk:
    """A :class:`.scan.Kept` case in a file of a cache.

    Its voxels are mapped when they are asked for, and no longer than they are used: a process may hold some 65,000 maps
    at once, and a cohort more scans.
    """

    path: Path
    header: dict[str, Any]
    again: Callable[[], Scan]
    compared: bool = False
    """Whether the checksum of its voxels was compared in this run."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.header["arrays"]["image"][0])

    @functools.cached_property
    def present(self) -> Tensor:
        return torch.tensor(self.header["present"], dtype=torch.bool)

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        return None if self.header["spacing_mm"] is None else tuple(self.header["spacing_mm"])

    @functools.cached_property
    def intensities(self) -> dict[str, Intensities]:
        return {name: Intensities(**known) for name, known in self.header["intensities"].items()}

    @functools.cached_property
    def foreground(self) -> Foreground:
        arrays = self._arrays()
        table: Foreground = [{} for _ in range(self.header["items"])]
        rows = arrays["rows"].tolist()
        parts = arrays["positions"].clone().split([count for _, _, count in rows])
        for (item, kind, _), part in zip(rows, parts, strict=True):
            table[item][kind] = part
        return table

    @property
    def bytes(self) -> int:
        return sum(
            _bytes(name, shape) for name, (shape, _) in self.header["arrays"].items() if name in ("image", "label")
        )

    def voxels(self) -> tuple[Tensor, Tensor | None]:
        arrays = self._arrays()
        return arrays["image"], arrays.get("label")

    def whole(self) -> tuple[Tensor, Tensor | None]:
        arrays = self._arrays(compare=not self.compared)
        self.compared = True
        return arrays["image"], arrays.get("label")

    def soon(self, plane: int, box: Sequence[slice]) -> None:
        """Ask the system for the bytes between the first and the last row of the box, in one piece a channel.

        A map alone fetches a page when it is touched, and little around it: from a disk a patch of 64^3 takes two to three times
        as long, one of 32^3 four times (``benchmarks.disk``).
        """
        if not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(OSError):  # reading it will say what is wrong
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                for name in ("image", "label"):
                    if name in self.header["arrays"]:
                        for start, length in self._spans(name, plane, box):
                            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)

    def _spans(self, name: str, plane: int, box: Sequence[slice]) -> list[tuple[int, int]]:
        """Where in the file what is read of an array lies: starts and lengths in bytes."""
        shape, first = self.header["arrays"][name]
        size, first = np.dtype(KINDS[name]).itemsize, self.header["start"] + first
        if plane >= 0:
            each = math.prod(shape[1:]) * size
            return [(first + plane * each, each)]
        volume, row = (math.prod(shape[axis:]) * size for axis in (-len(box), 1 - len(box)))
        length = (box[0].stop - box[0].start) * row
        channels = math.prod(shape[: -len(box)])
        return [(first + channel * volume + box[0].start * row, length) for channel in range(channels)]

    def digest(self) -> str:
        return str(self.header["digest"])

    def in_memory(self) -> Scan:
        """A copy that needs no file."""
        image, label = self.whole()
        label = None if label is None else label.clone()
        return Scan(image.clone(), label, self.present, self.spacing_mm, self.intensities, self.foreground)

    def _arrays(self, compare: bool = False) -> dict[str, Tensor]:
        try:
            return map_arrays(self.path, self.header, compare)
        except (Damaged, OSError, ValueError) as error:
            logger.warning("%s %s and is made anew.", self.path, "is gone" if isinstance(error, OSError) else error)
        scan = self.again()
        if scan.digest() != self.digest():
            raise CacheError(f"{self.path}: the scan that it held has changed since this run began. Start it again")
        write(self.path, scan)
        return map_arrays(self.path, self.header)


# ---- a file ----------------------------------------------------------------------------------------------------------


def write(path: Path, scan: Scan) -> None:
    """A first line, a header in JSON, and the arrays as they lie in memory.

    Uncompressed, so that a patch is read without what lies around it. Formats of packed chunks give fewer patches a second:
    blosc2 23 to 35 % where files stay in the system's memory, 59 to 79 % where they do not; zarr 3 to 9 % and 12 to 23 %
    (benchmarks/results/disk.md).

    Raises:
        FileError: it cannot be written.
    """
    arrays, end, checksum = _arrays_of(scan), 0, 0
    places: dict[str, list] = {}
    blocks: list[bytes | memoryview] = []
    for name, array in arrays.items():
        places[name] = [list(array.shape), end]
        gap = -array.nbytes % ALIGNED
        blocks += [array.reshape(-1).view(np.uint8).data, bytes(gap)]
        end += array.nbytes + gap
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    header = {
        "arrays": places, "items": len(scan.foreground), "present": scan.present.tolist(), "spacing_mm": scan.spacing_mm,
        "intensities": {name: asdict(known) for name, known in scan.intensities.items()}, "digest": scan.digest(),
    }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNED)
    first = b"%s %010d %010d %010d %015d" % (MAGIC, len(text), zlib.crc32(text), checksum, end)

    def put(file: BinaryIO) -> None:
        file.write(first.ljust(FIRST_LINE - 1) + b"\n" + text)
        for block in blocks:
            file.write(block)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, put, needed=FIRST_LINE + len(text) + end)
    _seal(path, checksum)


def read_header(path: Path) -> dict[str, Any]:
    """What a file says of its arrays, once it is known to be whole.

    Raises:
        Damaged: it is not.
        OSError: it is not there.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        found = FIRST.match(head)
        if not found:
            raise Damaged("begins with something else")
        length, checksum, of_voxels, size = (int(number) for number in found.groups())
        start = FIRST_LINE + length
        head += file.read(max(0, start - len(head)))
        text, stat = head[FIRST_LINE:start], os.fstat(file.fileno())
        if stat.st_size != start + size:
            raise Damaged(f"has {stat.st_size} bytes instead of {start + size}")
        if zlib.crc32(text) != checksum:
            raise Damaged("has another description than was written")
        if stat.st_mtime_ns % NANOSECONDS != of_voxels % NANOSECONDS:
            file.seek(start)
            if _checksum(file) != of_voxels:
                raise Damaged("has other voxels than were written")
            _seal(path, of_voxels)
    place = {"start": start, "size": start + size, "checksum": of_voxels}
    return {**json.loads(text), **place, "written": path.stat().st_mtime_ns}


def map_arrays(path: Path, header: dict[str, Any], compare: bool = False) -> dict[str, Tensor]:
    """The arrays of a file, read when they are used.

    Args:
        compare: the checksum of all of them now: a disk that loses a bit does not change the time of writing.

    Raises:
        Damaged: it is no longer what it was; to read on in a file that has become shorter would end the process.
        OSError: it is not there.
    """
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) != (header["size"], header["written"]):
        now = read_header(path)  # copied, perhaps
        if now["digest"] != header["digest"]:
            raise Damaged("holds another scan")
        header |= {name: now[name] for name in ("written", "checksum")}
    everything = np.memmap(path, np.uint8, "c", header["start"])  # "c": torch warns of memory that cannot be written
    if compare and zlib.crc32(everything.data) != header["checksum"]:
        raise Damaged("has other voxels than were written")
    arrays = {}
    for name, (shape, start) in header["arrays"].items():
        count = _bytes(name, shape)
        arrays[name] = torch.from_numpy(everything[start : start + count].view(KINDS[name]).reshape(shape))
    return arrays


def _arrays_of(scan: Scan) -> dict[str, np.ndarray]:
    found = [(item, kind, where) for item, of in enumerate(scan.foreground) for kind, where in of.items()]
    arrays = {"image": scan.image.cpu().contiguous().numpy()}
    if scan.label is not None:
        arrays["label"] = scan.label.cpu().contiguous().numpy()
    arrays["rows"] = np.array([(item, kind, len(where)) for item, kind, where in found], np.int32).reshape(-1, 3)
    arrays["positions"] = np.concatenate([np.zeros(0, np.int32), *(where.numpy() for _, _, where in found)])
    return arrays


def _bytes(name: str, shape: list[int]) -> int:
    return math.prod(shape) * np.dtype(KINDS[name]).itemsize


def _checksum(file: BinaryIO) -> int:
    checksum = 0
    while block := file.read(2**20):
        checksum = zlib.crc32(block, checksum)
    return checksum


def _seal(path: Path, checksum: int) -> None:
    """Say in the time of writing, below its seconds, what the checksum is: whoever writes to the file later breaks that,
    and only then are its voxels checked, which would mean to read them all."""
    with contextlib.suppress(OSError):  # where times cannot be set they are checked once a process
        stat = path.stat()
        seconds = stat.st_mtime_ns // NANOSECONDS * NANOSECONDS
        os.utime(path, ns=(stat.st_atime_ns, seconds + checksum % NANOSECONDS))
