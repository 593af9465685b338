"""How long a study's trainings took, and how long the whole of it would take with longer ones."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from .state import State


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
