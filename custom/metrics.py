"""Dice and HD95 of one case: numpy arrays in, numbers out, nothing of torch.

An empty mask never looks good here: its distance is not a number and is counted as a failure, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScore:
    """What one class of one case scores.

    Args:
        dice: in [0, 1]; NaN where prediction and label are both empty (not counted).
        hd95_mm: in mm; NaN where either is empty.
        failure: exactly one of prediction and label is empty: there is no distance, and that is a fault to count.
        empty_label: the label lacks this class.
    """

    dice: float
    hd95_mm: float
    failure: bool
    empty_label: bool


def dice(pred: NDArray[Any], label: NDArray[Any]) -> float:
    r"""Overlap of two masks, :math:`2 |A \cap B| / (|A| + |B|)`.

    Shape:
        - pred, label: the same ``(*spatial)``; any value but 0 is inside.
        - returns: dimensionless, in [0, 1]; 0 where one mask is empty, NaN where both are (nothing to score).

    Raises:
        ValueError: shapes that differ.
    """
    pred, label = _masks(pred, label)
    total = int(np.count_nonzero(pred)) + int(np.count_nonzero(label))
    return 2 * int(np.count_nonzero(pred & label)) / total if total else math.nan


def surface_distances(
    pred: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]
) -> tuple[Distances, Distances]:
    r"""Distance of every border voxel of one mask to the nearest border voxel of the other, both ways.

    The border of a mask is what its erosion by the face-connected structuring element removes; outside the image
    counts as background, so a mask cut by the image's edge has a border there (the convention of medpy). No border
    voxel lies outside the box around both masks, so only that box is measured.

    Args:
        pred, label: two masks of the same shape ``(*spatial)``, neither empty; any value but 0 is inside.
        spacing_mm: the voxel's size along each axis, in mm.

    Returns:
        ``(border voxels of pred,)`` and ``(border voxels of label,)``, in mm.

    Raises:
        ValueError: shapes that differ; a spacing that does not fit; an empty mask, which has no surface.
    """
    from scipy.ndimage import distance_transform_edt

    pred, label = _masks(pred, label)
    spacing = _spacing(spacing_mm, pred.ndim)
    if not (pred.any() and label.any()):
        raise ValueError("an empty mask has no surface: count the case as a failure instead of measuring it")
    box = _bounding_box(pred | label)
    pred_border, label_border = _border(pred[box]), _border(label[box])
    to_label = distance_transform_edt(~label_border, sampling=spacing)
    to_pred = distance_transform_edt(~pred_border, sampling=spacing)
    return to_label[pred_border], to_pred[label_border]


def hd95(pred: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """95th percentile of both directions' surface distances pooled, in mm (the ``hd95`` of medpy).

    MONAI's is another number: the larger of the two directions' percentiles.

    Returns:
        mm, 0 for equal masks; NaN where either mask is empty (one empty is a failure, which :func:`case_scores`
        counts; it is never 0).

    Raises:
        ValueError: shapes that differ; a spacing that does not fit.
    """
    pred, label = _masks(pred, label)
    _spacing(spacing_mm, pred.ndim)
    if not (pred.any() and label.any()):
        return math.nan
    return float(np.percentile(np.concatenate(surface_distances(pred, label, spacing_mm)), 95))


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
    return {name: _class_score(pred == i, label == i, spacing_mm) for i, name in enumerate(classes, start=1)}


def _class_score(pred: Mask, label: Mask, spacing_mm: Sequence[float]) -> ClassScore:
    has_pred, has_label = bool(pred.any()), bool(label.any())
    return ClassScore(dice(pred, label), hd95(pred, label, spacing_mm), has_pred != has_label, not has_label)


def _border(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion, generate_binary_structure

    return mask ^ binary_erosion(mask, structure=generate_binary_structure(mask.ndim, 1), iterations=1)


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of a mask which is not empty."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
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
