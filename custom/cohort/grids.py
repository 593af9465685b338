"""Whether two scans lie on one grid, in words."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .facts import Facts

BODY_AXES = {"LR": "left-right", "PA": "back-front", "IS": "foot-head"}
USED = {"qform": "sform", "sform": "qform"}  # by the one that is not
TOLERANCE = 1e-3  # mm; of directions, the same number of their cosines


def difference(found: Facts, expected: Facts, pictures: bool = False) -> str:
    """What differs, ``spacing 1.0x1.0x2.0 against 1.0x1.0x1.0 mm``, and which of two transforms of a NIfTI header was
    compared; empty where nothing differs.

    Args:
        pictures: compare shapes alone, and whether one of the two is turned to lie as the other does.
    """
    parts = []
    if found.shape != expected.shape:
        parts.append(f"shape {times(found.shape)} against {times(expected.shape)} voxels")
    if found.stored != expected.stored and len(found.shape) == len(expected.shape):
        parts.append(f"orientation {found.stored} against {expected.stored}")
    if pictures or len(found.shape) != len(expected.shape):
        return ", ".join(parts)
    if _differ(found.spacing_mm, expected.spacing_mm):
        parts.append(f"spacing {times(found.spacing_mm)} against {times(expected.spacing_mm)} mm")
    mine, theirs = np.asarray(found.affine, dtype=float), np.asarray(expected.affine, dtype=float)
    if _differ(mine[:3, 3], theirs[:3, 3]):
        parts.append(f"origin {_point(mine)} against {_point(theirs)} mm")
    if _differ(_cosines(mine), _cosines(theirs)) and found.stored == expected.stored:
        parts.append(_turned(mine, theirs))
    two = [f"{whose} sform and qform differ, the {USED[scan.unused[0]]} is used"
           for scan, whose in ((found, "its"), (expected, "the other's")) if parts and scan.unused]  # fmt: skip
    return "; ".join([", ".join(parts), *two])


def one_place(mine: NDArray, theirs: NDArray, axes: int) -> bool:
    """Whether two 4 x 4 affines, voxel index to mm, agree in their first axes up to the rounding of headers, as
    :func:`difference` judges."""
    steps = [affine[:3, :axes] for affine in (mine, theirs)]
    lengths = [np.linalg.norm(step, axis=0) for step in steps]
    cosines = [step / length for step, length in zip(steps, lengths, strict=True)]
    return not any(_differ(*pair) for pair in (lengths, cosines, (mine[:3, 3], theirs[:3, 3])))


def one_by_other_transform(found: Facts, expected: Facts) -> bool:
    """Whether two scans lie on one grid by a transform of a NIfTI header that is not used."""
    return any(not difference(a, b) for a in _placed(found) for b in _placed(expected))


def _placed(scan: Facts) -> list[Facts]:
    """The scan as placed by the transform that is used, and by the other one where there is one."""
    if scan.unused is None:
        return [scan]
    affine = scan.unused[1]
    sizes = np.linalg.norm(np.asarray(affine)[:3, : len(scan.shape)], axis=0).tolist()
    return [scan, replace(scan, affine=affine, spacing_mm=tuple(sizes), unused=None)]


def orientation(affine: Sequence[Sequence[float]] | NDArray) -> str:
    """Where the axes of a volume run to, each by the direction next to it: ``RAS``, ``LPS``, ``PIR``."""
    return _orientation(np.asarray(affine, dtype=float).tobytes())


@functools.lru_cache(2**16)  # thousands of scans have few affines, and each costs a singular value decomposition
def _orientation(affine: bytes) -> str:
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(np.frombuffer(affine).reshape(4, 4)))


def as_seen(scan: Facts, wanted: str) -> Facts:
    """A volume with its axes in the order of an orientation, ``RAS``; the order alone is meant, not their directions.
    As it is stored where none is wanted, or where a scan has two axes."""
    if not wanted or len(scan.shape) != 3:
        return scan
    stored = [along(code) for code in orientation(scan.affine)]
    order = [stored.index(along(code)) for code in wanted]
    affine = tuple((*(row[axis] for axis in order), row[3]) for row in scan.affine)
    return replace(scan, shape=tuple(scan.shape[axis] for axis in order),
                   spacing_mm=tuple(scan.spacing_mm[axis] for axis in order), affine=affine)  # fmt: skip


def along(code: str) -> str:
    """The axis of the body that an end belongs to: ``left-right`` of ``L`` and of ``R``; empty for any other letter."""
    return next((axis for ends, axis in BODY_AXES.items() if code in ends), "")


def times(numbers: Sequence[float]) -> str:
    """``64x64x8``; lengths to 0.001."""
    return "x".join(str(n if isinstance(n, int) else round(float(n), 3)) for n in numbers)


def _differ(a: Sequence[float] | NDArray, b: Sequence[float] | NDArray) -> bool:
    return bool(np.abs(np.asarray(a) - np.asarray(b)).max() > TOLERANCE)


def _point(affine: NDArray) -> str:
    return "(" + ", ".join(str(round(float(x), 3) + 0.0) for x in affine[:3, 3]) + ")"


def _cosines(affine: NDArray) -> NDArray:
    """Unit vectors of the voxel axes, in columns."""
    return affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)


def _turned(found: NDArray, expected: NDArray) -> str:
    """The axes' names where they differ (``LAS against RAS``), else the largest angle between two like axes."""
    names = [orientation(affine) for affine in (found, expected)]
    if names[0] != names[1]:
        return f"orientation {names[0]} against {names[1]}"
    cosine = float((_cosines(found) * _cosines(expected)).sum(axis=0).min())
    return f"direction turned by {math.degrees(math.acos(min(cosine, 1.0))):.3g} degrees"
