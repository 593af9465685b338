"""Who listens to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Rows = Sequence[Mapping[str, float]]


class Tracker(Protocol):
    """Follows a run, as one of ``Output.trackers``. No method raises: nothing that follows a training may stop it.

    A tracker that a config lists among its handlers has ``attach(engine)``, which adds it there on rank 0.
    """

    def begin(self, rows: Rows) -> None:
        """Hear that a new run starts, or that one goes on after these rows."""

    def update(self, rows: Rows) -> None:
        """Hear that the last row's epoch is in a checkpoint: it will not be computed again."""

    def finish(self, rows: Rows) -> None:
        """Hear that every file of the run is there. Pictures are the ``*.png`` in its folder."""

    def close(self) -> None:
        """Hear that the run is over, whether it finished or not."""
