"""A small method of task affinity."""

import tiny
import torch
from monai.losses import DiceLoss

from custom.losses import TaskAffinityLoss
from custom.methods import TaskAffinity
from custom.networks import GatedVNet

WEIGHTS = {"supervised": 1.0, "structure": 1.0, "context": 0.5, "pseudo": 0.5}


def network(channels: int = 1, classes: int = len(tiny.CLASSES), **settings) -> GatedVNet:
    torch.manual_seed(0)
    return GatedVNet(2, channels, classes, **{"widths": (4, 8), **settings})


def supervised_loss() -> DiceLoss:
    return DiceLoss(
        to_onehot_y=True, sigmoid=True, squared_pred=True, batch=True, reduction="sum", smooth_nr=1e-5, smooth_dr=1e-5
    )


def method(affinity: TaskAffinityLoss | None = None, detach_masks: bool = False, **settings) -> TaskAffinity:
    return TaskAffinity(network(**settings), supervised_loss(), affinity or TaskAffinityLoss(), detach_masks)
