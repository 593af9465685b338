"""Scans of every format that is read here, each opened once and to its end."""

from __future__ import annotations

from pathlib import Path

from .nifti import open_nifti
from .opened import TURNED, Opened, ScanFault, files_of, judge
from .other import open_other

__all__ = ["TURNED", "Opened", "ScanFault", "files_of", "open_scan"]


def open_scan(path: Path, max_voxels: int) -> Opened:
    """Open a file, or the folder of a DICOM series, by its name.

    Raises:
        ScanFault: it is missing, truncated, damaged, of zero or absurd size; or its affine cannot be used.
    """
    if not path.exists():
        raise ScanFault(f"{path.name} does not exist ({path.parent}).")
    try:
        open_one = open_nifti if path.name.lower().endswith((".nii", ".nii.gz")) else open_other
        scan = open_one(path, max_voxels)
    except OSError as error:
        raise ScanFault(f"{path.name} cannot be read: {error.strerror or error}.") from error
    judge(scan, path.name)
    return scan
