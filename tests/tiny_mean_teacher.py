"""A small mean teacher."""

import tiny

from custom.losses import ConsistencyLoss
from custom.methods import MeanTeacher

WEIGHTS = {"supervised": 1.0, "consistency": {"ramp": 0.1, "until": 1.0}}


def method() -> MeanTeacher:
    return MeanTeacher(tiny.network(), tiny.supervised_loss(), ConsistencyLoss())
