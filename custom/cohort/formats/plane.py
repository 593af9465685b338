"""Scans of two axes are read as pictures lie, whatever the order of voxels they are stored in.

A volume is turned by its task, which names an orientation. A task of pictures names none, and a file of two axes that has an
affine (NIfTI, NRRD, MetaImage) may run to anywhere. So it is turned here, its first axis to the left or to the back, its
second to the back or to the feet, as viewers show a slice; PNG and JPEG lie so already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENDS = "LPI"  # of the body's axes, in the order in which a picture has two of them
AS_PICTURES = ("LP", "LI", "PI")
STORED = (
    "stored_affine"  # a key of the metadata of a scan of two axes: the affine of its file, to turn a prediction back by
)


@dataclass(frozen=True)
class Turn:
    """The way from the order of voxels in a file to that of a picture: flips of the file's axes, then their exchange.

    Args:
        stored: where the file's two axes run to, ``RA``; each by the direction next to it.
        flips: of the file's first and second axis.
        swaps: whether they are exchanged.
    """

    stored: str
    flips: tuple[bool, bool]
    swaps: bool

    @property
    def identity(self) -> bool:
        return not (self.swaps or any(self.flips))

    def voxels(self, stored: np.ndarray, first: int = 0) -> np.ndarray:
        """The voxels of a file in the order of a picture; the plane's axes are ``first`` and the next one."""
        flipped = np.flip(stored, tuple(first + axis for axis in range(2) if self.flips[axis]))
        return np.ascontiguousarray(np.swapaxes(flipped, first, first + 1) if self.swaps else flipped)

    def back(self, voxels: np.ndarray) -> np.ndarray:
        """The voxels of a picture ``(X, Y)`` in the order of the file."""
        swapped = voxels.T if self.swaps else voxels
        return np.ascontiguousarray(np.flip(swapped, tuple(axis for axis in range(2) if self.flips[axis])))

    def affine(self, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The affine of turned voxels; ``shape`` is the file's. 3 x 3 or 4 x 4, as ``stored`` is."""
        step = np.eye(len(stored))  # from an index of the picture to one of the file
        step[:2, :2] = 0
        for axis in range(2):
            step[axis, 1 - axis if self.swaps else axis] = -1 if self.flips[axis] else 1
            step[axis, -1] = shape[axis] - 1 if self.flips[axis] else 0
        return stored @ step


def turn(affine: np.ndarray) -> Turn:
    """How a scan of two axes is turned.

    Args:
        affine: of the file, voxel index to RAS: 4 x 4, or 3 x 3 of a plane without a third coordinate; it may not be singular
            in the plane.
    """
    from nibabel.orientations import io_orientation, ornt2axcodes

    steps = np.zeros((3, 2))
    rows = min(len(affine) - 1, 3)
    steps[:rows] = np.asarray(affine, dtype=float)[:rows, :2]
    steps /= np.linalg.norm(steps, axis=0)
    body = np.eye(4)
    # the file's own third direction may be anything; only two are asked for
    body[:3, :3] = np.column_stack([steps, np.cross(*steps.T)])
    found = io_orientation(body)[:2]
    stored = "".join(ornt2axcodes(found))
    return Turn(stored, (stored[0] not in ENDS, stored[1] not in ENDS), bool(found[0, 0] > found[1, 0]))
