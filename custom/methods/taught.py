"""A student and its moving average, the teacher: what methods with a teacher share."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Method
from .moving_average import MovingAverage
from .schedule import Progress


class Taught(Method):
    """Keeps the teacher after the student; the teacher serves, the student is reported beside it.

    Args:
        network: the student.
        ema_decay: upper bound of the teacher's decay.
        statistics: "own" or "copied", see :class:`~.moving_average.MovingAverage`.
    """

    def __init__(self, network: nn.Module, ema_decay: float = 0.99, statistics: str = "copied") -> None:
        super().__init__()
        self.student = network
        self.teacher = MovingAverage(network, ema_decay, statistics)
        self._watched: dict[str, Tensor] = {}

    def begin(self) -> None:
        self.teacher.copy(self.student)

    def after_step(self, progress: Progress) -> None:
        self.teacher.follow(self.student)

    def serving(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher.network, "student": self.student}

    def watch(self) -> dict[str, Tensor]:
        return self._watched
