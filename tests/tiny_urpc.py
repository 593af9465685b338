"""A small pyramid: two levels, two scales."""

import tiny

from custom.losses import PyramidConsistencyLoss
from custom.methods import PyramidConsistency

WEIGHTS = {"supervised": 1.0, "pyramid": {"ramp": 0.1, "until": 1.0}}


def method(**settings) -> PyramidConsistency:
    return PyramidConsistency(
        tiny.network(), tiny.supervised_loss(), PyramidConsistencyLoss(), (4, 8), len(tiny.CLASSES), **settings
    )
