"""Losses that no library has, one a file."""

from .area_similarity import AreaSimilarityContrastiveLoss
from .class_separation import ClassSeparationLoss
from .consistency import ConsistencyLoss
from .low_confidence import LowConfidenceConsistencyLoss
from .masked_dice_ce import MaskedDiceCELoss
from .pyramid_consistency import PyramidConsistencyLoss
from .ranked_list import RankedListLoss
from .task_affinity import TaskAffinityLoss
from .uncertainty import UncertaintyConsistencyLoss

__all__ = [
    "AreaSimilarityContrastiveLoss",
    "ClassSeparationLoss",
    "ConsistencyLoss",
    "LowConfidenceConsistencyLoss",
    "MaskedDiceCELoss",
    "PyramidConsistencyLoss",
    "RankedListLoss",
    "TaskAffinityLoss",
    "UncertaintyConsistencyLoss",
]
