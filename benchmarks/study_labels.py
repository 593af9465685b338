"""Did "more labels" come true? What a study said ten more labels would bring, against a study that has them.

    python -m benchmarks.study_labels BEFORE AFTER LABELS

BEFORE and AFTER are folders of finished studies of the same scans, plan and steps; AFTER has labels of more patients. LABELS
has those that are hidden from both. Prints a row a bundle for docs/study.md: the gain that the curve of BEFORE gives for so many
more, and the gain of the networks of all labels, over the scans that are hidden from both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from custom.markdown import table
from custom.study import settings as study
from custom.study.labels_worth import NoCurve
from custom.study.more_labels import curves_of
from custom.study.plan import cohort_of
from custom.study.settings import TASK
from custom.study.state import State
from custom.study.trainings import FINAL, RUNS, WORK, final_name, trainings

from .study import dices, hidden_labels, paired, patients_of

HEADS = ("bundle", "labelled patients", "Dice before, after", "said, points", "true, points", "scans")


def rows(before: Path, after: Path, labels: Path) -> list[list[str]]:
    """A row for each of the two bundles.

    Raises:
        SystemExit: the first study has no curve, or the second no labels more.
    """
    settings = study.read(before)
    task = yaml.safe_load((before / TASK).read_text(encoding="utf-8"))
    scans = cohort_of(before, Path(str(settings.images)), Path(settings.labels), settings.patient).scans
    state = State(before, settings, task, trainings(before, settings, scans))
    curves = curves_of(state, state.parts)
    if isinstance(curves, NoCurve):
        raise SystemExit(f"{before} says nothing of more labels: {curves.reason}")
    first, second = (_labelled(folder) for folder in (before, after))
    if len(second) <= len(first):
        raise SystemExit(f"{after} has {len(second)} labelled patients, {before} {len(first)}: expected more")
    patients = patients_of(before, settings)
    hidden = {
        name: path
        for name, path in hidden_labels(labels).items()
        if name in patients and patients[name] not in first | second
    }
    found = []
    for bundle, (curve, _) in zip(state.bundles, curves.values(), strict=True):
        maps = [folder / RUNS / final_name(bundle) / "label_maps" for folder in (before, after)]
        one, other = (dices(folder, hidden, task["label_values"]) for folder in maps)
        names, without, with_, true = paired(one, other, patients)
        said = curve.gain(len(second) - len(first), len(first))
        found.append([
            bundle, f"{len(first)} to {len(second)}", f"{without.mean():.3f}, {with_.mean():.3f}",
            f"{said.value:+.1f} ({said.low:.1f} to {said.high:.1f})", true, str(len(names)),
        ])  # fmt: skip
    return found


def _labelled(folder: Path) -> set[str]:
    """The patients with whose labels a study's last networks were trained."""
    entries = json.loads((folder / WORK / f"{FINAL}.json").read_text(encoding="utf-8"))["labelled"]
    return {entry["patient"] for entry in entries}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_labels", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, help="the same with labels of more patients")
    parser.add_argument("labels", type=Path, help="folder of the labels that are hidden from both")
    options = parser.parse_args(arguments)
    print(table(HEADS, rows(options.before.resolve(), options.after.resolve(), options.labels)))


if __name__ == "__main__":
    main()
