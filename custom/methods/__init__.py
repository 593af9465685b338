"""One method a file: the terms that a labelled and an unlabelled batch contribute."""

from .base import Method
from .coarse_refined import CoarseRefined
from .contrastive_mutual import ContrastiveMutual
from .low_confidence import LowConfidence
from .mean_teacher import MeanTeacher
from .moving_average import MovingAverage
from .supervised import Supervised
from .task_affinity import TaskAffinity

__all__ = [
    "CoarseRefined",
    "ContrastiveMutual",
    "LowConfidence",
    "MeanTeacher",
    "Method",
    "MovingAverage",
    "Supervised",
    "TaskAffinity",
]
