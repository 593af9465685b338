"""NIfTI: the header is judged before a voxel is decompressed, and the gzip stream is read to its checksum."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .itk_image import loading
from .opened import Opened, ScanFault, by, judge_affine, judge_size, judge_type

GZIP = b"\x1f\x8b"
HEADER_BYTES = 544  # of NIfTI-2, with its flag of extensions; NIfTI-1 has 352
PIECE = 2**20


def is_nifti(path: Path) -> bool:
    """Whether nibabel reads it, by its name; ITK reads the rest."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path, max_voxels: int) -> Opened:
    """Read a .nii or .nii.gz file.

    A flipped bit of a .nii.gz is found by its checksum, or unpacks to the same bytes (time and name in the gzip header;
    a run of zeros that is copied from another run of zeros). A .nii has no checksum.

    Raises:
        ScanFault: truncated, damaged, of no or absurd size, an affine that is singular or not finite.
    """
    name, raw = path.name, path.read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    packed = name.lower().endswith(".gz")
    if packed != raw.startswith(GZIP):
        found, expected = ("compressed", ".nii.gz") if raw.startswith(GZIP) else ("not compressed", ".nii")
        raise ScanFault(f"{name} is {found}, which its name denies: damaged, or to be renamed to {expected}.")
    header = _header(_first_bytes(raw, name) if packed else raw[:HEADER_BYTES], name)
    shape = _shape(header)
    judge_size(shape, max_voxels, name)
    end = _end(header, shape, name)
    warnings: list[str] = []
    content = gunzip(raw, end, name) if packed else raw
    del raw
    if len(content) < end:
        raise ScanFault(f"{name} is truncated: its header promises {end} bytes, it has {len(content)}.")
    if len(content) > end and not packed:
        warnings.append(f"bytes after the voxels: {len(content) - end}")
    image = _image(content, name)
    affine = _affine(image, len(shape), name, warnings)
    return Opened(
        voxels=np.asanyarray(image.dataobj),
        channels_last=len(shape) > 3,
        affine=affine,
        dtype=image.get_data_dtype().name,
        sha256=sha256,
        warnings=warnings,
    )


def gunzip(raw: bytes, limit: int, name: str) -> bytes:
    """Decompress to the end of the last member, so that every checksum is compared; keep ``limit`` bytes.

    Raises:
        ScanFault: truncated; damaged; more than ``limit`` and a piece, however large that would become.
    """
    kept, size = [], 0
    with _unpacking(raw, name) as stream:
        while piece := stream.read(PIECE):  # of `limit` at once would take that memory before a byte is there
            kept.append(piece[: max(limit - size, 0)])
            size += len(piece)
            if size > limit + PIECE:
                raise ScanFault(f"{name} holds more than the {limit} bytes that its header promises: damaged?")
    return b"".join(kept)


@contextlib.contextmanager
def _unpacking(raw: bytes, name: str) -> Iterator[gzip.GzipFile]:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            yield stream
    except EOFError as error:
        raise ScanFault(f"{name} is truncated.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ScanFault(damage(name, error)) from error


def damage(name: str, error: Exception) -> str:
    """Say in words what gzip, zlib or Pillow found."""
    reasons = {
        "CRC check": "its checksum does not match",
        "data check": "its checksum does not match",
        "header checksum": "its checksum does not match",
        "length check": "its length does not match",
        "Incorrect length": "its length does not match",
        "Not a gzipped file": "not all of its data is compressed",
    }
    found = next((text for key, text in reasons.items() if key in str(error)), f"it cannot be read ({error})")
    return f"{name} is damaged: {found}."


def _first_bytes(raw: bytes, name: str) -> bytes:
    with _unpacking(raw, name) as stream:
        return stream.read(HEADER_BYTES)


def _header(start: bytes, name: str) -> Any:
    import nibabel

    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        size = kind.template_dtype.itemsize
        if len(start) >= size:
            header = kind(start[:size], check=False)
            if int(header["sizeof_hdr"]) == size and bytes(header["magic"].item()).startswith(b"n+"):
                return header
    if len(start) < nibabel.Nifti1Header.template_dtype.itemsize:
        raise ScanFault(f"{name} is truncated: it ends in its header.")
    raise ScanFault(f"{name} is no NIfTI file, or damaged: its header is of no known version.")


def _shape(header: Any) -> list[int]:
    axes = int(header["dim"][0])
    return [int(length) for length in header["dim"][1 : axes + 1]] if 1 <= axes <= 7 else []


def _end(header: Any, shape: list[int], name: str) -> int:
    """Where the voxels end, in bytes from the start."""
    try:
        kind = header.get_data_dtype()
    except KeyError as error:
        raise ScanFault(
            f"{name} has voxels of a type that is not known ({int(header['datatype'])}): damaged?"
        ) from error
    judge_type(kind, name)
    offset = float(header["vox_offset"])
    if not header.template_dtype.itemsize <= offset < 2**31:
        raise ScanFault(f"{name} says that its voxels begin at byte {offset:g}: its header is damaged.")
    return int(offset) + kind.itemsize * math.prod(shape)


def _image(content: bytes, name: str) -> Any:
    import nibabel

    kind = nibabel.Nifti1Image if _header(content[:HEADER_BYTES], name)["sizeof_hdr"] == 348 else nibabel.Nifti2Image
    try:
        return kind.from_stream(io.BytesIO(content))
    except (nibabel.spatialimages.HeaderDataError, nibabel.filebasedimages.ImageFileError, ValueError) as error:
        raise ScanFault(f"{name} has a header that cannot be read: {error}.") from error


def _affine(image: Any, axes: int, name: str, warnings: list[str]) -> np.ndarray:
    """The affine as MONAI's reader gives it, which follows the voxel sizes (pixdim) where they contradict the affine."""
    with loading:
        from monai.data.utils import correct_nifti_header_if_necessary

    axes = min(axes, 3)
    judge_affine(image.affine, axes, name)
    said = np.linalg.norm(image.affine[:3, :axes], axis=0)
    sizes = np.asarray(image.header.get_zooms()[:axes], dtype=float)
    affine = np.asarray(correct_nifti_header_if_necessary(image).affine)
    if not np.allclose(said, sizes, atol=1e-3):
        followed = np.allclose(np.linalg.norm(affine[:3, :axes], axis=0), sizes, atol=1e-3)
        warnings.append(
            f"affine and voxel sizes contradict each other: {by(said.tolist())} mm by the affine (sform or qform), "
            f"{by(sizes.tolist())} mm by the voxel sizes (pixdim); the {'voxel sizes are' if followed else 'affine is'} used"
        )
    return affine
