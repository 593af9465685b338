"""The number formats that files of labels have here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .words import span

OF_PICTURES = (np.uint8, np.uint16)
"""What a grey PNG holds."""
OF_FILES = (np.uint8, np.int16, np.uint16, np.int32)
"""What NIfTI and NRRD hold and ITK's Python reads: it does not know int8."""
EXACT = 2**24
"""Up to which float32, as which scans are read, holds every whole number."""


def smallest(values: Sequence[int], kinds: Sequence[type[np.integer]]) -> np.dtype | None:
    """The first of the formats that holds all values; None where none does."""
    for kind in kinds:
        if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max:
            return np.dtype(kind)
    return None


def no_format_fits(values: Sequence[int], kinds: Sequence[type[np.integer]]) -> str:
    """Why no format holds the values, and what to do."""
    low, high = min(np.iinfo(kind).min for kind in kinds), max(np.iinfo(kind).max for kind in kinds)
    remedy = "; or save pictures and labels as NIfTI" if kinds is OF_PICTURES else ""
    form = "PNG, in which labels of pictures are written," if kinds is OF_PICTURES else "NIfTI"
    return f"label_values {span(values)}: {form} holds whole numbers from {low} to {high}. Give the classes such values{remedy}"


def as_classes(voxels: np.ndarray, label_values: Sequence[int]) -> np.ndarray:
    """The index of each voxel's value in ``label_values``, uint8 of the same shape; 0 where it is not one of them."""
    classes = np.zeros(voxels.shape, np.uint8)
    for index, value in enumerate(label_values):
        classes[voxels == value] = index
    return classes
