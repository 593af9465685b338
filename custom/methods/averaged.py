"""A network and its moving average, one of which serves: what methods without a teacher share."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Method
from .moving_average import MovingAverage
from .schedule import Progress


class Averaged(Method):
    """Keeps a moving average beside the network that it follows.

    It stands here because averaging alone is worth about a point of Dice: a plain network that is compared with a mean
    teacher, or with another method's average, gives that point to what they do with unlabelled scans. The average serves:
    it is the steadier one.

    Args:
        network: what is followed.
        ema_decay: upper bound of the average's decay.
        serve: "average", or ``name`` for the network; the other one is reported beside it.
        name: that the network is reported by.
        statistics: "own" where the average teaches, see :class:`~.moving_average.MovingAverage`. One that does not teach has
            the network's, which may have seen mixed views; :class:`~..training.statistics.CleanStatistics` re-estimates
            them before it validates or is written.

    Raises:
        ValueError: another ``serve``; ``ema_decay`` outside [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        ema_decay: float = 0.99,
        serve: str = "average",
        name: str = "network",
        statistics: str = "copied",
    ) -> None:
        super().__init__()
        if serve not in ("average", name):
            raise ValueError(f"serve is one of {['average', name]}, got {serve!r}")
        self.network = network
        self.average = MovingAverage(network, ema_decay, statistics)
        self.serve, self.name = serve, name
        self._watched: dict[str, Tensor] = {}

    def begin(self) -> None:
        self.average.copy(self.network)

    def after_step(self, progress: Progress) -> None:
        self.average.follow(self.network)

    def serving(self) -> dict[str, nn.Module]:
        networks = {"average": self.average.network, self.name: self.network}
        return {self.serve: networks[self.serve], **networks}

    def watch(self) -> dict[str, Tensor]:
        return self._watched
