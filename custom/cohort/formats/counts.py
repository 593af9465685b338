"""The different values of a scan's voxels, found piece by piece: copies of a large volume may not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .streamed import StreamedVoxels

AT_ONCE = 2**20  # voxels of a piece
SAMPLE = 4096  # voxels that tell most images from labels
NEARLY = 1e-3  # of a whole number: it is that number
MOST_VALUES = 256  # of a label, whose classes a byte holds

Counts = dict[float, int]


def pieces(voxels: np.ndarray | StreamedVoxels) -> Iterator[np.ndarray]:
    """All voxels in any order, as many at once as :data:`AT_ONCE`.

    Shape:
        - voxels: any; gives vectors.
    """
    if isinstance(voxels, StreamedVoxels):
        for _, slab in voxels.slabs():
            yield from pieces(slab)
        return
    flat = voxels.ravel(order="K")  # no copy of what lies in one piece
    for start in range(0, flat.size, AT_ONCE):
        yield flat[start : start + AT_ONCE]


def finite(piece: np.ndarray) -> np.ndarray:
    """The values of a vector that are neither NaN nor infinite."""
    return piece if piece.dtype.kind != "f" else piece[np.isfinite(piece)]


def whole(voxels: np.ndarray) -> np.ndarray:
    """A label's voxels as whole numbers, where all are whole up to rounding (1.0000001, or 127 times 1/127) and as few
    as a label has; all others stay as they are. Not for images, whose small values would be lost.

    Shape:
        - voxels: any; returns the same.
    """
    if _rounded(voxels) is None or all(np.array_equal(piece, np.rint(piece)) for piece in pieces(voxels)):
        return voxels
    return np.rint(voxels)


def values_of(voxels: np.ndarray) -> Counts | None:
    """The different finite values, as :func:`whole` has them, and how many voxels have each; None for more than
    :data:`MOST_VALUES`."""
    rounded = _rounded(voxels)
    return _counts(voxels) if rounded is None else rounded


def _rounded(voxels: np.ndarray) -> Counts | None:
    """The counts of real numbers that are all nearly whole; None where they are not, or more than a label has."""
    if voxels.dtype.kind != "f" or not _nearly(_sample(voxels)):
        return None
    return _counts(voxels, nearly=True)


def _counts(voxels: np.ndarray, nearly: bool = False) -> Counts | None:
    if not nearly and len(np.unique(finite(_sample(voxels)))) > MOST_VALUES:
        return None
    found: Counts = {}
    for piece in pieces(voxels):
        if nearly and not _nearly(piece):
            return None
        for value, count in _counted(np.rint(piece) if nearly else finite(piece)):
            found[value] = found.get(value, 0) + count
        if len(found) > MOST_VALUES:
            return None
    return dict(sorted(found.items()))


def _sample(voxels: np.ndarray) -> np.ndarray:
    return voxels.ravel(order="K")[:: max(voxels.size // SAMPLE, 1)]


def _nearly(piece: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # infinite ones
        return bool((np.abs(piece - np.rint(piece)) <= NEARLY).all())  # not of NaN


def _counted(piece: np.ndarray) -> list[tuple[float, int]]:
    """The different values and their counts; without sorting where they are small whole numbers."""
    if not piece.size:
        return []
    low, high = float(piece.min()), float(piece.max())
    if low.is_integer() and high - low < 2**16:
        numbers = piece.astype(np.int64) - int(low)
        if piece.dtype.kind != "f" or np.array_equal(numbers + low, piece):
            counts = np.bincount(numbers)
            present = np.flatnonzero(counts)
            return list(zip((present + low).tolist(), counts[present].tolist(), strict=True))
    values, counts = np.unique(piece, return_counts=True)
    return list(zip(values.astype(float).tolist(), counts.tolist(), strict=True))
