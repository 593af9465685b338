"""Scans of every format that is read here, each opened once and to its end."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from pathlib import Path

from ...placeholders import placeholder
from ..words import plural
from .itk_image import image_size, is_dicom, is_picture, quiet_itk
from .nifti import HELD, is_nifti, is_streamed, open_nifti, whole_bytes
from .opened import TURNED, Opened, ScanFault, files_of, judge, lost_files
from .other import open_other
from .plane import turn

__all__ = ["TURNED", "Opened", "ScanFault", "files_of", "held_bytes", "load_libraries", "open_scan"]

COPIES = 4  # of the voxels that ITK reads, together with the file: measured, and a little above


def load_libraries(paths: Iterable[str | Path]) -> None:
    """Import what reading these scans needs; before threads read them, as two that import at once may wait for each other.

    Whatever a reader imports inside a function stands here too.
    """
    kinds = {"nifti" if is_nifti(Path(p)) else "picture" if is_picture(p) else "itk" for p in paths}
    if not kinds:
        return
    importlib.import_module("monai.data")
    if "nifti" in kinds:
        importlib.import_module("nibabel")
    if kinds != {"nifti"}:
        quiet_itk()
    if "picture" in kinds:
        importlib.import_module("PIL.PngImagePlugin")
        importlib.import_module("PIL.JpegImagePlugin")


def held_bytes(path: Path, streamed: bool = False, room: float = math.inf) -> float:
    """Memory that reading a scan takes for a moment, by its header alone; of one whose header is wrong, twice its files.

    Args:
        streamed, room: as of :func:`open_scan`.
    """
    try:
        if streamed and is_streamed(path, room):
            return min(HELD, whole_bytes(path))
        if is_nifti(path):
            return whole_bytes(path)
        files = files_of(path)
        stored = sum(file.stat().st_size for file in files)
        if path.is_file():
            stored = max(stored, image_size(path)[1])
        elif slices := [file for file in files if is_dicom(file)]:  # packed ones take less room in their files
            stored = max(stored, len(slices) * image_size(slices[0])[1])
        return COPIES * stored
    except Exception:  # what is wrong with it is said when it is read
        return 2.0 * _stored_bytes(path)


def _stored_bytes(path: Path) -> int:
    try:
        return sum(file.stat().st_size for file in files_of(path))
    except OSError:
        return 0


def open_scan(path: Path, max_voxels: int, streamed: bool = False, room: float = math.inf) -> Opened:
    """Open a file, or the folder of a DICOM series, by its name; :func:`load_libraries` first, where threads do.

    Args:
        streamed: of a large NIfTI volume no voxel is kept, they are read again by :attr:`Opened.streamed`.
        room: bytes that reading may take; with ``streamed`` a smaller volume that would take more is read as a large one.

    Raises:
        ScanFault: it is missing, or something lies in its place; it is truncated, damaged, of zero or absurd size; its
            affine cannot be used.
    """
    try:
        _judge_presence(path)
        scan = open_nifti(path, max_voxels, streamed, room) if is_nifti(path) else open_other(path, max_voxels)
    except OSError as error:
        raise ScanFault(f"{path.name} cannot be read: {error.strerror or error}.") from error
    judge(scan, path.name)
    if len(scan.shape) == 2:
        _lay(scan)
    return scan


def _lay(scan: Opened) -> None:
    """Turn a scan of two axes to lie as pictures do; the reader does the same."""
    found, shape = turn(scan.affine), scan.shape
    scan.stored = found.stored
    if not found.identity:
        scan.voxels, scan.affine = found.voxels(scan.voxels), found.affine(scan.affine, shape)
        scan.unused = (scan.unused[0], found.affine(scan.unused[1], shape)) if scan.unused else None


def _judge_presence(path: Path) -> None:
    """Raises :class:`ScanFault` where something lies in a scan's place, or in that of a slice, which ITK would leave out."""
    if found := placeholder(path):
        raise ScanFault(f"{path.name} {found}.")
    if not path.exists():
        raise ScanFault(f"{path.name} does not exist ({path.parent}).")
    if path.is_file() and not path.stat().st_size:
        raise ScanFault(
            f"{path.name} is empty: copy it again from its source; a cloud folder must keep it on this machine."
        )
    if path.is_dir() and (lost := lost_files(path)):
        name, found = next(iter(lost.items()))
        raise ScanFault(f"{path.name} lacks {plural(len(lost), 'file')}, the first: {name} {found}.")
