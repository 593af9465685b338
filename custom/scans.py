"""What a scan's file holds, found by reading it once to its end; and a record, so that an unchanged file is not read
again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError

Vector = tuple[float, ...]


class ScanFault(UserError, ValueError):
    """A file that cannot be used, in one sentence that begins with the file's name."""


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
        values: the different values and their counts, in order, where there are at most 64; else None.
        warnings: what is odd but can be read, a sentence each.
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


def read(path: str | Path, max_voxels: int = 2**31) -> Facts:
    """Read a file to its end.

    Raises:
        ScanFault: it is missing, truncated, damaged, of zero size, larger than ``max_voxels``, or its affine is
            singular or not finite.
    """
    raise NotImplementedError


class Record:
    """Facts of files by path, kept in a JSON file; a file that changed is read again.

    Args:
        path: of the record; None keeps it in memory alone.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        raise NotImplementedError

    def facts(self, paths: Sequence[str], workers: int = 2) -> dict[str, Facts | ScanFault]:
        """Facts, or the fault, of each file; what is not in the record, or changed, is read and then recorded."""
        raise NotImplementedError

    def known(self, path: str) -> Facts | None:
        """The facts of an unchanged file without reading it, if they are recorded."""
        raise NotImplementedError
