"""One method a file: the terms that a labelled and an unlabelled batch contribute."""

from .base import Method
from .bcp import BidirectionalCopyPaste
from .coarse_refined import CoarseRefined
from .contrastive_mutual import ContrastiveMutual
from .cps import CrossPseudoSupervision
from .low_confidence import LowConfidence
from .mean_teacher import MeanTeacher
from .moving_average import MovingAverage
from .supervised import Supervised
from .task_affinity import TaskAffinity
from .ua_mt import UncertaintyAwareMeanTeacher
from .unimatch import UniMatch
from .urpc import PyramidConsistency

__all__ = [
    "BidirectionalCopyPaste",
    "CoarseRefined",
    "ContrastiveMutual",
    "CrossPseudoSupervision",
    "LowConfidence",
    "MeanTeacher",
    "Method",
    "MovingAverage",
    "PyramidConsistency",
    "Supervised",
    "TaskAffinity",
    "UncertaintyAwareMeanTeacher",
    "UniMatch",
]
