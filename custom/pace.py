"""How far something is that takes long, for logs: a line now and then, where a terminal has a bar."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

EVERY_S = 30.0  # between two lines of a log


class Pace:
    """When the next line is due, and how much time is left.

    Args:
        every_s: seconds between two lines, and before the first one.
        clock: seconds, from any start.
    """

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.every_s, self.clock = every_s, clock
        self.begin()

    def begin(self, done: float = 0) -> None:
        """Note time and place of the start: ``done`` was done before it, and says nothing of the pace."""
        self._began = self._said = self.clock()
        self._first = done

    def due(self) -> bool:
        """Whether a line is due; the next one is counted from now."""
        now = self.clock()
        if now - self._said < self.every_s:
            return False
        self._said = now
        return True

    def left(self, done: int, total: int, work: tuple[float, float] | None = None) -> str:
        """``3 of 20, about 0:03:24 left``, by what was done since the start, at least one.

        Args:
            work: done and in all, in any unit, where the items differ in it; by it the time is reckoned.
        """
        ready, whole = work or (done, total)
        seconds = (self.clock() - self._began) / (ready - self._first) * (whole - ready)
        return f"{done} of {total}, about {timedelta(seconds=round(seconds))} left"


def shown(
    items: Iterable[Item],
    what: str,
    total: int,
    unit: str,
    clock: Callable[[], float] = time.monotonic,
    *,
    every_s: float = EVERY_S,
) -> Iterator[Item]:
    """The items one by one: with a bar in a terminal, after two seconds; in a log with a line every half minute."""
    from tqdm import tqdm

    if sys.stderr.isatty():  # where the bar is drawn
        yield from tqdm(items, desc=what, total=total, unit=unit, disable=None, delay=2)
        return
    pace = Pace(every_s, clock)
    for done, item in enumerate(items, start=1):
        if pace.due():
            say(f"{what}: {unit} {pace.left(done, total)}")
        yield item


def say(text: str) -> None:
    """Write a line to the log; where none is set up, as in a command that prints, to stderr, where a bar would go."""
    if logger.hasHandlers():
        logger.info("%s", text)
    else:
        print(text, file=sys.stderr, flush=True)
