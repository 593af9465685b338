"""Scans of every format that is read here, each opened once and to its end."""

from __future__ import annotations

from pathlib import Path

from ...placeholders import placeholder
from ..words import plural
from .nifti import open_nifti
from .opened import TURNED, Opened, ScanFault, files_of, judge, lost_files
from .other import open_other

__all__ = ["TURNED", "Opened", "ScanFault", "files_of", "open_scan"]


def open_scan(path: Path, max_voxels: int) -> Opened:
    """Open a file, or the folder of a DICOM series, by its name.

    Raises:
        ScanFault: it is missing, or something lies in its place; it is truncated, damaged, of zero or absurd size; its
            affine cannot be used.
    """
    try:
        _judge_presence(path)
        open_one = open_nifti if path.name.lower().endswith((".nii", ".nii.gz")) else open_other
        scan = open_one(path, max_voxels)
    except OSError as error:
        raise ScanFault(f"{path.name} cannot be read: {error.strerror or error}.") from error
    judge(scan, path.name)
    return scan


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
