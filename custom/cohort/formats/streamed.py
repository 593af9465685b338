"""Voxels of a NIfTI file that are read anew, a slab at a time, whenever they are gone through: no copy of all of them exists."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

AT_ONCE = 2**22  # voxels of a slab, if a single plane has not more
ROWS_BYTES = 2**26  # of a slab along the first axis, if a single row has not more


class StreamedVoxels:
    """One channel of a file, with the values that nibabel gives (stored ones, or scaled by the header's slope).

    Args:
        file: nibabel's ``ArrayProxy`` of the file, ``(X, Y, Z)`` or ``(X, Y, Z, C)``; one that keeps its file open, or each slab
            of a compressed one unpacks it from its start.
        channel: where there is a fourth axis.
        small: it is read so for want of memory alone; elsewhere it is read as a whole.
    """

    def __init__(self, file: Any, channel: int = 0, small: bool = False) -> None:
        self.file, self.channel, self.small = file, channel, small
        self.shape: tuple[int, ...] = tuple(file.shape[:3])
        self.size = math.prod(self.shape)
        self.planes = max(AT_ONCE * self.shape[2] // self.size, 1)
        self.dtype: np.dtype = self._slab(0, 1).dtype
        """Of the values."""

    def slabs(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Slabs along the third axis in the order of the file: where each begins, and ``(X, Y, n)``.

        Args:
            first, last: planes, the last one excluded; None: to the end.

        Raises:
            OSError, zlib.error: the file can no longer be read.
        """
        last = self.shape[2] if last is None else last
        for start in range(first, last, self.planes):
            yield start, self._slab(start, min(start + self.planes, last))

    def rows(self) -> Iterator[np.ndarray]:
        """Slabs along the first axis, ``(n, Y, Z)``. The file is read once for each. Raises as :meth:`slabs`."""
        row = math.prod(self.shape[1:])
        count = max(ROWS_BYTES // (row * self.dtype.itemsize), 1)
        for first in range(0, self.shape[0], count):
            found = np.empty((min(count, self.shape[0] - first), *self.shape[1:]), self.dtype)
            for start, slab in self.slabs():
                found[:, :, start : start + slab.shape[2]] = slab[first : first + count]
            yield found

    def _slab(self, start: int, stop: int) -> np.ndarray:
        place = (slice(None), slice(None), slice(start, stop))
        return np.asarray(self.file[(*place, self.channel) if len(self.file.shape) > 3 else place])
