"""Dice, Jaccard, HD95 and ASD of one case: numpy arrays in, numbers out, nothing of torch.

Two readings of the same masks. The strict one is in mm and over the structures that the label has: one that was missed has
Dice 0 and no distance, never a distance of 0. What the prediction has and the label lacks is a false alarm, which is
counted and has neither: an overlap with nothing says nothing of how large it is. The other, ``compat``, follows
:data:`COMPAT_RULE` and exists only to stand beside tables that were made by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dice import class_dice

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

_MANY_BORDER_VOXELS = 200_000  # above it a tree of them is slower than distance transforms of their box

# What SSL4MIS does with an empty mask in three dimensions; for an empty prediction nearly all of the field does.
COMPAT_RULE = (
    "distances in voxels, as if every voxel were 1 x 1 x 1; a class that the prediction or the label lacks scores Dice 0, "
    "Jaccard 0, HD95 0 and ASD 0 and counts as a case, also where both lack it"
)


@dataclass(frozen=True)
class CompatScore:
    """What one class of one case scores by :data:`COMPAT_RULE`. Never NaN.

    Args:
        dice, jaccard: in [0, 1].
        hd95_voxels, asd_voxels: as of :class:`ClassScore`, in voxels.
    """

    dice: float
    jaccard: float
    hd95_voxels: float
    asd_voxels: float


@dataclass(frozen=True)
class ClassScore:
    """What one class of one case scores.

    Args:
        dice: :math:`2 |A \\cap B| / (|A| + |B|)`, in [0, 1]; NaN where the label is empty.
        jaccard: :math:`|A \\cap B| / |A \\cup B|`, in [0, 1]; NaN where the label is empty.
        hd95_mm: 95th percentile of both directions' surface distances pooled, in mm (medpy's ``hd95``; MONAI's is
            another number, the larger of the two directions' percentiles); NaN where either is empty.
        asd_mm: mean distance from the prediction's surface to the label's, in mm (medpy's ``asd``, which the field's
            tables print). It goes one way: what the prediction misses does not count, so read it beside HD95. NaN
            where either is empty.
        missed: the label has this class and the prediction lacks it.
        false_alarm: the prediction has this class and the label lacks it.
        empty_label: the label lacks this class.
        compat: the same by the rule of published tables.
    """

    dice: float
    jaccard: float
    hd95_mm: float
    asd_mm: float
    missed: bool
    false_alarm: bool
    empty_label: bool
    compat: CompatScore


def case_scores(
    pred: NDArray[Any], label: NDArray[Any], classes: Sequence[str], spacing_mm: Sequence[float]
) -> dict[str, ClassScore]:
    """Scores of every foreground class of one case.

    Args:
        pred, label: class indices ``(*spatial)``; 0 is background, ``i + 1`` is ``classes[i]``.
        classes: names of the foreground classes, in the order of their indices.
        spacing_mm: the voxel's size along each axis, in mm.

    Raises:
        ValueError: shapes that differ; a spacing that does not fit; values that no class has.
    """
    pred, label = np.asarray(pred), np.asarray(label)
    _check_shapes(pred, label)
    for name, array in (("prediction", pred), ("label", label)):
        _check_values(name, array, classes)
    box = _bounding_box((pred != 0) | (label != 0))
    pred, label = pred[box], label[box]
    return {name: class_score(pred == i, label == i, spacing_mm) for i, name in enumerate(classes, start=1)}


def class_score(pred: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]) -> ClassScore:
    """Scores of one mask.

    Args:
        pred, label: masks of the same shape ``(*spatial)``; any value except 0 is inside.
        spacing_mm: the voxel's size along each axis, in mm.

    Raises:
        ValueError: shapes that differ; a spacing that does not fit.
    """
    pred, label = _masks(pred, label)
    spacing = _spacing(spacing_mm, pred.ndim)
    has_pred, has_label = bool(pred.any()), bool(label.any())
    if not (has_pred and has_label):
        overlap = 0.0 if has_label else math.nan
        compat = CompatScore(0.0, 0.0, 0.0, 0.0)
        return ClassScore(overlap, overlap, math.nan, math.nan, has_label, has_pred, not has_label, compat)
    overlap = dice(pred, label)
    jaccard = overlap / (2 - overlap)
    (hd95_mm, asd_mm), (hd95_voxels, asd_voxels) = _distances(pred, label, spacing)
    compat = CompatScore(overlap, jaccard, hd95_voxels, asd_voxels)
    return ClassScore(overlap, jaccard, hd95_mm, asd_mm, False, False, False, compat)


def dice(pred: NDArray[Any], label: NDArray[Any]) -> float:
    r"""Overlap of two masks, :math:`2 |A \cap B| / (|A| + |B|)`.

    Shape:
        - pred, label: the same ``(*spatial)``; any value except 0 is inside.
        - returns: dimensionless, in [0, 1]; 0 where one mask is empty, NaN where both are (nothing to score).

    Raises:
        ValueError: shapes that differ.
    """
    pred, label = _masks(pred, label)
    overlap, found, wanted = (int(np.count_nonzero(mask)) for mask in (pred & label, pred, label))
    return 0.0 if found and not wanted else class_dice(overlap, found, wanted)


def surface_distances(
    pred: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]
) -> tuple[Distances, Distances]:
    r"""Distance of every border voxel of one mask to the nearest border voxel of the other, both ways.

    The border of a mask is what its erosion by the face-connected structuring element removes; outside the image
    counts as background, so a mask cut by the image's edge has a border there (the convention of medpy).

    Args:
        pred, label: two masks of the same shape ``(*spatial)``, neither empty; any value except 0 is inside.
        spacing_mm: the voxel's size along each axis, in mm.

    Returns:
        ``(border voxels of pred,)`` and ``(border voxels of label,)``, in mm.

    Raises:
        ValueError: shapes that differ; a spacing that does not fit; an empty mask, which has no surface.
    """
    pred, label = _masks(pred, label)
    spacing = _spacing(spacing_mm, pred.ndim)
    if not (pred.any() and label.any()):
        raise ValueError(
            "an empty mask has no surface: count the case as missed or as a false alarm instead of measuring it"
        )
    return _nearest(*_borders(pred, label), spacing)


def _distances(pred: Mask, label: Mask, spacing: tuple[float, ...]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(HD95, ASD) in mm, and in voxels."""
    borders = _borders(pred, label)
    hd95, asd = in_voxels = _hd95_and_asd(*_nearest(*borders, (1.0,) * pred.ndim))
    if len(set(spacing)) == 1:  # one measurement serves both
        return (hd95 * spacing[0], asd * spacing[0]), in_voxels
    return _hd95_and_asd(*_nearest(*borders, spacing)), in_voxels


def _hd95_and_asd(to_label: Distances, to_pred: Distances) -> tuple[float, float]:
    return float(np.percentile(np.concatenate([to_label, to_pred]), 95)), float(to_label.mean())


def _borders(pred: Mask, label: Mask) -> tuple[NDArray[Any], NDArray[Any]]:
    """Indices of the border voxels of both, ``(voxels, axes)``; no border lies outside the box around both masks."""
    box = _bounding_box(pred | label)
    return np.argwhere(_border(pred[box])), np.argwhere(_border(label[box]))


def _nearest(pred: NDArray[Any], label: NDArray[Any], spacing: tuple[float, ...]) -> tuple[Distances, Distances]:
    if len(pred) + len(label) > _MANY_BORDER_VOXELS:
        shape = tuple(np.maximum(pred.max(axis=0), label.max(axis=0)) + 1)
        return _to_nearest(pred, label, shape, spacing), _to_nearest(label, pred, shape, spacing)
    # Surfaces are few points of a volume: a tree of them takes a fifth of the time of distance transforms.
    from scipy.spatial import KDTree

    a, b = pred * np.array(spacing), label * np.array(spacing)
    return KDTree(b).query(a)[0], KDTree(a).query(b)[0]


def _to_nearest(
    voxels: NDArray[Any], others: NDArray[Any], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> Distances:
    """Distance of each voxel to the nearest of the others, by a transform of the box ``shape`` that holds all."""
    from scipy.ndimage import distance_transform_edt

    elsewhere = np.ones(shape, dtype=bool)
    elsewhere[tuple(others.T)] = False
    return np.asarray(distance_transform_edt(elsewhere, sampling=spacing)[tuple(voxels.T)])


def _border(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion, generate_binary_structure

    return mask ^ binary_erosion(mask, structure=generate_binary_structure(mask.ndim, 1), iterations=1)


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of a mask; all of it where the mask is empty."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(None))
    return tuple(box)


def _masks(pred: NDArray[Any], label: NDArray[Any]) -> tuple[Mask, Mask]:
    pred, label = np.asarray(pred), np.asarray(label)
    _check_shapes(pred, label)
    return pred.astype(bool, copy=False), label.astype(bool, copy=False)


def _check_shapes(pred: NDArray[Any], label: NDArray[Any]) -> None:
    if pred.shape != label.shape:
        raise ValueError(f"prediction {pred.shape} and label {label.shape} differ in shape")


def _check_values(name: str, array: NDArray[Any], classes: Sequence[str]) -> None:
    if array.dtype.kind in "bu" and array.size and int(array.max()) <= len(classes):
        return  # the common case, without a sort of every voxel
    found = np.unique(array)
    wrong = found[~np.isin(found, np.arange(len(classes) + 1))]
    if wrong.size:
        values = ", ".join(f"{value:g}" for value in wrong[:8])
        raise ValueError(f"{name} has the values {values}, the classes {list(classes)} allow 0..{len(classes)}")


def _spacing(spacing_mm: Sequence[float], axes: int) -> tuple[float, ...]:
    spacing = tuple(float(size) for size in spacing_mm)
    if len(spacing) != axes or not all(math.isfinite(size) and size > 0 for size in spacing):
        raise ValueError(f"spacing_mm needs {axes} positive sizes in mm, one an axis, got {spacing}")
    return spacing
