"""Images of all formats but NIfTI, as ITK reads them; a folder is one DICOM series, whole and evenly spaced."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from .exif import orientation, upright
from .opened import ScanFault

PICTURES = (".png", ".jpg", ".jpeg")
DICOM_MAGIC = b"DICM"  # at byte 128
UNEVEN = 0.01, 0.25  # of the mean distance of slices: warned of, refused
ITK_PARTS = ("ProcessObject", "ImageFileReader", "GDCMSeriesFileNames", "PyBuffer")  # one of each of its modules

loading = threading.RLock()
"""Held while ITK, or what imports it, is loaded: another thread would find a module without its parts."""


def is_picture(path: str | Path) -> bool:
    """PNG or JPEG, by its name: two axes, and pixels without a size."""
    return Path(path).name.lower().endswith(PICTURES)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its suffix or its first bytes; hidden files (of macOS, beside each file) are none."""
    if not path.is_file() or path.name.startswith("."):
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == ".dcm" or file.read(132)[128:] == DICOM_MAGIC


def read_image(path: Path) -> Any:
    """ITK's image of a file, or of the DICOM series in a folder; a picture turned as its EXIF orientation says.

    Raises:
        ScanFault: ITK cannot read it; a folder that does not hold exactly one series, whole and evenly spaced.
    """
    if not path.exists():
        raise ScanFault(f"{path.name} does not exist ({path.parent}).")
    itk = quiet_itk()
    files = series_files(path) if path.is_dir() else [str(path)]
    try:
        image = itk.imread(files if len(files) > 1 else files[0])
    except RuntimeError as error:
        raise ScanFault(f"{path.name} cannot be read: {str(error).strip().splitlines()[-1]}") from error
    if len(files) > 1:
        _judge_distances(image, files, path.name)
    if is_picture(path):  # a resolution for printing (dpi) is no size: a picture and its label would lie apart
        image.SetSpacing([1.0] * image.GetImageDimension())
        if (turn := orientation(path)) != 1:
            pixels = np.ascontiguousarray(upright(itk.array_view_from_image(image), turn))
            image = itk.image_from_array(pixels, is_vector=pixels.ndim > image.GetImageDimension())
    return image


def _judge_distances(image: Any, files: list[str], name: str) -> None:
    """A missing slice would move all that lie beyond it, by a slice; readers notice neither this nor a film."""
    first, last = (_header(Path(file)) for file in (files[0], files[-1]))
    if all(first.GetOrigin(axis) == last.GetOrigin(axis) for axis in range(3)):
        raise ScanFault(f"{name} has slices that lie at one place: a film, or slices without a position; no volume.")
    if unevenness(image) > UNEVEN[1]:
        raise ScanFault(
            f"{name} has slices at unequal distances (up to {unevenness(image):.0%} off the mean of "
            f"{image.GetSpacing()[2]:.4g} mm): a slice is missing, or several scans are mixed in this folder."
        )


def unevenness(image: Any) -> float:
    """How far the distance of two slices of a series is from the mean one, as a fraction of it."""
    found, key = image.GetMetaDataDictionary(), "ITK_non_uniform_sampling_deviation"
    return float(found[key]) / image.GetSpacing()[2] if found.HasKey(key) else 0.0


def series_files(folder: Path) -> list[str]:
    """The files of a folder's one DICOM series, in the order of their slices.

    Raises:
        ScanFault: none; several, which it lists; a file of it cannot be read, which ITK would leave out silently.
    """
    itk = quiet_itk()
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")  # series date, as MONAI's reader does
    names.SetDirectory(str(folder))
    series = {uid: list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()}
    named = {Path(file).name for files in series.values() for file in files}
    lost = [p.name for p in sorted(folder.iterdir()) if p.name not in named and p.name != "DICOMDIR" and is_dicom(p)]
    if lost:
        raise ScanFault(f"{folder.name} has DICOM files that are truncated or no images: {', '.join(lost[:5])}.")
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
    header = _header(path)
    axes = range(header.GetNumberOfDimensions())
    return [header.GetDimensions(axis) for axis in axes], header.GetImageSizeInBytes()


def _header(path: Path) -> Any:
    itk = quiet_itk()
    header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if header is None:
        raise ScanFault(f"{path.name} is truncated, damaged, or no image.")
    try:
        header.SetFileName(str(path))
        header.ReadImageInformation()
    except RuntimeError as error:
        raise ScanFault(f"{path.name} has a header that cannot be read: damaged?") from error
    return header


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


def image_data(*images: Any) -> tuple[np.ndarray, dict]:
    """Voxels and metadata of ITK's images, as MONAI's reader gives them."""
    with loading:
        from monai.data import ITKReader

    return ITKReader().get_data(list(images))
