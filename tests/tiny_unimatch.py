"""A small UniMatch."""

import tiny

from custom.losses import MaskedDiceCELoss
from custom.methods import UniMatch

WEIGHTS = {"supervised": 0.5, "strong": 0.25, "feature": 0.25}


def method(**settings) -> UniMatch:
    return UniMatch(tiny.network(), tiny.supervised_loss(), MaskedDiceCELoss(), threshold=0.5, **settings)
