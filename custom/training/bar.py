"""A bar for whatever takes longer than a few seconds."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar


class Bar:
    """Ignite's progress bar over the whole run, in a terminal only: in a log file it would be a wall of lines.

    Args:
        unit: what one iteration is.
    """

    def __init__(self, unit: str = "step") -> None:
        self.bar = ProgressBar(persist=False, desc="", unit=unit, disable=None)

    def attach(self, engine: Engine) -> None:
        self.bar.attach(engine, event_name=Events.ITERATION_COMPLETED, closing_event_name=Events.EPOCH_COMPLETED)
