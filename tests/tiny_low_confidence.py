"""A small method of low confidence. It draws pixels, so that a resumed run must draw the same."""

import tiny

from custom.losses import ClassSeparationLoss, LowConfidenceConsistencyLoss
from custom.methods import LowConfidence

WEIGHTS = {
    "supervised": 1.0,
    "consistency": {"ramp": 0.1, "until": 1.0},
    "separation": {"ramp": 0.1, "until": 1.0},
}


def method(**settings) -> LowConfidence:
    return LowConfidence(
        tiny.network(),
        tiny.supervised_loss(),
        LowConfidenceConsistencyLoss(),
        ClassSeparationLoss(max_pixels=50),
        classes=len(tiny.CLASSES),
        channels=4,
        **settings,
    )
