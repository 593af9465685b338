"""How far a run is, for whatever takes longer than a few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

from ..pace import EVERY_S, Pace

logger = logging.getLogger(__name__)


class Bar:
    """Ignite's progress bar over the whole run in a terminal; in a log, where it would be a wall of lines, one line every half
    minute with the step and the time left.

    Args:
        unit: what one iteration is.
        clock: seconds, from any start.
        work: of each iteration of the one epoch, in any unit: the time left is by it, where they differ; none: all are alike.
        every_s: seconds between two lines.
    """

    def __init__(
        self,
        unit: str = "step",
        clock: Callable[[], float] = time.monotonic,
        work: Sequence[float] = (),
        every_s: float = EVERY_S,
    ) -> None:
        self.bar = ProgressBar(persist=False, desc="", unit=unit, disable=None)
        self.unit, self.pace, self._begun, self.work = unit, Pace(every_s, clock), False, work

    def attach(self, engine: Engine) -> None:
        self.bar.attach(engine, event_name=Events.ITERATION_COMPLETED, closing_event_name=Events.EPOCH_COMPLETED)
        if not sys.stderr.isatty():  # where ignite's bar is drawn
            engine.add_event_handler(Events.STARTED, self._forget)
            engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._say)

    def _forget(self, engine: Engine) -> None:
        self._begun = False

    def _begin(self, engine: Engine) -> None:
        """Note time and place of the first step: what a run does at its start is over then, its resume too."""
        if not self._begun:
            self._begun = True
            self.pace.begin(0 if self.work else engine.state.iteration - 1)

    def _say(self, engine: Engine) -> None:
        if self.pace.due():
            state = engine.state
            total = (state.max_epochs or 1) * (state.epoch_length or 0)
            work = (sum(self.work[: state.iteration]), sum(self.work)) if self.work else None
            logger.info("%s %s", self.unit, self.pace.left(state.iteration, total, work))
