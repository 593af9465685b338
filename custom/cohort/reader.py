"""One reader for all scans: NIfTI by nibabel, everything else by ITK, each as MONAI reads it.

Named in configs as ``{_target_: LoadImaged, reader: scripts.cohort.reader.ScanReader, ensure_channel_first: true}``,
for labels with ``whole: true``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.data.utils import to_affine_nd
from monai.utils import ensure_tuple

from .formats.counts import whole
from .formats.itk_image import image_data, read_image
from .formats.nifti import is_nifti, read_nifti
from .formats.opened import ScanFault, by
from .formats.plane import STORED, turn
from .formats.streamed import StreamedVoxels
from .grids import one_place


class ScanReader(ImageReader):
    """Reads a file, the folder of a DICOM series, or several, of any kinds, that become the channels of one image.

    Pictures (PNG, JPEG) have voxels of size 1: a resolution meant for printing (dpi) is not a size, and an image
    would lie apart from its label. A folder with several series is refused, where MONAI's reader takes the first. All other
    scans of two axes are turned as pictures lie, :mod:`.formats.plane`; ``stored_affine`` in the metadata is their file's.

    Args:
        fill_nonfinite: a NaN or infinite voxel becomes the darkest finite one of its file; else it stays what it is.
        whole: for labels: values that are whole up to rounding become so, :func:`.formats.counts.whole`. Never for
            images, whose small values would be lost.

    Raises:
        ScanFault: of :meth:`get_data`: a file that cannot be read; several that do not lie on one grid.
    """

    def __init__(self, fill_nonfinite: bool = False, whole: bool = False) -> None:
        self.fill_nonfinite = fill_nonfinite
        self.whole = whole

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """The paths alone: after a reader that fails here, ``LoadImage`` tries all others it knows, and one of them
        may read the file in another way."""
        return tuple(Path(path) for path in ensure_tuple(data))

    def get_data(self, img: Sequence[Path]) -> tuple[np.ndarray, dict]:
        """Voxels and metadata, as MONAI's readers give them."""
        voxels, meta = _channels(img, [self._read(path) for path in img])
        return _laid(voxels, meta) if len(meta["spatial_shape"]) == 2 else (voxels, meta)

    def _read(self, path: Path) -> tuple[np.ndarray, dict]:
        """One file, as its values are used."""
        voxels, meta = _nifti(path) if is_nifti(path) else image_data(read_image(path))
        voxels = filled(voxels) if self.fill_nonfinite else voxels
        return (whole(voxels) if self.whole else voxels), meta


class HeaderReader(ScanReader):
    """Reads what :class:`ScanReader` reads of NIfTI volumes, except the voxels: an image without a channel."""

    def _read(self, path: Path) -> tuple[np.ndarray, dict]:
        return _nifti(path, voxels=False)


def streamed(path: Path) -> list[StreamedVoxels]:
    """The channels of a NIfTI volume, to be read in slabs as :class:`ScanReader` reads them at once.

    Raises:
        ScanFault: it cannot be read.
    """
    with as_scan_fault(path):
        file = read_nifti(path, stays_open=True).dataobj
        return [StreamedVoxels(file, channel) for channel in range(file.shape[3] if len(file.shape) > 3 else 1)]


def _nifti(path: Path, voxels: bool = True) -> tuple[np.ndarray, dict]:
    from monai.data import NibabelReader

    reader = NibabelReader()  # one a call: it remembers the path, and scans are read in threads
    reader.filenames = [str(path)]  # its own read knows neither units nor rounded quaternions
    if not voxels:
        reader._get_array_data = lambda image, _: np.empty((*image.shape[:3], 0))  # type: ignore[method-assign]
    with as_scan_fault(path):
        return reader.get_data(read_nifti(path))


@contextlib.contextmanager
def as_scan_fault(path: Path) -> Iterator[None]:
    """What nibabel and zlib raise becomes a ScanFault: the file cannot be read."""
    try:
        yield
    except (ScanFault, MemoryError):
        raise
    except OSError as error:
        raise ScanFault(f"{path.name} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # nibabel's own, zlib's
        raise ScanFault(f"{path.name} cannot be read: {error}") from error


def _channels(paths: Sequence[Path], files: Sequence[tuple[np.ndarray, dict]]) -> tuple[np.ndarray, dict]:
    """Several files as the channels of one image, which has the place of the first. MONAI's own readers compare affines
    more narrowly than headers are rounded, and do not put a file with a fourth axis of length 1 beside one without."""
    (first, meta), *others = files
    if not others:
        return first, meta
    affine, shape = to_affine_nd(3, np.asarray(meta["affine"])), tuple(int(length) for length in meta["spatial_shape"])
    for path, (_, other) in zip(paths[1:], others, strict=True):
        size = tuple(int(length) for length in other["spatial_shape"])
        if size != shape or not one_place(to_affine_nd(3, np.asarray(other["affine"])), affine, len(shape)):
            raise ScanFault(
                f"{path.name} ({by(size)} voxels) is not on the grid of {paths[0].name} ({by(shape)} voxels): resample it there."
            )
    channels = [np.moveaxis(v, -1, 0) if m["original_channel_dim"] == -1 else v[None] for v, m in files]
    return np.concatenate(channels), {**meta, "original_channel_dim": 0}


def _laid(voxels: np.ndarray, meta: dict) -> tuple[np.ndarray, dict]:
    """A scan of two axes, or several as channels, as pictures lie."""
    stored, shape = np.asarray(meta["affine"]), tuple(int(length) for length in meta["spatial_shape"])
    found = turn(stored)
    affine = found.affine(stored, shape)
    shape = shape[::-1] if found.swaps else shape
    turned = found.voxels(voxels, first=int(meta["original_channel_dim"] == 0))
    return turned, {**meta, "affine": affine, "original_affine": affine.copy(), "spatial_shape": np.asarray(shape),
                    STORED: stored}  # fmt: skip


def filled(voxels: np.ndarray) -> np.ndarray:
    """Replace NaN and infinite values by the smallest finite one, by 0 where none is finite."""
    known = np.isfinite(voxels)
    if known.all():
        return voxels
    return np.where(known, voxels, voxels[known].min() if known.any() else 0).astype(voxels.dtype)
