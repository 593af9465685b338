"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

PHASES = (
    "data",
    "student forward",
    "teacher forward",
    "losses",
    "backward",
    "optimiser and average",
    "logging",
    "validation",
)


class Clock:
    """Seconds by phase since :meth:`take` was called last. On a GPU every reading waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._depth, self._start = 0, 0.0
        self.in_step = False

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] += seconds

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to a phase."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(phase, self.now() - start)

        return call

    def watch_networks(self, *networks: nn.Module) -> None:
        """Add the time of forward passes in a step: of the student where a gradient is kept, else of a teacher.

        Networks are also asked for their parts (``encode``, ``features``): every module in them is watched, and of nested calls
        the outermost counts. Passes outside of :attr:`in_step`, those of a validation, are not counted.
        """
        for module in {id(m): m for network in networks for m in network.modules()}.values():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        if self._depth == 0:
            self._start = self.now()
        self._depth += 1

    def _leave(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and self.in_step:
            self.add("student forward" if torch.is_grad_enabled() else "teacher forward", self.now() - self._start)

    def take(self) -> dict[str, float]:
        """What was added, and begin anew."""
        found, self._seconds = dict(self._seconds), defaultdict(float)
        return found
