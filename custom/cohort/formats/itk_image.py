"""Images of all formats except NIfTI, as ITK reads them; DICOM is one series or file, whole and evenly spaced."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from .exif import exif_orientation, upright
from .frames import Frame, Stack, frames_of, stacked
from .opened import ScanFault
from .units import unit_of

PICTURES = (".png", ".jpg", ".jpeg")
DICOM_MAGIC = b"DICM"  # at byte 128
UNEVENNESS = "ITK_unevenness"  # a key of an image's metadata; MONAI leaves out those of ITK
REMARKS = "ITK_remarks"
# elements of DICOM, as ITK names them
PHOTOMETRIC, PIXEL_SPACING, DETECTOR_SPACING = "0028|0004", "0028|0030", "0018|1164"
POSITION, DIRECTION = "0020|0032", "0020|0037"
MOST_CHANNELS = 4  # of an image of ITK's Python
ITK_PARTS = (
    "ProcessObject",
    "ImageFileReader",
    "GDCMSeriesFileNames",
    "MetaImageIO",
    "PyBuffer",
)  # one of each of its modules

loading = threading.RLock()
"""Held while ITK, or what imports it, is loaded: another thread would find a module without its parts."""


def is_picture(path: str | Path) -> bool:
    """PNG or JPEG, by its name: two axes, and pixels without a size."""
    return Path(path).name.lower().endswith(PICTURES)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its suffix or first bytes; hidden files (of macOS, beside each) are not."""
    if not path.is_file() or path.name.startswith("."):
        return False
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == DICOM_MAGIC
    except PermissionError:  # named where the folder is opened
        return False


def read_image(path: Path) -> Any:
    """ITK's image of a file, or of the DICOM series in a folder; a picture turned as its EXIF orientation says.

    Frames of DICOM are laid in the order of their places, which the image's grid follows, also where the gantry of a CT
    was tilted: ITK alone would lay each slice straight behind the one before. Lengths of NRRD and MetaImage are in mm, whatever
    the unit in their header.

    Raises:
        ScanFault: ITK cannot read it; a folder that does not hold exactly one series; frames that are not a volume,
            whole and evenly spaced; lengths in no known unit.
    """
    if not path.exists():
        raise ScanFault(f"{path.name} does not exist ({path.parent}).")
    itk = quiet_itk()
    files = series_files(path) if path.is_dir() else [str(_own(path))]
    headers = [_header(Path(file)) for file in files]
    dicom = path.is_dir() or is_dicom(path)
    stack = _stack(files, headers, path.name) if dicom else None
    remarks = _remarks(files, headers) if dicom else []
    if stack and len(files) > 1:
        files = [files[k] for k in stack.order]
    # ITK takes the first file's type of numbers for all; slopes may differ from file to file (PET)
    mixed = len({header.GetComponentType() for header in headers}) > 1
    kind = itk.F if mixed else _stand_in(headers[0], path.name)
    try:
        image = itk.imread(files if len(files) > 1 else files[0], pixel_type=kind, imageio=_io(Path(files[0])))
    except RuntimeError as error:
        raise ScanFault(f"{path.name} cannot be read: {str(error).strip().splitlines()[-1]}") from error
    if stack:
        _lay(image, stack, in_file=len(files) == 1)
    if (size := unit_of(path).mm) != 1:
        image.SetSpacing([length * size for length in image.GetSpacing()])
        image.SetOrigin([place * size for place in image.GetOrigin()])
    if remarks:
        image.GetMetaDataDictionary()[REMARKS] = "\n".join(remarks)
    if is_picture(path):  # a resolution for printing (dpi) is not a size: a picture and its label would lie apart
        image.SetSpacing([1.0] * image.GetImageDimension())
        if (turn := exif_orientation(path)) != 1:
            pixels = np.ascontiguousarray(upright(itk.array_view_from_image(image), turn))
            image = itk.image_from_array(pixels, is_vector=pixels.ndim > image.GetImageDimension())
    return image


def _own(path: Path) -> Path:
    """The file that a link to a .mhd leads to: a .mhd names another file beside it."""
    return path.resolve() if path.suffix.lower() == ".mhd" else path


def _stand_in(header: Any, name: str) -> Any:
    """The type of numbers to read a file as, where ITK's Python has no image of the file's own type. Found out before
    ITK does, whose error text is three thousand characters long and takes imports. None for all other files.

    Raises:
        ScanFault: more numbers a voxel than an image has here.
    """
    itk = quiet_itk()
    pixel, number, count = header.GetPixelType(), header.GetComponentType(), header.GetNumberOfComponents()
    scalars = {"CHAR": itk.SS, "LONG": itk.D, "LONGLONG": itk.D, "LDOUBLE": itk.D}
    if count == 1:
        return next((kind for key, kind in scalars.items() if number == _enum("Component", key)), None)
    colour = pixel in (_enum("Pixel", "RGB"), _enum("Pixel", "RGBA")) and number == _enum("Component", "UCHAR")
    if colour or pixel == _enum("Pixel", "COMPLEX"):  # complex numbers are refused later, as what they are
        return None
    if count > MOST_CHANNELS:
        raise ScanFault(f"{name} has {count} numbers a voxel, expected at most {MOST_CHANNELS}; save each in a file.")
    return itk.Vector[itk.F, count]


def _enum(kind: str, name: str) -> Any:
    return getattr(quiet_itk().CommonEnums, f"IO{kind}_{name}")


def _stack(files: list[str], headers: list[Any], name: str) -> Stack | None:
    """The stack of a DICOM file's frames, or of several files with one each; None for one frame and for other files."""
    counts = [_size(header)[2] if len(_size(header)) > 2 else 1 for header in headers]
    if len(files) == 1:
        several = counts and counts[0] > 1
        return stacked(frames_of(Path(files[0]), _size(headers[0])[:2], counts[0]), name) if several else None
    if max(counts) > 1:
        raise ScanFault(f"{name} holds {len(files)} DICOM files with up to {max(counts)} frames each, expected one "
                        "such file, or files of one frame.")  # fmt: skip
    return stacked([_of_header(header) for header in headers], name)


def _of_header(header: Any) -> Frame:
    """A file's only frame."""
    direction = np.column_stack([header.GetDirection(axis) for axis in range(2)])
    spacing = tuple(header.GetSpacing(axis) for axis in range(2))
    position = np.array([header.GetOrigin(axis) for axis in range(3)])
    channels, photometric = header.GetNumberOfComponents(), _element(header, PHOTOMETRIC)
    return Frame(position, direction, spacing, _size(header)[:2], channels, photometric=photometric)


def _element(header: Any, tag: str) -> str:
    """The text of a DICOM file's element; empty where it has none."""
    found = header.GetMetaDataDictionary()
    return str(found[tag]).strip(" \0") if found.HasKey(tag) else ""


def _remarks(files: list[str], headers: list[Any]) -> list[str]:
    """What there is to say of DICOM files that leave to the reader what they should say; what stands before the first colon
    names the kind."""
    header = headers[0]
    sized = bool(_element(header, PIXEL_SPACING)) or any(header.GetSpacing(axis) != 1 for axis in range(2))
    turned = all(_element(each, DIRECTION) for each in headers)
    placed = len(files) > 1 or bool(_element(header, POSITION))  # a projection has no place in the body
    found = []
    if not (sized and turned) and not _enhanced(Path(files[0]), header):
        if not sized:
            detector = _element(header, DETECTOR_SPACING).replace("\\", "x")
            at = f"ImagerPixelSpacing alone, {detector} mm at the detector" if detector else "no PixelSpacing"
            found.append(f"no size of pixels: the DICOM header has {at}; they are read as 1x1 mm")
        if placed and not turned:
            found.append(
                "DICOM without orientation: a header has no ImageOrientationPatient; slices are read as axial, LPS"
            )
    if _element(header, PHOTOMETRIC) == "MONOCHROME1":
        found.append("MONOCHROME1: low values are bright; the greys are read inverted, bright is high")
    return found


def _enhanced(file: Path, header: Any) -> bool:
    """Whether a DICOM file has frames that say their own size and place."""
    try:
        return bool(frames_of(file, _size(header)[:2], (*_size(header), 1)[2]))
    except ScanFault:
        return False


def _lay(image: Any, stack: Stack, in_file: bool) -> None:
    """Give an image the grid of its frames, and sort those of a file."""
    itk = quiet_itk()
    if in_file and stack.order != sorted(stack.order):
        voxels = itk.array_view_from_image(image)  # (Z, Y, X)
        voxels[:] = voxels[stack.order]
    image.SetOrigin(stack.origin.tolist())
    image.SetSpacing(list(stack.spacing))
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(stack.direction)))
    image.GetMetaDataDictionary()[UNEVENNESS] = repr(stack.unevenness)


def unevenness(image: Any) -> float:
    """How far a step from slice to slice is from the mean one, as a fraction of it; 0 for other formats than DICOM."""
    found = image.GetMetaDataDictionary()
    return float(found[UNEVENNESS]) if found.HasKey(UNEVENNESS) else 0.0


def remarks_of(image: Any) -> list[str]:
    """What a DICOM header leaves to the reader, a sentence each; none for other images."""
    found = image.GetMetaDataDictionary()
    return str(found[REMARKS]).split("\n") if found.HasKey(REMARKS) else []


def series_files(folder: Path) -> list[str]:
    """The files of a folder's one DICOM series.

    Raises:
        ScanFault: none; several, which it lists; a file of it cannot be read, which ITK would leave out silently.
    """
    itk = quiet_itk()
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(False)  # by the series' number alone: how its slices differ is told by their headers
    names.SetDirectory(str(folder))
    series = {uid: list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()}
    named = {Path(file).name for files in series.values() for file in files}
    lost = [p.name for p in sorted(folder.iterdir()) if p.name not in named and p.name != "DICOMDIR" and is_dicom(p)]
    if lost:
        raise ScanFault(
            f"{folder.name} has DICOM files that are truncated or not images: {', '.join(lost[:5])}. Copy them again, or move "
            "what holds no picture (a report, a presentation state) out of the folder."
        )
    if not series:
        raise ScanFault(f"{folder.name} is a folder without a DICOM image.")
    if len(series) > 1:
        found = "; ".join(f"{Path(files[0]).name} and {len(files) - 1} more" for files in series.values())
        raise ScanFault(f"{folder.name} holds {len(series)} DICOM series, expected one a folder: {found}.")
    return next(iter(series.values()))


def image_size(path: Path) -> tuple[list[int], int]:
    """Voxels along each axis and bytes in all, from the header alone.

    Raises:
        ScanFault: ITK cannot read the header.
    """
    header = _header(_own(path))
    return list(_size(header)), header.GetImageSizeInBytes()


def _size(header: Any) -> tuple[int, ...]:
    return tuple(header.GetDimensions(axis) for axis in range(header.GetNumberOfDimensions()))


def _header(path: Path) -> Any:
    itk = quiet_itk()
    header = _io(path) or itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if header is None:
        raise ScanFault(f"{path.name} is truncated, damaged, or not an image.")
    try:
        header.SetFileName(str(path))
        header.ReadImageInformation()
    except RuntimeError as error:
        raise ScanFault(f"{path.name} has a header that cannot be read: damaged?") from error
    return header


def _io(path: Path) -> Any:
    """The reader of a MetaImage that is not written in small letters (P01.MHA), which ITK does not find by itself; else None."""
    suffix = path.suffix
    meta_image = suffix.lower() in (".mha", ".mhd") and suffix != suffix.lower()
    return quiet_itk().MetaImageIO.New() if meta_image else None


def quiet_itk() -> Any:
    """ITK without its C++ warnings on stderr: what they say of a file, the checks here say of the case.

    ITK loads its modules at first use and changes the process's working folder meanwhile; two threads at once would
    leave it changed. All that is used here is therefore loaded by the first thread that comes.
    """
    with loading:
        import itk

        for part in ITK_PARTS:
            getattr(itk, part)
        itk.ProcessObject.SetGlobalWarningDisplay(False)
    return itk


def image_data(image: Any) -> tuple[np.ndarray, dict]:
    """Voxels and metadata of ITK's image, as MONAI's reader gives them."""
    with loading:
        from monai.data import ITKReader

    return ITKReader().get_data(image)
