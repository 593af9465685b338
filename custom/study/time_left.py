"""How long trainings that run side by side will still take, by their steps and by what a step of each bundle takes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Speed:
    """What trainings take, in seconds.

    Args:
        step: of an optimiser step, by bundle.
        start: of a training before its first step, by bundle.
        scan: of one scan and one network, in evaluation and inference.
        reading: of all scans, which the first trainings wait for.
    """

    step: Mapping[str, float] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    scan: float = 0.0
    reading: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a training still has to do: ``steps`` of a bundle, and ``scans`` times networks after them."""

    bundle: str
    steps: int
    scans: int = 0
    begun: bool = False  # whether its start is over

    def seconds(self, speed: Speed) -> float:
        """``start + steps * step + scans * scan``, without the start of one that has begun.

        Raises:
            KeyError: nothing is known of a step of its bundle, and some are to be done.
        """
        steps = self.steps * speed.step[self.bundle] if self.steps else 0.0
        return (0.0 if self.begun else speed.start.get(self.bundle, 0.0)) + steps + self.scans * speed.scan


def time_left(running: Sequence[Work], waiting: Sequence[Work], speed: Speed, jobs: int) -> float | None:
    """Seconds until all is done, ``jobs`` at a time, the waiting ones in their order; None where the pace of a bundle is
    not known."""
    try:
        return side_by_side([work.seconds(speed) for work in (*running, *waiting)], jobs)
    except KeyError:
        return None


def side_by_side(times: Sequence[float], jobs: int) -> float:
    """Seconds until the last of the tasks ends, each taken in turn by whichever of ``jobs`` workers is free first."""
    workers = [0.0] * max(1, jobs)
    heapq.heapify(workers)
    for seconds in times:
        heapq.heapreplace(workers, workers[0] + seconds)
    return max(workers)


def minutes(seconds: float) -> str:
    """``50 s``, ``12 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 60 else f"{whole // 60} h" + (f" {whole % 60} min" if whole % 60 else "")
