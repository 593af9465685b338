"""What earlier pages of a study said, with fewer labels: what the labels that came since brought."""

from __future__ import annotations

import json
import math
from typing import Any

from ..evaluation.bootstrap import bootstrap_interval
from ..evaluation.compare import FEW_PATIENTS
from ..files import write_text
from ..report.pair import Pair
from .state import State

HISTORY = "work/history.json"


def before(state: State, both: Pair, labelled: int) -> list[str]:
    """A line for each earlier page of other labels; what this one says is kept for the next.

    Patients who judged both times, each time by networks that had not seen them, are compared one by one.

    Args:
        labelled: patients of this page.
    """
    path = state.folder / HISTORY
    history = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    without, with_ = (round(mean, 4) for mean in both.means("dice_mean"))
    dice = {
        base["case"]: [base["patient"], base["dice_mean"], mine["dice_mean"]]
        for base, mine in zip(both.baseline, both.ours, strict=True)
        if not math.isnan(base["dice_mean"] - mine["dice_mean"])
    }
    now = {"labelled": labelled, "steps": state.settings.steps, "without": without, "with": with_, "dice": dice}
    earlier = [row for row in history if row["labelled"] != labelled]
    write_text(path, json.dumps([*earlier, now], indent=1) + "\n")
    return [_line(row, now) for row in earlier]


def _line(row: dict[str, Any], now: dict[str, Any]) -> str:
    told = (
        f"Before, with {row['labelled']} labelled patients ({row['steps']} steps): Dice {row['with']:.3f} with the unlabelled "
        f"scans, {row['without']:.3f} without."
    )
    both_times = [case for case in now["dice"] if case in row.get("dice", {})]
    patients = [now["dice"][case][0] for case in both_times]
    if len(set(patients)) < 2:
        return f"{told} Other patients judged then, so the two are not compared patient by patient."
    gains = [
        f"{_gain([now['dice'][case][k] - row['dice'][case][k] for case in both_times], patients)} {name}"
        for k, name in ((2, "with them"), (1, "without"))
    ]
    few = "; too few patients to tell" if len(set(patients)) < FEW_PATIENTS else ""
    more = now["labelled"] - row["labelled"]
    cause = f"{more} more" if more > 0 else f"{-more} fewer"
    steps = f" and {now['steps']} steps" if now["steps"] != row["steps"] else ""
    return f"{told} With {cause}{steps}, on the {len(set(patients))} patients who judged both times: {' and '.join(gains)}{few}."


def _gain(differences: list[float], patients: list[str]) -> str:
    low, high = bootstrap_interval(differences, patients)
    mean = math.fsum(differences) / len(differences)
    return f"{100 * mean:+.1f} Dice points (95 % interval {100 * low:.1f} to {100 * high:.1f})"
