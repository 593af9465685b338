"""Dice, and its mean over a cohort: one definition for validation, evaluation and annotation."""

from __future__ import annotations

import math
from collections.abc import Iterable

MEAN_DICE = "mean Dice: over cases, of each case's mean over the classes that its label has"
"""What the number is, wherever it is shown."""


def class_dice(overlap: int, predicted: int, labelled: int) -> float:
    r"""Return :math:`2 |A \cap B| / (|A| + |B|)` of one class of one case, from numbers of voxels.

    In [0, 1]; NaN where the label lacks the class: there is nothing to overlap with, and what is found all the same is a
    false alarm, which no overlap measures.
    """
    return 2 * overlap / (predicted + labelled) if labelled else math.nan


def mean_of_known(values: Iterable[float]) -> float:
    """Return the mean of what is not NaN; NaN where nothing is. Of one case's classes it is the case's Dice."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def mean_dice(cases: Iterable[Iterable[float]]) -> float:
    """Return :data:`MEAN_DICE` of the classes' Dice of each case; NaN where no label has a class."""
    return mean_of_known(mean_of_known(classes) for classes in cases)
