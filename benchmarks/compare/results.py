"""What the rows say: an entry is a method on a task with so many labels, over all seeds that were run.

Every row that is there is used. Nothing is chosen: a file of weights is compared with the file of the same name of the
baseline's run from the same seed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from custom.dice import mean_of_known
from custom.evaluation.case_report import BOUNDARY, COUNTS
from custom.evaluation.compare import Difference, case_difference, paired_difference
from custom.evaluation.earlier import summary_of_today
from custom.evaluation.hardness import lowest_quartile

RunRow = dict[str, Any]
Cases = list[dict[str, Any]]

SERVED = {"final": "model_final", "best": "model"}  # of the network that serves: last epoch, best in validation
BASELINE = "supervised"


@dataclass(frozen=True)
class Change:
    """Ours minus the baseline: ``mean`` of the cases, each averaged over seeds first, and the mean of each seed alone."""

    mean: Difference
    by_seed: Mapping[int, float]


@dataclass
class Entry:
    """A method on a task with so many labels.

    Args:
        name: a bundle, or a variant of one.
        rows: a row a seed, seeds ascending; none where nothing was run.
        baseline: what it is compared with; None for the baseline itself.
        changes: by the file of weights.
        hard: by metric, final weights: ``dice_mean`` on the quarter of the cases with the least contrast, and on all
            cases :data:`~custom.evaluation.case_report.BOUNDARY`.
        holm: p of the Wilcoxon test by the file of weights, corrected for how many methods the task has.
        notes: what a reader must know before comparing.
        fits: whether the method can be run on this task.
    """

    name: str
    rows: list[RunRow]
    baseline: str | None = None
    changes: dict[str, Change] = field(default_factory=dict)
    hard: dict[str, Change] = field(default_factory=dict)
    holm: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fits: bool = True

    @property
    def absence(self) -> str:
        """Why there is no row."""
        return "missing" if self.fits else "not for this task"

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.rows]

    @property
    def files(self) -> list[str]:
        """Every file of weights of any seed, that which serves first."""
        names = dict.fromkeys(name for row in self.rows for name in row["networks"])
        first = [name for name in SERVED.values() if name in names]
        return [*first, *(name for name in names if name not in first)]

    def means(self, file: str, metric: str = "dice_mean") -> list[float]:
        """The mean over the cases, of each seed that has it."""
        found = (row["networks"].get(file, {}).get("metrics", {}).get(metric) or {} for row in self.rows)
        return [metric["mean"] for metric in found if metric.get("mean") is not None]

    def faults(self, file: str) -> dict[str, int]:
        """Missed structures, false alarms and labels that lack a class, of all seeds; ``places`` is cases times classes."""
        found = [row["networks"][file] for row in self.rows if file in row["networks"]]
        counts = {key: sum(summary[key] for summary in found) for key in (*COUNTS, "empty_labels")}
        return {**counts, "places": sum(summary["cases"] * len(summary["classes"]) for summary in found)}

    @property
    def chosen(self) -> bool:
        """Whether validation chose an epoch in any of its runs: without it the weights that serve are the final ones."""
        return any(row.get("best_in_validation") for row in self.rows)

    def average(self, key: str) -> float:
        """Mean over seeds of a number of the row, such as ``seconds``; NaN where there is no row."""
        return statistics.fmean(row[key] for row in self.rows) if self.rows else math.nan


@dataclass(frozen=True)
class Family:
    """All methods on one task with one number of labels at one size: what the correction by Holm is over."""

    size: str
    task: str
    labels: str
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.size}: {self.task}" + (f", {self.labels} labelled" if self.labels else "")

    def entry(self, name: str) -> Entry:
        """The entry of that name; one without rows where this size has none."""
        return next((entry for entry in self.entries if entry.name == name), Entry(name, [], fits=False))

    @property
    def compared(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.changes]


def read_rows(folder: Path) -> list[RunRow]:
    """Read every row of a folder.

    Raises:
        ValueError: a file that is not a row, or one of a run that another file has; the text names it.
    """
    rows, known = [], dict[tuple[str, ...], Path]()
    for path in sorted(Path(folder).glob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            networks = {k: summary_of_today(v, f"{path}, {k},") for k, v in row["networks"].items()}
            cases = {k: with_nan(v) for k, v in row["cases"].items()}
            rows.append({**row, "seed": int(row["seed"]), "networks": networks, "cases": cases})
            missing = {"size", "task", "labels", "name", "bundle", "networks", "overrides", "steps"} - row.keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a row of a finished run: {error!r}. Delete it and run its job again"
            ) from error
        if missing:
            raise ValueError(f"{path} is not a row of a finished run: it lacks {', '.join(sorted(missing))}")
        run = (row["size"], row["task"], row["labels"], row["name"], str(row["seed"]))
        if known.setdefault(run, path) != path:
            raise ValueError(f"{path} and {known[run]} are rows of one run: {', '.join(run)}. Delete one of them")
    return rows


def families(rows: Sequence[RunRow], sizes: Mapping[str, Any]) -> list[Family]:
    """Sort the rows by size, task and number of labels, each method of a size in all of its tasks, compared with its baseline.

    Args:
        sizes: the content of ``sizes.yaml``: order of the sizes and tasks; ``baseline`` and ``tasks`` of its variants.
    """
    order = [(size, task) for size, tasks in sizes["sizes"].items() for task in tasks]
    places = {(row["size"], row["task"], row["labels"]) for row in rows}
    return [
        _family(*place, _names([row for row in rows if row["size"] == place[0]]), rows, sizes["variants"])
        for place in sorted(places, key=lambda p: (order.index(p[:2]) if p[:2] in order else 99, p[:2], _number(p[2])))
    ]


def change(
    ours: Mapping[int, Cases], baseline: Mapping[int, Cases], metric: str = "dice_mean", names: set[str] | None = None
) -> Change | None:
    """Compare the seeds that both have; return None where there is none, or no case has the metric in both.

    A case's differences (:func:`~custom.evaluation.compare.case_difference`) are averaged over the seeds in which it has one
    before the mean, its interval over patients and the test, so that seeds do not count as patients.

    Args:
        ours, baseline: the cases by seed.
        names: of the cases that count; None: all.

    Raises:
        ValueError: the two do not hold the same cases.
    """
    by_seed, values = {}, dict[str, list[float]]()
    patients: dict[str, str] = {}
    for seed in sorted(ours.keys() & baseline.keys()):
        mine, theirs = ([c for c in by[seed] if names is None or c["case"] in names] for by in (ours, baseline))
        if any(metric not in case for case in (*mine, *theirs)):  # a row from before the column was there
            continue
        other = {case["case"]: case for case in theirs}
        found = {c["case"]: case_difference(c, other[c["case"]], metric) for c in mine if c["case"] in other}
        if len(found) == len(mine) == len(theirs) and all(map(math.isnan, found.values())):
            continue
        by_seed[seed] = paired_difference(mine, theirs, metric).mean  # raises where the cases differ
        patients |= {case["case"]: case["patient"] for case in mine}
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    if not by_seed:
        return None
    averaged: Cases = [
        {"case": name, "patient": patients[name], "difference": mean_of_known(each)} for name, each in values.items()
    ]
    nothing: Cases = [{**case, "difference": 0.0} for case in averaged]
    return Change(paired_difference(averaged, nothing, "difference"), by_seed)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    r"""Holm's step-down correction: the i-th smallest of m p becomes :math:`\max_{j \le i} \min(1, (m - j + 1) p_j)`.

    NaN (no test was possible) stay, and are not counted in m. Reference: Holm 1979, Scand. J. Statist. 6, 65.
    """
    known = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    found, largest = dict(p), 0.0
    for i, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - i) * value))
        found[name] = largest
    return found


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """NaN where there is none; the standard deviation (n - 1) of one value is NaN."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def _names(rows: Sequence[RunRow]) -> list[str]:
    """Methods in the order of a table: the baseline first, each bundle before its variants."""
    bundles = {row["name"]: row["bundle"] for row in rows}
    return sorted(bundles, key=lambda n: (n != BASELINE, n != "mean_teacher", bundles[n], n != bundles[n], n))


def _family(
    size: str, task: str, labels: str, names: Sequence[str], rows: Sequence[RunRow], variants: Mapping[str, Any]
) -> Family:
    entries = {}
    for name in names:
        here = [r for r in rows if (r["size"], r["task"], r["labels"], r["name"]) == (size, task, labels, name)]
        variant = variants.get(name) or {}
        baseline = None if name == BASELINE else variant.get("baseline", BASELINE)
        fits = bool(here) or task in variant.get("tasks", [task])
        entries[name] = Entry(name, sorted(here, key=lambda row: row["seed"]), baseline, fits=fits)
    for entry in entries.values():
        _compare(entry, entries, variants)
    for file in SERVED.values():
        corrected = holm({name: entry.changes[file].mean.p for name, entry in entries.items() if file in entry.changes})
        for name, p in corrected.items():
            entries[name].holm[file] = p
    return Family(size, task, labels, list(entries.values()))


def _compare(entry: Entry, entries: Mapping[str, Entry], variants: Mapping[str, Any]) -> None:
    """Fills in what the entry is against its baseline, and what stands in the way."""
    entry.notes += _about(entry)
    if entry.baseline is None or not entry.rows:
        return
    base = entries.get(entry.baseline)
    if base is None or not base.rows:
        entry.notes.append(f"no row of {entry.baseline} to compare with")
        return
    entry.notes += _differences_of_settings(entry, base, variants)
    for file in entry.files:
        try:
            found = change(_by_seed(entry, file), _by_seed(base, file))
        except ValueError as error:
            entry.notes.append(f"{file} cannot be compared with {base.name}: {error}")
        else:
            entry.changes |= {file: found} if found else {}
    if SERVED["final"] in entry.changes:
        final = _by_seed(entry, SERVED["final"]), _by_seed(base, SERVED["final"])
        hard = hard_cases(base)
        others = {"dice_mean": change(*final, names=hard) if hard else None, BOUNDARY: change(*final, metric=BOUNDARY)}
        entry.hard = {metric: value for metric, value in others.items() if value}


def hard_cases(entry: Entry) -> set[str]:
    """The quarter of the test cases with the least contrast, by a row that knows it; empty where none does."""
    for row in entry.rows:
        for cases in row["cases"].values():
            if quartile := lowest_quartile(cases):
                return {case["case"] for case in next(iter(quartile.values()))}
    return set()


def _about(entry: Entry) -> list[str]:
    notes = []
    if dirty := [row["seed"] for row in entry.rows if "+" in row.get("commit", "")]:
        notes.append(f"{_seeds(dirty)}: made with uncommitted changes of the repository (+)")
    if len({_frozen(row["overrides"]) + str(row["steps"]) for row in entry.rows}) > 1:
        notes.append("its seeds were not run with the same settings")
    return notes


def _differences_of_settings(entry: Entry, base: Entry, variants: Mapping[str, Any]) -> list[str]:
    """Sizes that differ, beside those that make the variant, and seeds that only one has."""
    notes = []
    theirs = {row["seed"]: row for row in base.rows}
    for row in entry.rows:
        if row["seed"] not in theirs:
            continue
        other = theirs[row["seed"]]
        mine, its = ({**_sizes(r, variants), "steps": r["steps"]} for r in (row, other))
        named = [
            f"{key} {mine.get(key, 'not set')} against {its.get(key, 'not set')}"
            for key in dict.fromkeys([*mine, *its])
            if mine.get(key) != its.get(key)
        ]
        if named:
            notes.append(f"seed {row['seed']}: other sizes than {base.name}: {', '.join(named)}")
    if only := [seed for seed in entry.seeds if seed not in theirs]:
        notes.append(f"{_seeds(only)}: no row of {base.name}, so not in the difference")
    return notes


def _sizes(row: RunRow, variants: Mapping[str, Any]) -> dict[str, Any]:
    own = (variants.get(row["name"]) or {}).get("overrides", {})
    return {key: value for key, value in row["overrides"].items() if key not in own}


def _by_seed(entry: Entry, file: str) -> dict[int, Cases]:
    return {row["seed"]: row["cases"][file] for row in entry.rows if file in row["cases"]}


def with_nan(cases: Sequence[Mapping[str, Any]]) -> Cases:
    """The cases of a row, with NaN for a number that is not there."""
    return [{key: math.nan if value is None else value for key, value in case.items()} for case in cases]


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _number(labels: str) -> tuple[float, str]:
    return (float(labels), labels) if labels.replace(".", "", 1).isdigit() else (math.inf, labels)


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
