"""Scans of every format that is read here, each opened once and to its end."""

from __future__ import annotations

import re
from pathlib import Path

from .opened import Opened, ScanFault, judge

__all__ = ["Opened", "ScanFault", "files_of", "open_scan"]


def open_scan(path: Path, max_voxels: int) -> Opened:
    """Open a file, or the folder of a DICOM series, by its name.

    Raises:
        ScanFault: it is missing, truncated, damaged, of zero or absurd size; or its affine cannot be used.
    """
    if not path.exists():
        raise ScanFault(f"{path.name} does not exist ({path.parent}).")
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            from .nifti import open_nifti

            scan = open_nifti(path, max_voxels)
        else:
            from .other import open_other

            scan = open_other(path, max_voxels)
    except OSError as error:
        raise ScanFault(f"{path.name} cannot be read: {error.strerror or error}.") from error
    judge(scan, path.name)
    return scan


def files_of(path: Path) -> list[Path]:
    """The files that a scan is made of: those of a folder; a .mhd and its voxels.

    Raises:
        OSError: it is missing.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if path.name.lower().endswith(".mhd"):
        with path.open("rb") as file:
            found = re.search(rb"^ElementDataFile *= *(.+?)\s*$", file.read(2**16), re.MULTILINE)
        voxels = path.parent / (found[1].decode(errors="replace") if found else "")
        return [path, voxels] if voxels.is_file() else [path]
    return [path]
