"""Was a study right? Its figures against labels that were hidden from it.

    python -m benchmarks.study STUDY LABELS

STUDY is the folder of a finished study whose unlabelled scans have labels in LABELS, under the names of their images, which the
study did not see. Prints a row for docs/study.md: the verdict against the difference over all hidden labels, and the predicted
Dice of every scan against its true one. Beside it stand three guesses of the same scans: the mean Dice of the labelled scans that
judged, which a user of the page knows; and the best line over the agreement and the best constant, which are fitted to the hidden
Dice: no prediction can know them. The order of the page, and that by agreement alone, are ranked against the true Dice.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from custom.cohort.names import is_image, stem
from custom.dice import class_dice, mean_of_known
from custom.evaluation.bootstrap import bootstrap_interval
from custom.evaluation.case_table import read_cases
from custom.evaluation.compare import paired_difference
from custom.markdown import table
from custom.study import settings as study
from custom.study.label_maps import map_of, read_map
from custom.study.plan import cohort_of
from custom.study.settings import TASK
from custom.study.trainings import RUNS, final_name

Values = NDArray[np.float64]
HEADS = (
    "study",
    "said, points",
    "true, points",
    "scans",
    "predicted Dice: error",
    "of the labelled scans' mean",
    "of the best line",
    "of the best constant",
    "rank correlation of the page's order",
    "of agreement",
)


def truth(folder: Path, labels: Path) -> list[str]:
    """The row of a study."""
    settings = study.read(folder)
    task = yaml.safe_load((folder / TASK).read_text(encoding="utf-8"))
    hidden = hidden_labels(labels)
    theirs_of, ours_of = (
        dices(folder / RUNS / final_name(bundle) / "label_maps", hidden, task["label_values"])
        for bundle in (settings.baseline, settings.method)
    )
    names, theirs, ours, true = paired(theirs_of, ours_of, patients_of(folder, settings))
    tables = [read_cases(folder / f"work/scores/{bundle}.csv") for bundle in (settings.baseline, settings.method)]
    said = paired_difference(tables[1], tables[0])
    predicted, agreement = _predicted(folder)
    by_method = json.loads((folder / "bundle/run.json").read_text()) == json.loads(
        (folder / RUNS / final_name(settings.method) / "bundle/run.json").read_text()
    )  # fmt: skip
    serving = ours if by_method else theirs
    with_figure = [k for k, name in enumerate(names) if math.isfinite(predicted.get(name, math.nan))]
    errors = [abs(predicted[names[k]] - serving[k]) for k in with_figure]
    ranked = [k for k, name in enumerate(names) if math.isfinite(agreement.get(name, math.nan))]
    x, y = np.array([agreement[names[k]] for k in ranked]), serving[ranked]
    # all guesses are judged on the scans that have a figure
    same = np.isin(ranked, with_figure) if with_figure else np.full(len(ranked), True)
    best = np.abs(np.polyval(np.polyfit(x[same], y[same], 1), x[same]) - y[same]).mean()
    constant = np.abs(y[same] - np.median(y[same])).mean()
    known = mean_of_known(row["dice_mean"] for row in tables[by_method])
    naive = np.abs(y[same] - known).mean()
    place = {name: k for k, name in enumerate(predicted)}
    listed = [k for k, name in enumerate(names) if name in place]
    return [
        folder.name,
        f"{100 * said.mean:+.1f} ({100 * said.low:.1f} to {100 * said.high:.1f})",
        true,
        str(len(names)),
        f"{100 * float(np.mean(errors)):.1f} ({len(with_figure)} scans)" if errors else "none told",
        f"{100 * naive:.1f}",
        f"{100 * best:.1f}",
        f"{100 * constant:.1f}",
        f"{_spearman([place[names[k]] for k in listed], serving[listed]):.2f}",
        f"{_spearman(x, y):.2f}",
    ]


def hidden_labels(folder: Path) -> dict[str, Path]:
    """The files of a folder of labels, by the name of their scan."""
    return {stem(path): path for path in sorted(folder.iterdir()) if is_image(path)}


def paired(
    before: Mapping[str, float], after: Mapping[str, float], patients: Mapping[str, str]
) -> tuple[list[str], Values, Values, str]:
    """The scans that both have a Dice of, both Dice of each, and their mean difference in points with its interval over
    patients."""
    names = sorted(name for name in before if math.isfinite(before[name]) and math.isfinite(after.get(name, math.nan)))
    one, other = (np.array([found[name] for name in names]) for found in (before, after))
    low, high = bootstrap_interval(other - one, [patients[name] for name in names])
    return names, one, other, f"{100 * (other - one).mean():+.1f} ({100 * low:.1f} to {100 * high:.1f})"


def dices(folder: Path, hidden: dict[str, Path], values: Sequence[int]) -> dict[str, float]:
    """Mean Dice of each scan with a map and a hidden label."""
    found = {}
    for name, label in hidden.items():
        if (file := map_of(folder, name)) is None:
            continue
        pred, wanted = read_map(file, values), read_map(label, values)
        each = [
            class_dice(int(((pred == k) & (wanted == k)).sum()), int((pred == k).sum()), int((wanted == k).sum()))
            for k in range(1, len(values))
        ]
        found[name] = mean_of_known(each)
    return found


def patients_of(folder: Path, settings: study.Settings) -> dict[str, str]:
    images = settings.images if isinstance(settings.images, str) else {k: Path(v) for k, v in settings.images.items()}
    labels = Path(settings.labels) if settings.labels else None
    scans = cohort_of(folder, Path(images) if isinstance(images, str) else images, labels, settings.patient).scans
    return {scan.name: patient for patient, found in scans.items() for scan in found}


def _predicted(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Predicted Dice and agreement of each scan without a label, in the order of the page."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["patient"]]
    number = {key: {row["scan"]: float(row[key] or "nan") for row in rows} for key in ("predicted_dice", "agreement")}
    return number["predicted_dice"], number["agreement"]


def _spearman(x: ArrayLike, y: ArrayLike) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("study", type=Path)
    parser.add_argument("labels", type=Path, help="folder of the labels that were hidden")
    options = parser.parse_args(arguments)
    print(table(HEADS, [truth(options.study.resolve(), options.labels)]))


if __name__ == "__main__":
    main()
