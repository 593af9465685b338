"""Words and figures of the rows that Markdown, CSV and page share."""

from __future__ import annotations

import math

from custom.evaluation.compare import FEW_PATIENTS, Difference

from .results import Entry, mean_and_sd

GAP = "-"  # in the place of a number that is not there
MEANING = (
    "Dice on the test part: the mean over cases of the mean over classes, of the network that serves; mean and standard "
    "deviation (n - 1) over seeds. “Final” are the weights of the last step, “best” those of the best epoch in validation; none "
    "where there was no validation.",
    "Difference: the method minus its baseline (supervised training unless another is named), in points (1/100) of Dice, "
    "from the same seed and on the same cases. A case's differences are averaged over the seeds first; then come the "
    "mean over cases, its 95 % bootstrap interval over patients, and Wilcoxon's signed-rank test over patients. So interval "
    "and p speak of other patients, not of other seeds: the differences of single seeds stand in the page.",
    f"p (Holm): corrected for the number of methods on the same task and labels. With fewer than {FEW_PATIENTS} patients no "
    "difference is evidence.",
    "Dice is over the cases whose label has the structure. Missed: structures of the labels of which the prediction has nothing, "
    "which is Dice 0; false alarms: classes that the prediction has and the label lacks, which have no Dice; of all seeds "
    "together. HD95 is a mean over the cases without a missed structure.",
    "Minutes: of the training, validation included. MB: the process's largest memory.",
)


def dice_text(entry: Entry, file: str) -> str:
    """Mean and standard deviation over seeds; of one seed the mean alone, and that it is one."""
    values = entry.means(file)
    mean, sd = mean_and_sd(values)
    if len(values) < 2:
        return f"{number_text(mean, 3)} (1 seed)" if values else GAP
    return f"{number_text(mean, 3)} +- {number_text(sd, 3)}"


def change_texts(entry: Entry, file: str) -> tuple[str, str, str, str]:
    """Difference in points, interval, p, p by Holm."""
    if file not in entry.changes:
        return (GAP,) * 4
    found = entry.changes[file].mean
    return points_text(found.mean), interval_text(found), p_text(found.p), p_text(entry.holm.get(file, math.nan))


def network_name(entry: Entry, file: str) -> str:
    """What the run calls the network of a file of weights."""
    return str(entry.rows[0].get("served_as", {}).get(file.removesuffix("_final"), file))


def number_text(value: float, digits: int) -> str:
    return GAP if math.isnan(value) else f"{value:.{digits}f}"


def points_text(value: float) -> str:
    """Return points of Dice with a sign; never -0.0."""
    rounded = round(100 * value, 1) + 0.0
    return f"{rounded:+.1f}" if rounded else "0.0"


def interval_text(found: Difference) -> str:
    return GAP if math.isnan(found.low) else f"{points_text(found.low)} to {points_text(found.high)}"


def p_text(p: float) -> str:
    if math.isnan(p):
        return GAP
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
