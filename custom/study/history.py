"""What earlier pages of a study said, with fewer labels: what the labels that came since brought."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..cohort.words import plural
from ..evaluation.bootstrap import bootstrap_interval
from ..evaluation.compare import FEW_PATIENTS
from ..files import write_text
from ..report.pair import Pair
from .jobs import labels_digest
from .state import State
from .trainings import WORK

HISTORY = "work/history.json"
_ALIKE = (
    "baseline",
    "method",
    "task",
    "overrides",
    "folds",
    "seed",
)  # without which two pages say nothing of the labels


def before(state: State, both: Pair, labelled: int) -> list[str]:
    """A line for each earlier page of other labels and the same bundles and task; what this one says is kept for the next.

    Patients who judged both times, each time by networks that had not seen them, are compared one by one.

    Args:
        labelled: patients of this page.
    """
    path = state.folder / HISTORY
    history = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    without, with_ = (round(mean, 4) for mean in both.means("dice_mean"))
    labels = _label_of_scans(state)
    dice = {
        base["case"]: [base["patient"], base["dice_mean"], mine["dice_mean"], labels.get(base["case"], "")]
        for base, mine in zip(both.baseline, both.ours, strict=True)
        if not math.isnan(base["dice_mean"] - mine["dice_mean"])
    }
    settings = state.settings
    now = {"labelled": labelled, "labels": _labels(state), "steps": settings.steps, "baseline": settings.baseline,
           "method": settings.method, "folds": settings.folds, "seed": settings.seed,
           "overrides": json.loads(json.dumps(settings.overrides)),
           "task": hashlib.sha256(json.dumps(state.task, sort_keys=True).encode()).hexdigest(),
           "without": without, "with": with_, "dice": dice}  # fmt: skip
    others = [row for row in history if not _same(row, now, ("labels", *_ALIKE)) or row["labelled"] != labelled]
    write_text(path, json.dumps([*others, now], indent=1) + "\n")
    return [_line(row, now, state.phrases) for row in others if _same(row, now, _ALIKE)]


def _labels(state: State) -> str:
    path = state.folder / WORK / "final.json"
    return labels_digest(path.read_text(encoding="utf-8")) if path.is_file() else ""


def _label_of_scans(state: State) -> dict[str, str]:
    """A digest of the label that each scan was judged by."""
    return {
        state.scan_of_case(case): labels_digest(json.dumps({"test": [entry]})) for case, entry in state.judges.items()
    }


def _same(row: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> bool:
    return all(row.get(key, now[key]) == now[key] for key in keys)  # rows of earlier versions say less


def _line(row: dict[str, Any], now: dict[str, Any], phrases: tuple[str, str]) -> str:
    earlier = (
        f"Before, with {row['labelled']} labelled patients ({row['steps']} steps): Dice {row['with']:.3f} {phrases[1]}, "
        f"{row['without']:.3f} {phrases[0]}."
    )
    judged, same = row.get("dice", {}), now["dice"]
    both_times = [case for case in same if case in judged and judged[case][3:] in ([], same[case][3:])]
    repaired = sum(case in judged for case in same) - len(both_times)
    patients = [now["dice"][case][0] for case in both_times]
    if len(set(patients)) < 2:
        return f"{earlier} Other patients judged then, so the two are not compared patient by patient."
    gains = [
        f"{_gain([now['dice'][case][k] - row['dice'][case][k] for case in both_times], patients)} {phrase}"
        for k, phrase in ((2, phrases[1]), (1, phrases[0]))
    ]
    few = "; too few patients to tell" if len(set(patients)) < FEW_PATIENTS else ""
    more = now["labelled"] - row["labelled"]
    cause = f"{more} more" if more > 0 else f"{-more} fewer" if more < 0 else "labels corrected"
    steps = f" and {now['steps']} steps" if now["steps"] != row["steps"] else ""
    but = f" ({plural(repaired, 'scan')} left out, whose label was corrected since)" if repaired else ""
    who = f"the {len(set(patients))} patients who judged both times{but}"
    return f"{earlier} With {cause}{steps}, on {who}: {' and '.join(gains)}{few}."


def _gain(differences: list[float], patients: list[str]) -> str:
    low, high = bootstrap_interval(differences, patients)
    mean = math.fsum(differences) / len(differences)
    return f"{100 * mean:+.1f} Dice points (95 % interval {100 * low:.1f} to {100 * high:.1f})"
