"""One reader for all scans: NIfTI by nibabel, everything else by ITK, each as MONAI reads it.

Named in configs as ``{_target_: LoadImaged, reader: scripts.cohort.reader.ScanReader, ensure_channel_first: true}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple

from .formats.itk_image import image_data, read_image
from .formats.nifti import is_nifti, read_nifti
from .formats.opened import ScanFault, whole
from .formats.plane import STORED, turn


class ScanReader(ImageReader):
    """Reads a file, the folder of a DICOM series, or several of one kind that become the channels of one image.

    Pictures (PNG, JPEG) have voxels of size 1: a resolution that is meant for printing (dpi) is no size, and an image
    would lie apart from its label. A folder with several series is refused, where MONAI's reader takes the first. All other
    scans of two axes are turned as pictures lie, :mod:`.formats.plane`; ``stored_affine`` in the metadata is their file's.

    Args:
        fill_nonfinite: a NaN or infinite voxel becomes the darkest finite one of its file; else it stays what it is.

    Raises:
        ScanFault: of :meth:`get_data`: a file that cannot be read; NIfTI and another kind in one list.
    """

    def __init__(self, fill_nonfinite: bool = False) -> None:
        self.fill_nonfinite = fill_nonfinite

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """The paths alone: after a reader that fails here, ``LoadImage`` tries all others it knows, and one of them
        may read the file in another way."""
        return tuple(Path(path) for path in ensure_tuple(data))

    def get_data(self, img: Sequence[Path]) -> tuple[np.ndarray, dict]:
        """Voxels and metadata, as MONAI's readers give them; a label's values that are whole but for rounding are whole."""
        kinds = {is_nifti(path) for path in img}
        if len(kinds) > 1:
            raise ScanFault(
                f"{' and '.join(path.name for path in img)} are NIfTI and another kind; save all as one kind."
            )
        if kinds == {True}:
            voxels, meta = self._nifti(img)
        else:
            voxels, meta = image_data(*(read_image(path) for path in img))
        stacked = len(img) > 1 and meta["original_channel_dim"] == 0
        # file by file, as the check does: what is a class in one may be large beside all values of another
        voxels = np.stack([self._values(file) for file in voxels]) if stacked else self._values(voxels)
        return _laid(voxels, meta) if len(meta["spatial_shape"]) == 2 else (voxels, meta)

    def _values(self, voxels: np.ndarray) -> np.ndarray:
        return whole(filled(voxels) if self.fill_nonfinite else voxels)

    @staticmethod
    def _nifti(paths: Sequence[Path]) -> tuple[np.ndarray, dict]:
        from monai.data import NibabelReader

        reader = NibabelReader()  # one a call: it remembers the paths, and scans are read in threads
        reader.filenames = [str(path) for path in paths]  # its own read knows neither units nor rounded quaternions
        try:
            return reader.get_data([read_nifti(path) for path in paths])
        except ScanFault:
            raise
        except OSError as error:
            raise ScanFault(
                f"{', '.join(path.name for path in paths)} cannot be read: {error.strerror or error}"
            ) from error
        except Exception as error:  # nibabel's own, zlib's
            raise ScanFault(f"{', '.join(path.name for path in paths)} cannot be read: {error}") from error


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
