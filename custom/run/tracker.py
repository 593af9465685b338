"""What is told of a run while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

Rows = Sequence[Mapping[str, float]]


class Tracker(Protocol):
    """What else is told of a run. Nothing of it raises: no account of a training may stop it."""

    def begin(self, rows: Rows) -> None:
        """A new run starts, or one goes on behind these rows."""

    def update(self, rows: Rows) -> None:
        """The last row's epoch is in a checkpoint: it will not be computed again."""

    def finish(self, rows: Rows, pictures: Sequence[Path]) -> None:
        """Every file of the run is there."""

    def close(self) -> None:
        """The run is over, whether it finished or not."""
