"""A small cascade. Its ranked terms sample by seed and step, so that a resumed run must sample the same."""

import tiny

from custom.losses import RankedListLoss
from custom.losses.patches import InterPatch, IntraPatch
from custom.methods import CoarseRefined
from custom.methods.coarse_refined import PixelHead
from custom.networks import Cascade

WEIGHTS = {
    "supervised": 1.0,
    "consistency": {"ramp": 0.1, "until": 1.0},
    "intra": {"value": 0.1, "from": 0.2},
    "inter": {"value": 0.1, "from": 0.2},
}


def cascade(detach: bool = False) -> Cascade:
    classes = len(tiny.CLASSES)
    return Cascade(tiny.network(), tiny.network(seed=1, channels=1 + classes), detach)


def method(**settings) -> CoarseRefined:
    return CoarseRefined(
        cascade(),
        tiny.supervised_loss(),
        RankedListLoss(),
        PixelHead(4, 8),
        IntraPatch(tile=4, pixels=4),
        InterPatch(tile=4),
        **settings,
    )
