"""Small contrastive mutual learning; its second stage begins after a third of a run."""

import torch

from custom.losses import AreaSimilarityContrastiveLoss
from custom.losses.bce_dice import BCEDiceLoss
from custom.methods import ContrastiveMutual
from custom.networks import OneChannel, UNet

CHANNELS = ["flair", "t1ce"]
WEIGHTS = {
    "supervised": {"value": 1.0, "to": 0.33},
    "contrastive": {"value": 3.5, "to": 0.33},
    "consistency": {"ramp": 1.0, "until": 2.47, "to": 0.33},
    "relearn": {"value": 1.0, "from": 0.33},
    "relearn_strong": {"value": 1.0, "from": 0.7},
}


def network(channel: int, seed: int, classes: int = 2, dropout: float = 0.0, dims: int = 2) -> OneChannel:
    torch.manual_seed(seed)
    return OneChannel(UNet(dims, 1, classes - 1, widths=(4, 8), dropout=dropout), channel)


def method(classes: int = 2, dims: int = 2, **settings: object) -> ContrastiveMutual:
    networks = [
        network(0, 0, classes, dims=dims),
        network(1, 1, classes, dims=dims),
        network(0, 2, classes, 0.2, dims=dims),
    ]
    return ContrastiveMutual(
        *networks, channels=CHANNELS, supervised=BCEDiceLoss(), contrastive=AreaSimilarityContrastiveLoss(), **settings
    )
