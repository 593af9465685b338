"""A scan as its file holds it, whatever the format; and the fault of a file that cannot be used."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...placeholders import placeholder
from .streamed import StreamedVoxels

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg")
TEXTS = (".json", ".txt", ".md", ".csv", ".tsv", ".bval", ".bvec")  # that lie beside scans
USUAL_MM = (0.05, 20.0)
TURNED = "turned"  # the kind of warning that a picture has which is not read in the order of its pixels


class ScanFault(UserError, ValueError):
    """A file that cannot be used, in one sentence that begins with the file's name."""


@dataclass
class Opened:
    """What was read from a file to its end.

    Args:
        voxels: ``(*spatial)``, or ``(*spatial, C)`` where ``channels_last``; two or three spatial axes. With
            ``streamed`` only their shape and type are these.
        channels_last: whether the last axis is one of channels.
        affine: 4 x 4, voxel index to RAS, mm, as readers use it.
        dtype: of the file, numpy's name.
        sha256: of its bytes.
        warnings: what is odd but can be read; what stands before the first colon names the kind.
        unused: of a NIfTI file whose sform and qform differ, the name and the affine of the one that is not used.
        stored: of a scan of two axes, where they run to in the file, ``RA``; its voxels here lie as those of pictures.
        streamed: of a large volume, where it was asked for, its channels one by one.
    """

    voxels: np.ndarray
    channels_last: bool
    affine: np.ndarray
    dtype: str
    sha256: str
    warnings: list[str] = field(default_factory=list)
    unused: tuple[str, np.ndarray] | None = None
    stored: str = ""
    streamed: list[StreamedVoxels] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.voxels.shape[:-1] if self.channels_last else self.voxels.shape

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Length of one step along each axis."""
        return tuple(np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0).tolist())


def judge(scan: Opened, name: str) -> None:
    """Refuse a grid that no position can be found on; warn of one that is improbable.

    Raises:
        ScanFault: an affine that is singular or not finite; voxels that are not numbers.
    """
    judge_type(scan.voxels.dtype, name)
    if not 2 <= len(scan.shape) <= 3:
        raise ScanFault(
            f"{name} has the size {by(scan.voxels.shape)}, expected two or three axes, and one of channels."
        )
    judge_affine(scan.affine, len(scan.shape), name)
    if not all(USUAL_MM[0] <= size <= USUAL_MM[1] for size in scan.spacing_mm):
        scan.warnings.append(
            f"unusual voxel size: {by(scan.spacing_mm)} mm, outside {USUAL_MM[0]:g}-{USUAL_MM[1]:g} mm"
        )


def judge_type(kind: np.dtype, name: str) -> None:
    """Raises :class:`ScanFault` where voxels are colours in one, bits or complex."""
    if kind.kind not in "biuf":
        raise ScanFault(f"{name} has voxels of type {kind}, expected whole or real numbers.")


def judge_affine(affine: np.ndarray, axes: int, name: str) -> None:
    """Raises :class:`ScanFault` where the first ``axes`` columns are not finite or do not span as many dimensions."""
    if not np.isfinite(affine).all():
        raise ScanFault(f"{name} has an affine that is not finite: {affine[:3].tolist()}; correct its header.")
    steps = affine[:3, :axes]
    lengths = np.linalg.norm(steps, axis=0)
    # of unit steps, so that thick slices are not taken for a flat volume
    if not lengths.all() or np.linalg.svd(steps / lengths, compute_uv=False)[-1] < 1e-6:
        raise ScanFault(f"{name} has a singular affine: {affine[:3].tolist()}; correct its header.")


def judge_size(shape: Sequence[int], max_voxels: int, name: str) -> None:
    """Refuse a size that a header promises, before anything of it is read.

    Raises:
        ScanFault: an axis of no voxel; more than ``max_voxels`` in all.
    """
    if not shape or min(shape) < 1:
        raise ScanFault(
            f"{name} has the size {by(shape) or 'of no axis'}, expected at least one voxel along each axis."
        )
    if math.prod(shape) > max_voxels:
        raise ScanFault(f"{name} has a header that promises {by(shape)} voxels, more than {max_voxels}: is it damaged?")


def by(numbers: Sequence[float]) -> str:
    """``1.5x1.5x10``."""
    return "x".join(f"{number:.4g}" if isinstance(number, float) else str(number) for number in numbers)


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
        # beside the file itself, where the path is a link to it
        voxels = path.resolve().parent / (found[1].decode(errors="replace") if found else "")
        return [path, voxels] if voxels.is_file() else [path]
    return [path]


def lost_files(folder: Path, slices: bool = False) -> dict[str, str]:
    """Files of a DICOM series whose content is not here, each with what lies in its place.

    Args:
        slices: only those whose names may be of slices.

    Raises:
        OSError: the folder cannot be read.
    """
    # a link that leads nowhere counts whatever its name is: GDCM reads a folder no further than to there
    files = [f for f in sorted(folder.iterdir()) if _like_a_slice(f) or not (slices or os.path.exists(f))]
    return {file.name: found for file in files if (found := placeholder(file))}


def _like_a_slice(file: Path) -> bool:
    return not (file.name.startswith(".") or file.name.lower().endswith((*SUFFIXES, *TEXTS)))
