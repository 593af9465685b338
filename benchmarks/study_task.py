"""How far is the task that a study plans from one made by hand? Both trained for the same time, judged by hidden labels.

    python -m benchmarks.study_task STUDY custom/tasks/hc18.yaml LABELS

STUDY is the folder of a finished study whose unlabelled scans have labels in LABELS, which it did not see. Both bundles of the
study are trained once more, with its labels, seed, cores and the task file given, for as long as its own last trainings took; a
step is timed in a training of 60 steps first. Prints rows for docs/study.md. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from custom.markdown import table
from custom.study import settings as study
from custom.study.jobs import Job, Runner, whole_epochs
from custom.study.settings import TASK
from custom.study.trainings import FINAL, RUNS, WORK, final_name

from .study import dices, hidden_labels, paired, patients_of

HEADS = (
    "bundle",
    "steps: planned, by hand",
    "seconds of training",
    "Dice: planned, by hand",
    "planned - by hand, points",
)
PROBE = 60  # steps: 20 epochs


def rows(folder: Path, task: Path, labels: Path) -> list[list[str]]:
    """A row for each of the two bundles.

    Raises:
        SystemExit: a training failed.
    """
    settings = study.read(folder)
    images = folder / WORK / "images/unlabelled"
    runner = Runner(folder / WORK / "by_hand", settings.jobs, settings.threads)

    def job(bundle: str, steps: int, name: str, maps_of: Path | None = None) -> Job:
        return Job(name, bundle, folder / WORK / f"{FINAL}.json", task, steps, settings.seed, maps_of)

    bundles = (settings.baseline, settings.method)
    _all(runner, [job(bundle, PROBE, f"probe_{bundle}") for bundle in bundles])
    planned = {bundle: folder / RUNS / final_name(bundle) for bundle in bundles}
    goals = {bundle: sum(_seconds(path)) for bundle, path in planned.items()}
    steps = {}
    for bundle in bundles:
        probed = _seconds(runner.folder / f"probe_{bundle}")
        pace = float(np.median(probed)) * len(probed) / PROBE  # a step; the median, since a machine has other work
        steps[bundle] = whole_epochs(goals[bundle] / pace)
    _all(runner, [job(bundle, steps[bundle], bundle, images) for bundle in bundles])
    values = [yaml.safe_load(path.read_text(encoding="utf-8"))["label_values"] for path in (folder / TASK, task)]
    hidden, patients, found = hidden_labels(labels), patients_of(folder, settings), []
    for bundle in bundles:
        by_hand = runner.folder / bundle
        ours, theirs = (
            dices(path / "label_maps", hidden, of) for path, of in zip((planned[bundle], by_hand), values, strict=True)
        )
        _, other, one, difference = paired(theirs, ours, patients)
        found.append([
            bundle, f"{settings.steps:,}, {steps[bundle]:,}", f"{goals[bundle]:.0f}, {sum(_seconds(by_hand)):.0f}",
            f"{one.mean():.3f}, {other.mean():.3f}", difference,
        ])  # fmt: skip
    return found


def _all(runner: Runner, jobs: Sequence[Job]) -> None:
    if failed := runner.run(jobs):
        raise SystemExit("\n".join(f"{name}: {why}" for name, why in failed.items()))


def _seconds(folder: Path) -> list[float]:
    """The seconds that each epoch of a run trained."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_task", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("study", type=Path)
    parser.add_argument("task", type=Path, help="a file of custom/tasks, for these scans")
    parser.add_argument("labels", type=Path, help="folder of the labels that were hidden")
    options = parser.parse_args(arguments)
    print(table(HEADS, rows(options.study.resolve(), options.task.resolve(), options.labels)))


if __name__ == "__main__":
    main()
