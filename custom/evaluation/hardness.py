"""Which cases and which voxels are hard: little contrast to the surroundings, and the border itself.

Contrast belongs to image and reference, not to any model, so that a cohort can be split by it before a model is looked at.
Lengths are in voxels of the finest side: along an axis of coarser voxels, such as that of thick slices, a box of
:data:`REACH` voxels reaches accordingly fewer of them, possibly none. What lies outside the image is unknown: a structure
that the image cuts has no border there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

REACH = 5  # voxels: width of the ring outside a structure, and of the band on each side of its surface
PERCENTILES = (0.5, 99.5)  # of a channel, to which its intensities are clipped and scaled
QUARTILE = ("lowest quartile", "the rest")
_SAMPLED = 200_000  # voxels of a channel that its percentiles are taken from


def contrast(picture: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    r"""How much the foreground differs from its surroundings, on intensities scaled so that scans compare.

    .. math:: \frac{1}{C} \sum_c \left| \frac{1}{|F|} \sum_{v \in F} x_{cv} - \frac{1}{|R|} \sum_{v \in R} x_{cv} \right|

    with :math:`F` the voxels of any class, :math:`R` those of no class at most :data:`REACH` voxels away (a box),
    and :math:`x_c` channel :math:`c`, of which the 0.5th percentile is 0 and the 99.5th is 1, clipped.

    Args:
        picture: intensities as they are in the file.
        label: class indices, 0 is background.
        spacing_mm: the voxel's size along each axis; only the ratios count.

    Shape:
        - picture: ``(C, *spatial)``; label: ``(*spatial)``.
        - returns: dimensionless, in [0, 1]; NaN where there is no foreground, or nothing around it.

    Raises:
        ValueError: picture and label differ in their grid.
    """
    if picture.shape[1:] != label.shape:
        raise ValueError(
            f"picture {picture.shape} and label {label.shape} do not share one grid: (C, *spatial), (*spatial)"
        )
    reach = _reach(spacing_mm)
    box = _box(label != 0, reach)
    if box is None:
        return math.nan
    inside = label[box] != 0
    ring = _grown(inside, reach) & ~inside
    if not ring.any():
        return math.nan
    return float(np.mean([_difference(channel, box, inside, ring) for channel in picture]))


def boundary_dice(pred: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Dice of each class within :data:`REACH` voxels of the reference's surface, inside and outside; mean over classes.

    A large structure's Dice is decided by its inside, where every model is right; this one is of the border alone.

    Args:
        pred, label: class indices of one grid ``(*spatial)``, 0 is background.
        spacing_mm: the voxel's size along each axis; only the ratios count.

    Returns:
        Dimensionless, in [0, 1]; NaN where the reference has no surface. A class that the reference lacks does not count.
    """
    reach = _reach(spacing_mm)
    box = _box(label != 0, reach)
    if box is None:
        return math.nan
    pred, label = pred[box], label[box]
    found = [_band_dice(pred == i, label == i, reach) for i in np.unique(label) if i]
    known = [value for value in found if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def lowest_quartile(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The rows whose ``contrast`` is at most its first quartile, and those above; by the names :data:`QUARTILE`.

    Rows without a contrast are in neither. Empty with fewer than four rows that have one, or where all have the same.
    """
    known = [row for row in rows if row.get("contrast") is not None and math.isfinite(row["contrast"])]
    if len(known) < 4:
        return {}
    bound = float(np.quantile([row["contrast"] for row in known], 0.25))
    hard = [row for row in known if row["contrast"] <= bound]
    rest = [row for row in known if row["contrast"] > bound]
    return dict(zip(QUARTILE, (hard, rest), strict=True)) if rest else {}


def _difference(channel: NDArray[Any], box: tuple[slice, ...], inside: Mask, ring: Mask) -> float:
    step = math.ceil((channel.size / _SAMPLED) ** (1 / channel.ndim)) or 1
    low, high = np.percentile(channel[(slice(None, None, step),) * channel.ndim], PERCENTILES)
    if not high > low:
        return 0.0
    part = channel[box]
    means = [np.clip(part[where], low, high).mean(dtype=float) for where in (inside, ring)]
    return abs(means[0] - means[1]) / (high - low)


def _band_dice(pred: Mask, label: Mask, reach: Sequence[int]) -> float:
    box = _box(label, reach)
    if box is None:
        return math.nan
    pred, label = pred[box], label[box]
    band = _grown(label, reach) & _grown(~label, reach)
    total = np.count_nonzero(pred & band) + np.count_nonzero(label & band)
    return 2 * np.count_nonzero(pred & label & band) / total if total else math.nan


def _reach(spacing_mm: Sequence[float]) -> list[int]:
    """Voxels along each axis that :data:`REACH` of the finest are."""
    return [math.floor(REACH * min(spacing_mm) / size + 1e-6) for size in spacing_mm]


def _box(mask: Mask, reach: Sequence[int]) -> tuple[slice, ...] | None:
    """The smallest box around a mask, widened by ``reach``; None for an empty mask."""
    box = []
    for axis, more in enumerate(reach):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not inside.size:
            return None
        box.append(slice(max(int(inside[0]) - more, 0), int(inside[-1]) + 1 + more))
    return tuple(box)


def _grown(mask: Mask, reach: Sequence[int]) -> Mask:
    """Every voxel whose box of ``reach`` along each axis touches the mask."""
    from scipy.ndimage import maximum_filter

    sizes = [2 * steps + 1 for steps in reach]
    return np.asarray(maximum_filter(mask.view(np.uint8), size=sizes, mode="constant", cval=0), dtype=bool)
