"""Training on the labelled scans alone: the bound that any use of unlabelled scans must clear."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .base import Method
from .batch import Batch
from .moving_average import MovingAverage
from .schedule import Progress


class Supervised(Method):
    r""":math:`L = w_{sup} L_{sup}(f(x^l), y^l)`, and a moving average of :math:`f` kept and reported beside.

    The average stands here because averaging alone is worth about a point of Dice: a mean teacher that is compared
    with the plain network gives that point to the unlabelled scans. The average serves: it is the steadier one.

    Args:
        network: returns logits ``(B, K, *spatial)``.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        ema_decay: of the moving average.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised",)

    def __init__(self, network: nn.Module, supervised: nn.Module, ema_decay: float = 0.99) -> None:
        super().__init__()
        self.network = network
        self.supervised = supervised
        self.average = MovingAverage(network, ema_decay)

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        if not progress.wants("supervised"):
            return {}
        return {"supervised": self.supervised(self.network(labelled.image).float(), labelled.label)}

    def begin(self) -> None:
        self.average.copy(self.network)

    def after_step(self, progress: Progress) -> None:
        self.average.follow(self.network)

    def serving(self) -> dict[str, nn.Module]:
        return {"average": self.average.network, "network": self.network}
