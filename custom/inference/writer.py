"""Predictions come back on the grid of the image that they were made for.

Written with it by :mod:`.saving`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from monai.data.image_writer import ImageWriter
from monai.data.utils import to_affine_nd
from monai.utils import convert_to_numpy
from PIL import Image

from ..cohort.formats.exif import as_stored, exif_of, exif_orientation
from ..cohort.formats.itk_image import is_picture
from ..cohort.formats.nifti import is_nifti, own_header
from ..cohort.formats.opened import by
from ..cohort.formats.plane import STORED, turn
from ..cohort.label_formats import OF_FILES, OF_PICTURES, no_format_fits, smallest
from ..cohort.names import SUFFIXES, stem
from ..cohort.words import span, value_list
from ..errors import UserError
from ..files import write_atomically

# What places voxels in space; not the descriptions of a header, nor the range of grey that it asks to be shown.
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
TOLERANCE_MM = 1e-3
AT_ONCE = 2**20  # voxels that are converted at once
REMEDY = "put Invertd before SaveImaged"


class GridError(UserError, ValueError):
    """A prediction does not lie on the grid of its image."""


class ValuesError(UserError, ValueError):
    """A prediction has values that no class has, or that its file cannot hold."""


class GridWriter(ImageWriter):
    """Writes a label map as NIfTI, or a picture's as grey PNG, with the values as they are.

    The form is the image's: a name that ends in ``.png`` is for pictures, and is changed to ``.nii.gz`` for an image of two
    axes from any other format, since a PNG holds neither the size of pixels nor their place.

    For an image from a NIfTI file the geometry is copied from that file's header, both of its transforms with their
    codes, so that any viewer lays one on the other even where the header contradicts itself. For other formats it is
    the affine as read, in mm. Nothing is resampled. A scan of two axes that was turned when it was read is turned back;
    so is a picture, and its PNG says in EXIF what the picture's file says: on the file's own pixels, and upright to viewers.

    All files of a task have one number format, the smallest that holds its values: uint8, int16, uint16 or int32. A PNG is
    uint8 or uint16. A file is whole or not there.

    Args:
        label_values: of the task's classes. What MONAI's ``SaveImage`` says of a number format is not heeded: of one that
            PNG lacks it makes uint8, whatever the values.
        written: is called with the path and the SHA-256 of each file just before it takes its name.

    Shape:
        - data: ``(1, *spatial)``, or ``(*spatial)`` where ``channel_dim`` is None; the image's ``spatial``.

    Raises:
        GridError: the shape or the affine is not the image's; more than one channel.
        ValuesError: a value that is not one of ``label_values``; no format holds them all.
        FileError: the file cannot be written; an earlier one stays.
    """

    def __init__(
        self, label_values: Sequence[int] = range(256), written: Callable[[Path, str], None] | None = None, **_: Any
    ) -> None:
        super().__init__()
        self.label_values, self.written = list(label_values), written
        self.meta: Mapping[str, Any] = {}

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **_: Any) -> None:
        voxels = convert_to_numpy(data_array)
        if channel_dim is not None:
            if voxels.shape[channel_dim] != 1:
                raise GridError(
                    f"a prediction has one channel, found {by(voxels.shape)}; put AsDiscreted before SaveImaged"
                )
            voxels = voxels.squeeze(channel_dim)
        self.data_obj = voxels

    def set_metadata(self, meta_dict: Mapping | None, **_: Any) -> None:
        self.meta = meta_dict or {}

    def write(self, filename: Any, verbose: bool = False, **_: Any) -> None:
        super().write(filename, verbose=verbose)
        source = Path(str(self.meta.get("filename_or_obj", "")))
        self._judge(source.name)
        path = named(filename, source)
        picture = path.suffix.lower() == ".png"
        self.data_obj = self._whole(np.asarray(self.data_obj), source.name, OF_PICTURES if picture else OF_FILES)
        self._turn_back()
        save = self._picture(source) if picture else self._nifti(path, source)
        write_atomically(path, lambda file: self._stream(path, file, save))

    def _stream(self, path: Path, file: BinaryIO, save: Callable[[BinaryIO], Any]) -> None:
        digested = _Digested(file)
        save(digested)  # type: ignore[arg-type] # both write bytes in order alone
        if self.written:
            self.written(path, digested.sha256.hexdigest())

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

    def _whole(self, values: np.ndarray, name: str, kinds: Sequence[type[np.integer]]) -> np.ndarray:
        """The values in the task's number format."""
        if (kind := smallest(self.label_values, kinds)) is None:
            raise ValuesError(f"a prediction for {name}: {no_format_fits(self.label_values, kinds)}")
        found, unknown = np.empty(values.shape, kind), set[float]()
        rows = max(AT_ONCE * len(values) // max(values.size, 1), 1)
        for start in range(0, len(values), rows):  # whole copies of a large volume would take more than its network
            part = values[start : start + rows]
            whole = part.astype(np.int32)
            known = np.isin(whole, self.label_values) & (whole == part)
            unknown.update(np.unique(part[~known]).tolist() if not known.all() else ())
            found[start : start + rows] = whole
        if unknown:
            raise ValuesError(
                f"a prediction for {name} with the values {{{value_list(sorted(unknown))}}}, the task names "
                f"{span(self.label_values)}; put AsDiscreted and MapLabelValued before SaveImaged"
            )
        return found

    def _turn_back(self) -> None:
        """Bring the data into the order of voxels of the image's file, where that has two axes."""
        if self.data_obj.ndim == 2 and STORED in self.meta:
            stored = np.asarray(convert_to_numpy(self.meta[STORED]))
            self.data_obj = turn(stored).back(np.asarray(self.data_obj))
            self.meta = {**self.meta, "affine": stored}

    def _nifti(self, path: Path, source: Path) -> Callable[[BinaryIO], Any]:
        import nibabel

        if is_nifti(source):
            header = own_header(source)
            image = (nibabel.Nifti2Image if header["sizeof_hdr"] == 540 else nibabel.Nifti1Image)(self.data_obj, None)
            for field in GEOMETRY:
                image.header[field] = header[field]
        else:
            affine = to_affine_nd(3, convert_to_numpy(self.meta.get("affine", np.eye(4))))
            image = nibabel.Nifti1Image(self.data_obj, affine)
            image.set_sform(affine, code="scanner")
            # of a CT whose gantry was tilted: a qform holds no shear, and would be a second answer
            image.set_qform(*((None, "unknown") if _sheared(affine) else (affine, "scanner")))
            image.header.set_xyzt_units("mm")
        if path.suffix != ".gz":
            return lambda file: image.to_stream(file)  # type: ignore[arg-type] # writes, and asks where it is

        def packed(
            file: BinaryIO,
        ) -> None:  # as nibabel.save does, except for the time: the same voxels are the same bytes
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
                image.to_stream(stream)

        return packed

    def _picture(self, source: Path) -> Callable[[BinaryIO], Any]:
        if self.data_obj.ndim != 2:
            raise GridError(
                f"a picture has two axes, found {by(self.data_obj.shape)} voxels; set output_ext to .nii.gz"
            )
        turn = exif_orientation(source)
        rows = np.ascontiguousarray(as_stored(np.asarray(self.data_obj).T, turn))
        return lambda file: Image.fromarray(rows).save(file, "PNG", exif=exif_of(turn))


class _Digested(io.RawIOBase):
    """Passes on what is written, and digests it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Forward alone, over zeros: as nibabel goes on from a header to the voxels."""
        if whence != io.SEEK_SET or offset < self.tell():
            raise io.UnsupportedOperation("what is digested is written in order")
        self.write(bytes(offset - self.tell()))
        return offset

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self.file.write(data)


def named(filename: str | Path, source: str | Path) -> Path:
    """The path of what is written for an image: ``.png`` becomes ``.nii.gz`` where the image is not a picture."""
    path = Path(filename)
    if path.suffix.lower() == ".png" and not is_picture(source):
        return path.with_name(path.name[: -len(".png")] + ".nii.gz")
    return path


def _sheared(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)


def case_name(meta: Mapping[str, Any] | None, _: Any = None) -> dict[str, Any]:
    """Name the written file: the image's name without its suffix. MONAI's own takes what follows the last dot of a folder's
    name for a suffix, so that the series 1.2.3 and 1.2.4 would overwrite each other's prediction."""
    name = Path(str((meta or {}).get("filename_or_obj", "image"))).name
    return {"subject": (stem(name) if name.lower().endswith(SUFFIXES) else name) + ".nii.gz", "idx": None}
