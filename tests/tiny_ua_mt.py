"""A small uncertainty-aware mean teacher."""

import tiny

from custom.losses import UncertaintyConsistencyLoss
from custom.methods import UncertaintyAwareMeanTeacher

WEIGHTS = {"supervised": 1.0, "consistency": {"ramp": 0.1, "until": 1.0}}


def method(**settings) -> UncertaintyAwareMeanTeacher:
    return UncertaintyAwareMeanTeacher(
        tiny.network(),
        tiny.supervised_loss(),
        UncertaintyConsistencyLoss(),
        **{"passes": 2, "teacher_norm": "batch", **settings},
    )
