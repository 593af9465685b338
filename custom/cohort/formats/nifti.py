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
from typing import Any, BinaryIO

import nibabel
import numpy as np

from .opened import Opened, ScanFault, by, judge_affine, judge_size, judge_type
from .streamed import StreamedVoxels

GZIP = b"\x1f\x8b"
HEADER_BYTES = 544  # of NIfTI-2, with its flag of extensions; NIfTI-1 has 352
PIECE = 2**20
UNITS = {1: ("metre", 1000.0), 3: ("micron", 0.001)}  # of xyzt_units, in mm; all others are, or are taken for, mm
ROUNDING = 1e-3  # of a quaternion of length 1
SAME_MM = 1e-3  # two transforms
SCALED_BYTES = 16  # a voxel: float64 times the slope, and that with the intercept
STREAMED = 2**29  # bytes from which on a volume may be read in slabs, twice or more, instead of once as a whole
HELD = 2**28  # bytes of a slab of it and of what is made of that


class _AsRead:
    """Changes to a header as it is read: a quaternion that rounding made longer than 1 gets length 1, lengths are in
    mm, and axes of one voxel after that of the channels are dropped."""

    @classmethod
    def from_fileobj(cls, *arguments: Any, **options: Any) -> Any:
        header = super().from_fileobj(*arguments, **options)  # type: ignore[misc]
        drop_axes(header)
        shorten_quaternion(header)
        _, size = UNITS.get(int(header["xyzt_units"]) % 8, ("", 1.0))
        for field in ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):
            header[field] = header[field] * size
        header["pixdim"][1:4] *= size
        return header


class _Header1(_AsRead, nibabel.Nifti1Header):
    pass


class _Header2(_AsRead, nibabel.Nifti2Header):
    pass


class _Image1(nibabel.Nifti1Image):
    header_class = _Header1


class _Image2(nibabel.Nifti2Image):
    header_class = _Header2


def read_nifti(path: Path, stays_open: bool = False) -> Any:
    """nibabel's image of a file, with the affine as readers use it: in mm, and by the voxel sizes (pixdim) where they
    contradict it, as MONAI does. Its voxels are read later.

    Args:
        stays_open: for slabs of its voxels, one after the other.

    Raises:
        Exception: of nibabel, of zlib, of the operating system.
    """
    files = {"image": nibabel.FileHolder(str(path))}  # nibabel's own rule of names refuses .Nii.gz
    return _corrected(_kind(_start(path), path.name).from_file_map(files, keep_file_open=stays_open))


def own_header(path: Path) -> Any:
    """The header as it is, in its own unit, except for a quaternion that rounding made too long to be read."""
    header = _header(_start(path), path.name)
    shorten_quaternion(header)
    return header


def _start(path: Path) -> bytes:
    with nibabel.openers.ImageOpener(str(path)) as file:
        return file.read(HEADER_BYTES)


def shorten_quaternion(header: Any) -> None:
    """Scale a quaternion to length 1 where it is longer, as NIfTI's own library does; nibabel refuses it.

    Raises:
        HeaderDataError: it is longer than rounding makes it, and places the voxels.
    """
    fields = ("quatern_b", "quatern_c", "quatern_d")
    quaternion = np.array([float(header[field]) for field in fields])
    length = float(np.linalg.norm(quaternion))
    if not length > 1:
        return
    if length > 1 + ROUNDING and header["qform_code"] > 0 and header["sform_code"] <= 0:
        raise nibabel.spatialimages.HeaderDataError(f"its quaternion has the length {length:.4g}, expected at most 1")
    for field, value in zip(fields, quaternion / length, strict=True):
        header[field] = value


def drop_axes(header: Any) -> None:
    """Forget axes of length 1 after the fourth: a scan with axes of time and of vectors, of one each, is one volume."""
    axes = int(header["dim"][0])
    while 4 < axes <= 7 and header["dim"][axes] == 1:
        axes -= 1
    header["dim"][0] = axes


def _corrected(image: Any) -> Any:
    """The image, placed by its voxel sizes where its affine contradicts them, as MONAI does. MONAI's own rule compares
    as many columns as the file has axes, and the fourth holds the origin: with an axis of channels a volume would be
    read otherwise than without."""
    axes = int(image.header["dim"][0])
    if axes > 4:  # as MONAI
        return image
    sizes = np.asarray(image.header.get_zooms()[:3], dtype=float)

    def fits(affine: np.ndarray) -> bool:
        return np.allclose(np.linalg.norm(affine[:3, : len(sizes)], axis=0), sizes)

    if not fits(image.affine) and fits(image.get_qform()):
        image.set_sform(image.get_qform())
    return image


def is_nifti(path: Path) -> bool:
    """Whether nibabel reads it, by its name; ITK reads the rest."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path, max_voxels: int, streamed: bool = False, room: float = math.inf) -> Opened:
    """Read a .nii or .nii.gz file.

    Args:
        streamed: of a large volume no voxel is kept, they are read again by :attr:`Opened.streamed`.
        room: bytes that reading may take; a smaller volume counts as large too where it would take more.

    A flipped bit of a .nii.gz is found by its checksum, or unpacks to the same bytes (time and name in the gzip header;
    a run of zeros that is copied from another run of zeros). A .nii has no checksum.

    Raises:
        ScanFault: truncated, damaged, of no or absurd size, an affine that is singular or not finite.
    """
    if streamed and is_streamed(path, room):
        return _open_streamed(path, max_voxels)
    name, raw = path.name, path.read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    packed = _is_packed(raw, name)
    header = _header(_first_bytes(raw, name) if packed else raw[:HEADER_BYTES], name)
    shape = _shape(header)
    judge_size(shape, max_voxels, name)
    end = _end(header, shape, name)
    warnings: list[str] = []
    content = gunzip(raw, end, name) if packed else raw
    del raw
    _judge_length(len(content), end, packed, name, warnings)
    image = _image(content, name)
    affine, unused = _affine(image, len(shape), name, warnings)
    return Opened(
        voxels=np.asanyarray(image.dataobj),
        channels_last=len(shape) > 3,
        affine=affine,
        unused=unused,
        dtype=image.get_data_dtype().name,
        sha256=sha256,
        warnings=warnings,
    )


def is_streamed(path: Path, room: float = math.inf) -> bool:
    """Whether a file holds a volume that is large enough to be read in slabs, or takes more than ``room`` bytes as a whole;
    not of one whose header is wrong."""
    with contextlib.suppress(ScanFault, OSError, EOFError, zlib.error):
        if is_nifti(path) and len(_shape(_header(_start(path), path.name))) in (3, 4):
            return unpacked_bytes(path) >= STREAMED or whole_bytes(path) > room
    return False


def whole_bytes(path: Path) -> float:
    """Memory for a file as it is, beside its :func:`unpacked_bytes`. Raises as that."""
    return path.stat().st_size + unpacked_bytes(path)


def _open_streamed(path: Path, max_voxels: int) -> Opened:
    """What :func:`open_nifti` does, for a file that is never in memory as a whole."""
    name = path.name
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
    with path.open("rb") as file:
        packed = _is_packed(file.read(len(GZIP)), name)
    header = _header(_start(path), name)
    shape = _shape(header)
    judge_size(shape, max_voxels, name)
    end = _end(header, shape, name)
    warnings: list[str] = []
    _judge_length(_unpacked_length(path, end) if packed else path.stat().st_size, end, packed, name, warnings)
    with _header_read(name):
        files = {"image": nibabel.FileHolder(str(path))}
        image = _kind(_start(path), name).from_file_map(files, keep_file_open=True)
    affine, unused = _affine(image, len(shape), name, warnings)
    small = unpacked_bytes(path) < STREAMED
    channels = [StreamedVoxels(image.dataobj, channel, small) for channel in range(shape[3] if len(shape) > 3 else 1)]
    return Opened(
        voxels=np.broadcast_to(np.zeros((), channels[0].dtype), shape),
        channels_last=len(shape) > 3,
        affine=affine,
        unused=unused,
        dtype=image.get_data_dtype().name,
        sha256=digest.hexdigest(),
        warnings=warnings,
        streamed=channels,
    )


def _is_packed(start: bytes, name: str) -> bool:
    packed = name.lower().endswith(".gz")
    if packed != start.startswith(GZIP):
        found, expected = ("compressed", ".nii.gz") if start.startswith(GZIP) else ("not compressed", ".nii")
        raise ScanFault(f"{name} is {found}, which its name denies: damaged, or to be renamed to {expected}.")
    return packed


def _judge_length(length: int, end: int, packed: bool, name: str, warnings: list[str]) -> None:
    if length < end:
        raise ScanFault(f"{name} is truncated: its header promises {end} bytes, it has {length}.")
    if length > end and not packed:
        warnings.append(f"bytes after the voxels: {length - end}")


def unpacked_bytes(path: Path) -> float:
    """Memory for what a file unpacks to, for its voxels beside it, and for real numbers that scaling makes of them.

    Raises:
        ScanFault, OSError: a header that cannot be read.
    """
    header = _header(_start(path), path.name)
    voxels, kind = math.prod(_shape(header)), header.get_data_dtype()
    scaled = header.get_slope_inter() not in ((None, None), (1.0, 0.0))
    return float(voxels * (2 * kind.itemsize + (SCALED_BYTES if scaled else 0)))


def gunzip(raw: bytes, limit: int, name: str) -> bytes:
    """Decompress to the end of the last member, so that every checksum is compared; keep ``limit`` bytes.

    Raises:
        ScanFault: truncated; damaged; more than ``limit`` and a piece, however large that would become.
    """
    kept, size = io.BytesIO(), 0  # whose bytes are handed over without a copy
    for piece in _unpacked(io.BytesIO(raw), limit, name):
        kept.write(piece[: max(limit - size, 0)])
        size += len(piece)
    return kept.getvalue()


def _unpacked_length(path: Path, limit: int) -> int:
    """Bytes that a file unpacks to; of more than ``limit``, that many. Raises as :func:`gunzip`, which keeps them."""
    with path.open("rb") as file:
        return min(sum(map(len, _unpacked(file, limit, path.name))), limit)


def _unpacked(file: BinaryIO, limit: int, name: str) -> Iterator[bytes]:
    size = 0
    with _unpacking(file, name) as stream:
        while piece := stream.read(PIECE):  # of `limit` at once would take that memory before a byte is there
            size += len(piece)
            if size > limit + PIECE:
                raise ScanFault(f"{name} holds more than the {limit} bytes that its header promises: damaged?")
            yield piece


@contextlib.contextmanager
def _unpacking(file: BinaryIO, name: str) -> Iterator[gzip.GzipFile]:
    try:
        with gzip.GzipFile(fileobj=file) as stream:
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
    with _unpacking(io.BytesIO(raw), name) as stream:
        return stream.read(HEADER_BYTES)


def _header(start: bytes, name: str) -> Any:
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        size = kind.template_dtype.itemsize
        if len(start) >= size:
            header = kind(start[:size], check=False)
            if int(header["sizeof_hdr"]) == size and bytes(header["magic"].item()).startswith(b"n+"):
                return header
    if len(start) < nibabel.Nifti1Header.template_dtype.itemsize:
        raise ScanFault(f"{name} is truncated: it ends in its header.")
    raise ScanFault(f"{name} is not a NIfTI file, or is damaged: its header is of no known version.")


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


def _kind(start: bytes, name: str) -> Any:
    return _Image1 if _header(start, name)["sizeof_hdr"] == 348 else _Image2


def _image(content: bytes, name: str) -> Any:
    with _header_read(name):
        return _kind(content[:HEADER_BYTES], name).from_stream(io.BytesIO(content))


@contextlib.contextmanager
def _header_read(name: str) -> Iterator[None]:
    try:
        yield
    except (nibabel.spatialimages.HeaderDataError, nibabel.filebasedimages.ImageFileError, ValueError) as error:
        raise ScanFault(f"{name} has a header that cannot be read: {error}.") from error


def _affine(image: Any, axes: int, name: str, warnings: list[str]) -> tuple[np.ndarray, tuple[str, np.ndarray] | None]:
    """The affine as readers use it, and name and affine of the transform that differs from it and is not used; what is
    odd goes to ``warnings``."""
    axes = min(axes, 3)
    judge_affine(image.affine, axes, name)
    said = np.linalg.norm(image.affine[:3, :axes], axis=0)
    sizes = np.asarray(image.header.get_zooms()[:axes], dtype=float)
    unit, length = UNITS.get(int(image.header["xyzt_units"]) % 8, ("", 1.0))
    if unit:
        warnings.append(
            f"unit {unit}: voxel sizes of {by((sizes / length).tolist())} are read as {by(sizes.tolist())} mm"
        )
    sform, qform = (get(coded=True)[0] for get in (image.get_sform, image.get_qform))
    if sform is None and qform is None:
        warnings.append("NIfTI without orientation: the header has neither sform nor qform and says nothing of its orientation; "
                        f"it is read as {''.join(nibabel.aff2axcodes(image.affine))}")  # fmt: skip
    affine = np.asarray(_corrected(image).affine)
    unused = None
    if sform is not None and qform is not None and not np.allclose(sform, qform, rtol=0, atol=SAME_MM):
        unused = ("qform", qform) if np.array_equal(affine, sform) else ("sform", sform)
    if not np.allclose(said, sizes, atol=1e-3):
        followed = np.allclose(np.linalg.norm(affine[:3, :axes], axis=0), sizes, atol=1e-3)
        warnings.append(
            f"affine and voxel sizes contradict each other: {by(said.tolist())} mm by the affine (sform or qform), "
            f"{by(sizes.tolist())} mm by the voxel sizes (pixdim); the {'voxel sizes are' if followed else 'affine is'} used"
        )
    elif unused:
        warnings.append(f"sform and qform differ: the {'sform' if unused[0] == 'qform' else 'qform'} is used")
    return affine, unused
