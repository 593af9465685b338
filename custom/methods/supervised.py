"""Training on the labelled scans alone: the bound that any use of unlabelled scans must clear."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .averaged import Averaged
from .batch import Batch
from .schedule import Progress


class Supervised(Averaged):
    r""":math:`L = w_{sup} L_{sup}(f(x^l), y^l)`. The moving average of :math:`f` serves, :math:`f` is reported beside it.

    Args:
        network: returns logits ``(B, K, *spatial)``.
        supervised: loss of logits and labels ``(B, 1, *spatial)``.
        ema_decay: upper bound of the average's decay.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised",)

    def __init__(self, network: nn.Module, supervised: nn.Module, ema_decay: float = 0.99) -> None:
        super().__init__(network, ema_decay)
        self.supervised = supervised

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        if not progress.wants("supervised"):
            return {}
        return {"supervised": self.supervised(self.network(labelled.image).float(), labelled.label)}
