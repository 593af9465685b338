"""All formats except NIfTI: what ITK does not look at (checksums, ends of files) is verified here, then ITK reads."""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from pathlib import Path

import numpy as np

from .exif import exif_orientation
from .frames import UNEVEN
from .itk_image import image_data, image_size, is_dicom, is_picture, read_image, remarks_of, unevenness
from .nifti import damage, gunzip
from .opened import TURNED, Opened, ScanFault, by, files_of, judge_size
from .units import text_header, unit_of

PNG = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
ZLIB_OR_GZIP = 47  # zlib's wbits
BODY_SPACES = ("right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps")


def open_other(path: Path, max_voxels: int) -> Opened:
    """Read what ITK can: NRRD, MHA, MHD, PNG, JPEG, a DICOM file, a folder with one DICOM series.

    PNG and compressed NRRD and MHA have checksums, so a flipped bit is found; DICOM, JPEG and uncompressed files
    have none.

    Raises:
        ScanFault: of an unknown kind; truncated, damaged, of no or absurd size; slices at unequal distances; lengths in no
            known unit.
    """
    digest = hashlib.sha256()
    for file in files_of(path):
        digest.update(file.read_bytes())
    if path.is_file():
        _verify(path, max_voxels)
    image = read_image(path)
    array, meta = image_data(image)
    judge_size(array.shape, max_voxels, path.name)  # of a series, only now known
    scan = Opened(
        voxels=array,
        channels_last=meta["original_channel_dim"] == -1,
        affine=_square(np.asarray(meta["affine"])),
        dtype=array.dtype.name,
        sha256=digest.hexdigest(),
    )
    if is_picture(path) and (turn := exif_orientation(path)) != 1:
        scan.warnings.append(
            f"{TURNED}: stored with EXIF orientation {turn}, read upright, as viewers show it; its label must be upright too"
        )
    if bits := _few_bits(path):
        most = 2**bits - 1
        scan.warnings.append(
            f"PNG of {bits} bits: its greys 0 to {most} are read as 0 to 255, {255 // most} times as large; "
            "save a label in 8 bits"
        )
    if (unit := unit_of(path)).mm != 1:
        stored = by([size / unit.mm for size in scan.spacing_mm])
        scan.warnings.append(f"unit {unit.name}: voxel sizes of {stored} are read as {by(scan.spacing_mm)} mm")
    if len(scan.shape) == 3 and (says := _no_orientation(path)):
        kind = "NRRD" if path.suffix.lower() == ".nrrd" else "MetaImage"
        scan.warnings.append(f"{kind} without orientation: the header {says}; it is read as LPS")
    if unevenness(image) > UNEVEN[0]:
        scan.warnings.append(f"slices at unequal distances: up to {unevenness(image):.1%} off the mean")
    scan.warnings += remarks_of(image)
    return scan


def _verify(path: Path, max_voxels: int) -> None:
    """What can be seen without decoding voxels: first the form, then the size, then the length of what is there."""
    name, raw = path.name, path.read_bytes()
    suffix = path.suffix.lower()
    if suffix == ".png":
        _verify_png(raw, name)
    elif is_picture(path):
        _verify_jpeg(raw, name)
    elif suffix == ".nrrd":
        header, voxels = _nrrd(raw, name)
    elif suffix in (".mha", ".mhd"):
        header, voxels = _meta(path, raw, name)
    elif not is_dicom(path):
        raise ScanFault(f"{name} is of no kind that is read here: NIfTI, DICOM, NRRD, MHA, MHD, PNG, JPEG.")
    shape, size = image_size(path)
    judge_size(shape, max_voxels, name)
    if suffix == ".nrrd":
        _verify_nrrd(header, voxels, size, name)
    elif suffix in (".mha", ".mhd"):
        _verify_meta(header, voxels, size, name)


def _verify_png(raw: bytes, name: str) -> None:
    """Compare the checksum of every chunk; Pillow does, except for the last one, which is always the same."""
    from PIL.PngImagePlugin import PngImageFile  # not by Image.open, which has a size limit of its own

    if not raw.startswith(PNG):
        raise ScanFault(f"{name} is not a PNG file, or is damaged: it does not begin like one.")
    if PNG_END not in raw:
        raise ScanFault(f"{name} is truncated: it lacks the end mark of a PNG file.")
    try:
        picture = PngImageFile(io.BytesIO(raw))
        grey, transparent = picture.mode not in ("P", "RGB", "RGBA"), "transparency" in picture.info
        picture.verify()
    except Exception as error:  # Pillow's have no common class: SyntaxError, OSError, ValueError, struct.error
        raise ScanFault(damage(name, error)) from error
    if picture.mode == "LA" or (grey and transparent):
        # ITK 5.4 gives grey and transparency one after the other as if they were grey values
        raise ScanFault(f"{name} is grey with transparency; save it without.")


def _few_bits(path: Path) -> int:
    """2 or 4, of a grey PNG whose values ITK stretches to 8 bits; else 0, also of 1 bit: black and white are 0 and 255."""
    if path.suffix.lower() != ".png":
        return 0
    with path.open("rb") as file:
        bits, colour = file.read(26)[24:]  # of the first chunk, which is always the same
    return bits if bits in (2, 4) and colour == 0 else 0


def _verify_jpeg(raw: bytes, name: str) -> None:
    if not raw.startswith(JPEG):
        raise ScanFault(f"{name} is not a JPEG file, or is damaged: it does not begin like one.")
    if not raw.rstrip(b"\0\r\n ").endswith(JPEG_END) and not _whole_jpeg(raw):  # some cameras pad
        raise ScanFault(f"{name} is truncated: it lacks the end mark of a JPEG file.")


def _whole_jpeg(raw: bytes) -> bool:
    """Whether a picture ends before bytes of another kind, as telephones write them: what stands before an end mark decodes.
    The end mark of a thumbnail in the header is not the picture's."""
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        JpegImageFile(io.BytesIO(raw[: raw.rfind(JPEG_END) + 2])).load()
    except Exception:  # Pillow's have no common class
        return False
    return True


def _no_orientation(path: Path) -> str:
    """What an NRRD or a MetaImage says in place of where its axes run to; empty where it says that, and of other formats."""
    suffix = path.suffix.lower()
    if suffix == ".nrrd":
        found = re.search(r"^space: *(.*?)\r?$", text_header(path), re.MULTILINE | re.IGNORECASE)
        space = found[1].strip().lower() if found else ""
        if space in BODY_SPACES:
            return ""
        if space.endswith("time"):  # a scan in time, whose three axes ITK reads without their space
            return f"names the space {space}, which is not heeded"
        return f"names {f'the space {space}' if space else 'no space'} and says nothing of its orientation"
    if suffix not in (".mha", ".mhd"):
        return ""
    header = text_header(path)
    if re.search(r"^(TransformMatrix|Rotation|Orientation) *=", header, re.MULTILINE):
        return ""
    alone = " (AnatomicalOrientation alone is not heeded)" if "AnatomicalOrientation" in header else ""
    return f"has no TransformMatrix{alone} and says nothing of its orientation"


def _nrrd(raw: bytes, name: str) -> tuple[bytes, bytes]:
    """Header and voxels, which follow the first empty line."""
    if not raw.startswith(b"NRRD"):
        raise ScanFault(f"{name} is not an NRRD file, or is damaged: it does not begin like one.")
    header, *voxels = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)
    if re.search(rb"^data ?file:", header, re.MULTILINE):
        raise ScanFault(f"{name} keeps its voxels in another file; save both in one.")
    if not voxels:
        raise ScanFault(f"{name} is truncated: it ends in its header.")
    return header, voxels[0]


def _verify_nrrd(header: bytes, voxels: bytes, size: int, name: str) -> None:
    encoding = re.search(rb"^encoding: *(\w+)", header, re.MULTILINE)
    if encoding and encoding[1] in (b"gz", b"gzip"):
        _verify_length(len(gunzip(voxels, size, name)), size, name)
    elif encoding and encoding[1] == b"raw":  # of text, ITK finds what is missing
        _verify_length(len(voxels), size, name)


def _meta(path: Path, raw: bytes, name: str) -> tuple[bytes, bytes]:
    """Header and voxels, which follow its last entry, or are in the file that this names."""
    found = re.search(rb"^ElementDataFile *= *(.+?)\r?(?:\n|\Z)", raw, re.MULTILINE)
    if not found:
        raise ScanFault(f"{name} is truncated, or not a MetaImage: it lacks the end of its header.")
    if found[1].strip() == b"LOCAL":
        return raw[: found.start()], raw[found.end() :]
    if len(files_of(path)) < 2:
        raise ScanFault(f"{name} has its voxels in {found[1].decode(errors='replace')}, which is not there.")
    return raw[: found.start()], files_of(path)[1].read_bytes()


def _verify_meta(header: bytes, voxels: bytes, size: int, name: str) -> None:
    if re.search(rb"^CompressedData *= *True", header, re.MULTILINE):
        _verify_length(_inflated(voxels, size, name), size, name)
    elif re.search(rb"^BinaryData *= *True", header, re.MULTILINE):
        _verify_length(len(voxels), size, name)


def _inflated(voxels: bytes, size: int, name: str) -> int:
    """Length of a zlib stream, read to its checksum; at most a little above ``size``."""
    stream = zlib.decompressobj(ZLIB_OR_GZIP)
    try:
        length = len(stream.decompress(voxels, size + 1))
        length += len(stream.decompress(stream.unconsumed_tail, 1))  # the checksum follows
    except zlib.error as error:
        raise ScanFault(damage(name, error)) from error
    return length if stream.eof else min(length, size - 1)


def _verify_length(found: int, size: int, name: str) -> None:
    if found < size:
        raise ScanFault(f"{name} is truncated: its header promises {size} bytes of voxels.")


def _square(affine: np.ndarray) -> np.ndarray:
    """4 x 4, of a 3 x 3 affine of the plane."""
    axes = len(affine) - 1
    whole = np.eye(4)
    whole[:axes, :axes], whole[:axes, 3] = affine[:axes, :axes], affine[:axes, axes]
    return whole
