"""Predictions come back on the grid of the image that they were made for.

Named in configs, after ``Invertd``, as ``{_target_: SaveImaged, keys: pred, writer: scripts.inference.writer.GridWriter,
output_name_formatter: {_target_: scripts.inference.writer.case_name, _mode_: callable}, output_dtype: $np.uint8, ...}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_writer import ImageWriter
from monai.data.utils import to_affine_nd
from monai.utils import convert_to_numpy

from ..cohort.formats.itk_image import quiet_itk
from ..cohort.formats.nifti import is_nifti
from ..cohort.formats.opened import by
from ..cohort.names import SUFFIXES, stem
from ..errors import UserError

# What places voxels in space; not the descriptions of a header, nor the range of grey that it asks to be shown.
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
TOLERANCE_MM = 1e-3
REMEDY = "put Invertd before SaveImaged"


class GridError(UserError, ValueError):
    """A prediction does not lie on the grid of its image."""


class GridWriter(ImageWriter):
    """Writes a label map as NIfTI, or a picture's as grey PNG, with the values as they are.

    For an image from a NIfTI file the geometry is copied from that file's header, both of its transforms with their
    codes, so that any viewer lays one on the other even where the header contradicts itself. For other formats it is
    the affine as read, in mm. Nothing is resampled.

    Shape:
        - data: ``(1, *spatial)``, or ``(*spatial)`` where ``channel_dim`` is None; the image's ``spatial``.

    Raises:
        GridError: the shape or the affine is not the image's; more than one channel.
    """

    def __init__(self, output_dtype: Any = np.uint8, **_: Any) -> None:
        super().__init__()
        self.output_dtype = np.dtype(output_dtype or np.uint8)
        self.meta: Mapping[str, Any] = {}

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **_: Any) -> None:
        voxels = convert_to_numpy(data_array)
        if channel_dim is not None:
            if voxels.shape[channel_dim] != 1:
                raise GridError(
                    f"a prediction has one channel, found {by(voxels.shape)}; put AsDiscreted before SaveImaged"
                )
            voxels = voxels.squeeze(channel_dim)
        self.data_obj = voxels.astype(self.output_dtype)

    def set_metadata(self, meta_dict: Mapping | None, **_: Any) -> None:
        self.meta = meta_dict or {}

    def write(self, filename: Any, verbose: bool = False, **_: Any) -> None:
        super().write(filename, verbose=verbose)
        source = Path(str(self.meta.get("filename_or_obj", "")))
        self._judge(source.name)
        if str(filename).lower().endswith(".png"):
            self._write_picture(str(filename))
        else:
            self._write_nifti(str(filename), source)

    def _judge(self, name: str) -> None:
        """The transforms must have been undone: Invertd gives back the shape and the affine that were read."""
        expected = tuple(int(length) for length in self.meta.get("spatial_shape", self.data_obj.shape))
        if self.data_obj.shape != expected:
            raise GridError(
                f"a prediction of {by(self.data_obj.shape)} voxels for {name}, expected {by(expected)}; {REMEDY}"
            )
        now = convert_to_numpy(self.meta.get("affine", np.eye(4)))
        then = convert_to_numpy(self.meta.get("original_affine", now))
        if not np.allclose(to_affine_nd(3, now), to_affine_nd(3, then), rtol=0, atol=TOLERANCE_MM):
            raise GridError(f"a prediction for {name} with another affine than the image's; {REMEDY}")

    def _write_nifti(self, filename: str, source: Path) -> None:
        import nibabel

        if is_nifti(source):
            header: Any = nibabel.load(source).header
            image = (nibabel.Nifti2Image if header["sizeof_hdr"] == 540 else nibabel.Nifti1Image)(self.data_obj, None)
            for field in GEOMETRY:
                image.header[field] = header[field]
        else:
            affine = to_affine_nd(3, convert_to_numpy(self.meta.get("affine", np.eye(4))))
            image = nibabel.Nifti1Image(self.data_obj, affine)
            image.set_sform(affine, code="scanner")
            image.set_qform(affine, code="scanner")
            image.header.set_xyzt_units("mm")
        nibabel.save(image, filename)

    def _write_picture(self, filename: str) -> None:
        if self.data_obj.ndim != 2:
            raise GridError(
                f"a picture has two axes, found {by(self.data_obj.shape)} voxels; set output_ext to .nii.gz"
            )
        itk = quiet_itk()
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(self.data_obj.T)), filename)  # ITK's rows are y


def case_name(meta: Mapping[str, Any] | None, _: Any = None) -> dict[str, Any]:
    """Name the written file: the image's name without its suffix. MONAI's own takes what follows the last dot of a folder's
    name for a suffix, so that the series 1.2.3 and 1.2.4 would overwrite each other's prediction."""
    name = Path(str((meta or {}).get("filename_or_obj", "image"))).name
    return {"subject": (stem(name) if name.lower().endswith(SUFFIXES) else name) + ".nii.gz", "idx": None}
