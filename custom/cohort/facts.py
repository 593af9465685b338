"""What a scan's file holds, found by reading it once to its end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .formats import TURNED, ScanFault, open_scan
from .formats.counts import AT_ONCE, finite, pieces, values_of
from .formats.streamed import StreamedVoxels

__all__ = ["Facts", "ScanFault", "read"]

Vector = tuple[float, ...]

PERCENTILES = (0.5, 50.0, 99.5)
SAMPLE = 2**18  # voxels that percentiles are taken of


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
        values: of a label, the different finite values and their counts, in order, where there are at most 256; else None. As
            a label has them, :func:`.formats.counts.whole`; nothing else here is rounded.
        warnings: what is odd but can be read, a sentence each; what stands before its first colon names the kind.
        unused: of a NIfTI file whose sform and qform differ, name and affine of the one that readers do not use.
        stored: of a scan of two axes, where they run to in the file, ``RA``; all else is of the picture that is read.
        counted: whether it was read as a label may be; if not, ``values`` is None whatever it holds.
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
    counted: bool = True

    @property
    def turned(self) -> bool:
        """Whether it is a picture that is not read in the order of its pixels."""
        return any(text.startswith(f"{TURNED}:") for text in self.warnings)


def read(path: str | Path, max_voxels: int = 2**31, label: bool = True, room: float = math.inf) -> Facts:
    """Read a file to its end; a large image in slabs, and then more than once.

    Args:
        label: count its different values; of images nobody asks for them.
        room: bytes that reading may take; an image in NIfTI that would take more is read in slabs too.

    Raises:
        ScanFault: it is missing, truncated, damaged, of zero size, larger than ``max_voxels``, or its affine is
            singular or not finite.
    """
    scan = open_scan(Path(path), max_voxels, streamed=not label, room=room)
    voxels = np.moveaxis(scan.voxels, -1, 0) if scan.channels_last else scan.voxels[None]  # (C, *spatial)
    channels = scan.streamed or list(voxels)
    digest, low, high, nonfinite = _digest_and_range(channels, voxels.shape)
    return Facts(
        sha256=scan.sha256,
        voxels=digest,
        shape=tuple(scan.shape),
        channels=len(voxels),
        spacing_mm=scan.spacing_mm,
        affine=_rows(scan.affine),
        dtype=scan.dtype,
        low=low,
        high=high,
        percentiles=tuple(_percentiles(channel) for channel in channels),
        nonfinite=nonfinite,
        values=_values(voxels) if label else None,
        warnings=tuple(scan.warnings),
        unused=(scan.unused[0], _rows(scan.unused[1])) if scan.unused else None,
        stored=scan.stored,
        counted=label,
    )


def _rows(affine: np.ndarray) -> tuple[Vector, ...]:
    return tuple(tuple(row) for row in affine.tolist())


def _digest_and_range(
    channels: Sequence[np.ndarray | StreamedVoxels], shape: tuple[int, ...]
) -> tuple[str, float, float, int]:
    """The digest; the smallest and the largest finite value, NaN where there is none; how many are not finite."""
    digest = hashlib.sha256(repr(shape).encode())
    low, high, nonfinite = math.inf, -math.inf, 0
    for slab in (slab for channel in channels for slab in _slabs(channel)):
        digest.update(np.ascontiguousarray(slab, dtype="<f4").data)
        for piece in pieces(slab):
            good = finite(piece)
            nonfinite += piece.size - good.size
            if good.size:
                low, high = min(low, float(good.min())), max(high, float(good.max()))
    return digest.hexdigest(), *((low, high) if low <= high else (math.nan, math.nan)), nonfinite


def _slabs(channel: np.ndarray | StreamedVoxels) -> Iterator[np.ndarray]:
    """Slabs along the first axis; of a large streamed channel along the last one, in the file's order, the first axis last.

    The digest of an image that fits must stay what it was: by it a study knows the images that its trainings have seen.
    """
    if isinstance(channel, StreamedVoxels):
        yield from channel.rows() if channel.small else (slab.T for _, slab in channel.slabs())
        return
    rows = max(AT_ONCE * len(channel) // max(channel.size, 1), 1)
    yield from (channel[start : start + rows] for start in range(0, len(channel), rows))


def _percentiles(channel: np.ndarray | StreamedVoxels) -> Vector:
    real = channel.dtype.kind == "f"
    count = sum(finite(piece).size for piece in pieces(channel)) if real else channel.size
    step = max(count // SAMPLE, 1)
    while math.gcd(step, channel.size) > 1:  # else the sample might run down a few columns alone
        step += 1
    sample, before = [], 0
    for piece in pieces(channel):
        good = finite(piece)
        sample.append(good[-before % step :: step].copy())  # a view would keep the slab
        before += good.size
    return (
        tuple(np.percentile(np.concatenate(sample), PERCENTILES).tolist()) if count else (math.nan,) * len(PERCENTILES)
    )


def _values(voxels: np.ndarray) -> tuple[tuple[float, int], ...] | None:
    found = values_of(voxels)
    return None if found is None else tuple(found.items())
