"""What the unlabelled scans did in a run, by its table of epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WEAK = 0.01  # of the loss: what reads unlabelled scans and is less has hardly moved a weight
EMPTY = 1e-5  # of the voxels: a teacher that calls fewer foreground teaches background
OFTEN = 0.25  # of the epochs
TEACHERS = ("teacher_foreground", "pseudo_foreground")  # what methods watch: a share of the unlabelled voxels
# the same where a network is compared with itself or another one: whose answer it is; coarse_refined counts both halves
ANSWERS = {
    "unlabelled_foreground": "network",
    "foreground/refined": "refined network",
    "foreground/coarse": "coarse network",
}

Rows = Sequence[Mapping[str, float]]


def weak_terms(rows: Rows, terms: Sequence[str], later: Mapping[str, float] | None = None) -> str | None:
    """All terms that read unlabelled scans were together less than 1 % of the loss in every epoch that computed one.

    Args:
        rows: of ``metrics.csv``: ``term/<name>`` before its weight, ``weight/<name>``.
        terms: those that read unlabelled scans.
        later: weights that are still to come, which count where they are larger than those of an epoch.

    Returns:
        A sentence, or None.
    """
    known = [(row["epoch"], _share(row, terms, later or {})) for row in rows if any(_term(row, t) for t in terms)]
    if not known or max(share for _, share in known) >= WEAK:
        return None
    names, largest = " and ".join(terms), 100 * max(share for _, share in known)
    return (
        f"What reads unlabelled scans ({names}) was at most {largest:.1g} % of the loss in every epoch "
        f"({known[0][0]:g} to {known[-1][0]:g}){', also with the weight it ends with' if later else ''}: they hardly train "
        f"anything. Raise its weight (weights::{terms[0]})."
    )


def empty_teacher(rows: Rows, epochs: int, terms: Sequence[str]) -> str | None:
    """What teaches on unlabelled scans called next to nothing foreground, in a quarter of the run or more.

    An answer that is not a teacher's is watched from the first step on: it counts in the epochs that computed a
    term on it.

    Args:
        rows: of ``metrics.csv``: ``watch/`` with one of :data:`TEACHERS` or :data:`ANSWERS`.
        epochs: of the whole run.
        terms: those that read unlabelled scans.

    Returns:
        A sentence, or None.
    """
    for name in TEACHERS:
        if found := _empty(rows, name, epochs):
            return (
                f"The teacher was empty in {found} ({name} below {EMPTY:g} of the unlabelled "
                "voxels): it taught that there is nothing. Begin its term later (`from`), train longer, or label more."
            )
    counted = [row for row in rows if any(_computed(row, term) for term in terms)]
    for name, who in ANSWERS.items():
        if found := _empty(counted, name, epochs):
            voxels = "unlabelled voxels" if name.startswith("unlabelled") else "voxels"
            return (
                f"The {who} was empty in {found} ({name} below {EMPTY:g} of the {voxels}): what reads unlabelled scans "
                f"({' and '.join(terms)}) saw background alone. Begin it later (`from`), train longer, or label more."
            )
    return None


def _empty(rows: Rows, name: str, epochs: int) -> str:
    """``2 of 8 epochs`` with a watched share of next to nothing; empty where they are less than a quarter of all."""
    watched = [row[f"watch/{name}"] for row in rows if not math.isnan(row.get(f"watch/{name}", math.nan))]
    empty = sum(value < EMPTY for value in watched)
    return f"{empty} of {len(watched)} epochs" if empty and empty >= OFTEN * epochs else ""


def _computed(row: Mapping[str, float], name: str) -> bool:
    """Whether an epoch computed a term, with a weight; it may have been 0."""
    return f"term/{name}" in row and row.get(f"weight/{name}", 0.0) > 0


def _term(row: Mapping[str, float], name: str) -> bool:
    """Whether an epoch computed a term, with a weight, and it was not 0: of one at 0 another advice speaks."""
    return abs(row.get(f"term/{name}", 0.0)) > 0 and row.get(f"weight/{name}", 0.0) > 0


def _share(row: Mapping[str, float], terms: Sequence[str], later: Mapping[str, float]) -> float:
    """The share of ``terms`` in the sum of all weighted terms, each by its size."""
    sizes = {}
    for column, value in row.items():
        name = column.removeprefix("term/")
        if column != name and not math.isnan(value):
            weight = row.get(f"weight/{name}", 0.0)
            sizes[name] = abs(value) * (max(weight, later.get(name, 0.0)) if name in terms else weight)
    return sum(sizes.get(name, 0.0) for name in terms) / (sum(sizes.values()) or 1.0)
