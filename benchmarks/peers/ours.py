"""Our bundles in the same time: a few steps are timed, then as many are trained as fit."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom.files import write_text
from custom.study.budget import minutes
from custom.study.commands import IMPORTS, SECONDS
from custom.study.jobs import MAPS, Job, Runner, lengths
from custom.study.plan import PROBE_STEPS

from .cohort import Cohort, PeersError, links

PROBE = 0.05  # of the budget, that measuring the pace takes, besides it


@dataclass(frozen=True)
class Pace:
    """What a bundle takes on this machine, in seconds.

    Args:
        start: of a training, besides its steps: imports, reading the scans, the files at the end.
        step: of one optimiser step.
    """

    start: float
    step: float

    def steps(self, budget: float, name: str) -> int:
        """How many steps fit into ``budget`` seconds, in whole epochs.

        Raises:
            PeersError: none; the text says what would do.
        """
        count = (budget - self.start) / self.step
        if count < 1:
            needed = minutes(self.start + 20 * self.step)
            raise PeersError(
                f"A budget of {minutes(budget)} is too small for {name}: its start takes {minutes(self.start)}, a step "
                f"{self.step:.2g} s. Allow at least {needed} (--budget), or use a faster machine"
            )
        each = lengths(int(count))["epoch_steps"]
        return int(count) // each * each


def run(
    cohort: Cohort, bundle: str, folder: Path, budget: float, threads: int, seed: int, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Train a bundle for ``budget`` seconds and segment the test scans; what is done already is not done again.

    Args:
        overrides: of bundle and task, such as a coarser grid.

    Returns:
        ``training_seconds``, ``inference_seconds`` of all scans, ``steps``, ``overrides``. The label maps are where
        :func:`maps_of` says.

    Raises:
        PeersError: the budget is too small, or a training failed.
        Stopped: on SIGTERM or Ctrl-C.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pace = _pace(cohort, bundle, folder, budget, threads, seed, overrides)
    steps = pace.steps(budget, bundle)
    images = links(cohort, folder / "images")
    job = Job(
        bundle, bundle, cohort.own_list, cohort.task_file, steps, seed, images, f"{bundle}, {steps} steps", overrides
    )
    _finish(folder / "run", threads, job)
    took = json.loads((folder / "run" / bundle / "job" / SECONDS).read_text())
    return {
        "training_seconds": pace.start + sum(_epochs(folder / "run" / bundle)),
        "inference_seconds": took[[key for key in took if key != IMPORTS][-1]],
        "steps": steps, "overrides": dict(overrides),
    }  # fmt: skip


def maps_of(folder: Path, bundle: str) -> Path:
    """Where the label maps of :func:`run` are."""
    return folder / "run" / bundle / MAPS


def _pace(
    cohort: Cohort, bundle: str, folder: Path, budget: float, threads: int, seed: int, overrides: Mapping[str, Any]
) -> Pace:
    """Measured by a few steps, then by as many as take :data:`PROBE` of the budget, since a machine is seldom as fast for minutes
    as for a second; kept for a later call."""
    kept = folder / "pace.json"
    if not kept.is_file():
        first = _probe(cohort, bundle, folder / "probe", PROBE_STEPS, threads, seed, overrides)
        longer = max(PROBE_STEPS, int(PROBE * budget / 2 / first.step))
        pace = _probe(cohort, bundle, folder / "longer_probe", longer, threads, seed, overrides)
        write_text(kept, json.dumps(asdict(pace)) + "\n")
    return Pace(**json.loads(kept.read_text()))


def _probe(
    cohort: Cohort, bundle: str, folder: Path, steps: int, threads: int, seed: int, overrides: Mapping[str, Any]
) -> Pace:
    """Two epochs of so many steps, of which the second is timed."""
    few = {**overrides, "epoch_steps": steps}
    job = Job(bundle, bundle, cohort.own_list, cohort.task_file, 2 * steps, seed, title=f"{2 * steps} steps of {bundle}",
              overrides=few)  # fmt: skip
    _finish(folder, threads, job)
    took = json.loads((folder / bundle / "job" / SECONDS).read_text())
    epochs = _epochs(folder / bundle)
    return Pace(took[IMPORTS] + took[str(cohort.task_file)] - sum(epochs), epochs[-1] / steps)


def _finish(folder: Path, threads: int, job: Job) -> None:
    if failed := Runner(folder, 1, threads).run([job]):
        raise PeersError(f"{job.title} failed: {failed[job.name]}")


def _epochs(run: Path) -> list[float]:
    """Seconds of each epoch, those of interrupted calls too."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]
