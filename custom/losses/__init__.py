"""Losses that no library has, one a file."""

from .area_similarity import AreaSimilarityContrastiveLoss
from .class_separation import ClassSeparationLoss
from .consistency import ConsistencyLoss
from .low_confidence import LowConfidenceConsistencyLoss
from .ranked_list import RankedListLoss
from .task_affinity import TaskAffinityLoss

__all__ = [
    "AreaSimilarityContrastiveLoss",
    "ClassSeparationLoss",
    "ConsistencyLoss",
    "LowConfidenceConsistencyLoss",
    "RankedListLoss",
    "TaskAffinityLoss",
]
