"""How long a study's trainings took, and how long the whole of it would take with longer ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_text
from .jobs import SETTINGS, Job, stale
from .state import State

FILE = "work/seconds"


@dataclass(frozen=True)
class Taken:
    """Seconds that a study has taken so far, in all calls.

    Args:
        seconds: that went into ``runs``.
        runs: names of trainings; None: an earlier version did not say, all that there are.
        before: of calls since that ended before it was known what is trained, a plan among them.
    """

    seconds: float = 0.0
    runs: tuple[str, ...] | None = ()
    before: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Taken:
        """What the file in a study's folder says; nothing where there is none, or one that cannot be read: that is no reason
        to withhold a page."""
        try:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if isinstance(found, dict):
                runs = None if found["runs"] is None else tuple(found["runs"])
                return cls(float(found["seconds"]), runs, float(found["before"]))
            return cls(float(found), None)
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Write it, where the study has got so far as to have a folder for it."""
        if (folder / FILE).parent.is_dir():
            said = {"seconds": round(self.seconds), "runs": self.runs, "before": round(self.before)}
            write_text(folder / FILE, json.dumps(said) + "\n")

    def of(self, runs: Path, jobs: Sequence[Job]) -> float:
        r"""Seconds that went into what a study is made of now: :math:`t_0 + t \, \sum_{i \in K} s_i / \sum_i s_i`.

        :math:`t` are :attr:`seconds`, :math:`t_0` those :attr:`before`, :math:`s_i` those of the trainings that t went into;
        K are those of them that are as the jobs are now. What went into others, such as those of a study of fewer labels,
        is not this study's.

        Args:
            runs: folder of the runs.
            jobs: of the study as it is now.
        """
        into = [path.parents[1].name for path in runs.glob(f"*/{SETTINGS}")] if self.runs is None else self.runs
        kept = set(valid(runs, jobs))
        seconds = {name: known for name in into if math.isfinite(known := training_seconds(runs / name))}
        whole = math.fsum(seconds.values())
        share = math.fsum(seconds[name] for name in seconds if name in kept) / whole if whole else 1.0
        return self.before + self.seconds * share


def valid(runs: Path, jobs: Iterable[Job]) -> list[str]:
    """Names of the jobs that have begun as they are now."""
    return [job.name for job in jobs if (runs / job.name / SETTINGS).is_file() and not stale(runs / job.name, job)]


def training_seconds(run: Path) -> float:
    """Seconds of all epochs of a run; NaN where it does not say."""
    try:
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return math.fsum(float(row["seconds"]) for row in csv.DictReader(file))
    except (OSError, KeyError, ValueError):
        return math.nan


def study_seconds(state: State, steps: int) -> float:
    r"""Seconds of the whole study with trainings of so many steps, at the pace of those that are done:
    :math:`r + \frac{n}{n_0} \frac{\sum_i s_i}{j}`.

    :math:`s_i` are the seconds of the trainings, of :math:`n_0` steps, j at a time; r is what all else took: looking,
    the probe, scores, label maps.

    Args:
        steps: n >= 1.

    Returns:
        NaN where a training is not done as the study is now, or does not say how long it took.
    """
    jobs, settings = state.trainings.jobs, state.settings
    if any(job.name in state.stale for job in jobs):
        return math.nan
    together = math.fsum(training_seconds(state.runs / job.name) for job in jobs) / settings.jobs
    return max(state.seconds - together, 0.0) + together * steps / settings.steps
