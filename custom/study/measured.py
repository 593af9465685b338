"""What the plan measured, for the runs that follow it: the room that a study takes and the pace of its trainings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_text
from .space import Disk
from .time_left import Speed

FILE = "work/measured.json"


@dataclass(frozen=True)
class Measured:
    """The room on disk and the pace, with the task that is planned."""

    disk: Disk
    speed: Speed


def write(folder: Path, measured: Measured) -> None:
    """Write it below the folder of a study."""
    write_text(folder / FILE, json.dumps(asdict(measured), indent=1) + "\n")


def read(folder: Path) -> Measured | None:
    """What a study was measured as; None of one that was planned before this was kept, or whose file is damaged:
    nothing depends on it that a study could not do without."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Measured(Disk(**found["disk"]), Speed(**found["speed"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
