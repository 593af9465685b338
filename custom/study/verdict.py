"""The page of a study, ``verdict.html``: did the unlabelled scans help, what would more labels bring, which scans next."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..cohort.words import plural
from ..evaluation.case_report import FAULTS, Row, class_counts
from ..evaluation.case_table import classes_of, names_text, read_cases
from ..evaluation.compare import (
    FEW_PATIENTS,
    Difference,
    beside_dice,
    judgement,
    paired_difference,
    row_faults,
    significance,
)
from ..evaluation.compare import verdict as compared
from ..files import write_text
from ..report import charts, page, pair
from ..report.inputs import read_evaluated
from ..report.tables import NOTHING, Cell, Column, Table, fault_columns, interval, number, texts
from ..report.unlabelled import notes
from . import labels_worth, more_labels, versions
from .budget import ENOUGH, minutes
from .durations import study_seconds, training_seconds
from .handed_over import hand_over, write_scores
from .history import before
from .jobs import TRAINED
from .next_steps import next_steps
from .parts import Part
from .pooled import pool
from .scans import unlabelled
from .settings import StudyError
from .state import State
from .trainings import final_name

PAGE = "verdict.html"
SCORED = "work/scores"
AS_LONG = 0.1  # of the method's time, by which the baseline's may differ that is said to be trained as long
SHOWN_FAILURES = 3
CAUSE_UNKNOWN = (
    " The runs do not say that they differ in the unlabelled scans alone, so these are not named as the cause."
)


def write(state: State) -> Path:
    """Write the page and what lies beside it: ``scores.csv``, ``predictions/`` with previews, ``compare.html``,
    ``versions.json``.

    Raises:
        StudyError: no fold is done with both bundles: there is nothing to tell yet.
    """
    baseline, method = state.settings.baseline, state.settings.method
    parts = state.parts
    if not parts:
        raise StudyError(
            f"{state.folder}: no fold is done with {baseline} and {method}, there is nothing to tell yet. Go on with "
            f"python -m custom.study run {shlex.quote(str(state.folder))}"
        )
    tables = {
        bundle: pool([state.table(part, bundle) for part in parts], state.folder / SCORED, bundle, state.scan_of_case)
        for bundle in (baseline, method)
    }
    both = pair.Pair(*(read_evaluated(tables[b], n) for b, n in zip(tables, state.names, strict=True)))
    warnings = _warnings(state, parts)
    to_read_first = [_trained(state), *warnings, *_left_out(state)]
    pair.compare_report(tables[baseline], tables[method], state.names, state.folder / "compare.html", to_read_first)
    serving = method if both.dice.mean >= 0 else baseline
    scans = unlabelled(state, parts, both, serving)
    write_scores(state, both, scans, serving)
    sheet = hand_over(state, scans, serving)
    scored, balance = both.scored(), pair.balance_text(both)
    several = {name: both.difference(f"dice_{name}") for name in both.classes} if len(both.classes) > 1 else {}
    text = page.render(
        "study.html",
        Path(__file__).parent,
        title="Did the unlabelled scans help?" if state.only_unlabelled else f"{method} against {baseline}",
        state=state,
        counts=_counts(state),
        parts=parts,
        pair=both,
        dice=both.dice,
        means=both.means("dice_mean"),
        sentence=_sentence(state, both),
        p=significance(both.dice.p),
        needed=_needed(both.dice, both),
        before=before(state, both, state.labelled),
        beside=beside_dice(both.baseline, both.ours, state.names, both.dice, both.unit),
        warnings=warnings,
        equal_time=_equal_time(state),
        others=_others(state),
        bars=pair.bars_chart(both, scored, balance),
        lanes=pair.lanes_chart(several, "class") if several else None,
        metrics=pair.metrics_table(both),
        worth=more_labels.worth(state, parts),
        scans=scans,
        sheet=sheet,
        pictures=pair.three_cases(both, _failures(both, serving == method)),
        faulty=_faulty(state, both, serving),
        cases=pair.cases_table(both),
        calibration=_calibration(tables, serving),
        curves=_curves(state),
        serving=serving,
        next=next_steps(state, scans),
        handed_over=_handed_over(state, serving, bool(scans.order)),
        versions=versions.write(state, _served(state, serving)),
        failed=state.failed,
        stale=sorted(state.stale),
    )
    write_text(state.folder / PAGE, text)
    return state.folder / PAGE


# the verdict


def _counts(state: State) -> dict[str, int]:
    return {
        "labelled": state.labelled,
        "judged": sum(len(part.judges) for part in state.parts),
        "unlabelled": len(state.trainings.unlabelled),
    }


def _sentence(state: State, both: pair.Pair) -> str:
    """The verdict of :func:`..evaluation.compare.verdict`; it names the unlabelled scans as the cause only where the
    runs of every fold say that they differ in nothing else."""
    baseline, method = state.bundles
    sign, amount, basis = judgement(both.dice)
    without, with_ = (number(mean, 3).text for mean in both.means("dice_mean"))
    if not state.only_unlabelled:
        sentence = f"{compared(both.dice, (baseline, method))} Dice {with_} of {method}, {without} of {baseline}."
        return f"{sentence}{CAUSE_UNKNOWN}" if sign else sentence
    if sign:
        how = "helped" if sign > 0 else "harmed"
        return f"The unlabelled scans {how}: Dice {with_} with them, {without} without, a difference of {amount} ({basis})."
    return f"No evidence either way: Dice {with_} with the unlabelled scans, {without} without, {amount} ({basis})."


def _needed(dice: Difference, both: pair.Pair) -> str:
    """What it would take to know, where the verdict is that there is no evidence."""
    if judgement(dice)[0]:
        return ""
    by_patient: dict[str, list[float]] = {}
    for scored in both.scored():
        by_patient.setdefault(scored.base["patient"], []).append(scored.difference)
    means = [math.fsum(values) / len(values) for values in by_patient.values()]
    if len(means) < 3:
        return "Too few patients judge to say how many it would take to know."
    width = max(abs(100 * dice.mean), 1.0)
    count = labels_worth.patients_needed(means, width)
    return (
        f"To tell a difference of {width:.1f} points from none in four of five studies, some {count} labelled patients would "
        "have to judge; "
        f"{len(means)} do."
    )


def _warnings(state: State, parts: Sequence[Part]) -> list[str]:
    """What must be read before any figure: unlabelled scans that hardly took part, trainings too short to tell."""
    found = [text for part in parts for text in notes(state.table(part, state.settings.method), part.name)]
    steps = state.settings.steps
    if steps < ENOUGH:
        length = (
            f"These are short trainings, of {steps} steps: networks learn on for thousands, and unlabelled scans help "
            f"late. For a verdict that lasts allow a longer BUDGET, for some {ENOUGH} steps and more{_time(state)}."
        )
    elif found:
        length = (
            f"Length is not what is missing: unlabelled scans were seen to help from some {ENOUGH} steps on, and these "
            f"trainings have {steps}."
        )
    else:
        return []
    # what hardly took part needs the length at once: two remarks would be read as two faults
    return [*found[:-1], f"{found[-1]} {length}"] if found else [length]


def _time(state: State) -> str:
    """How long the whole study takes with :data:`ENOUGH` steps, in words; empty where its pace is not known."""
    seconds = study_seconds(state, ENOUGH)
    return f" (about {minutes(seconds)} for the whole study at its pace)" if math.isfinite(seconds) else ""


def _trained(state: State) -> str:
    """What was compared, for a page that shows nothing else of the study."""
    of = " and ".join(
        f"{bundle} ({name} the unlabelled scans)" if state.only_unlabelled else bundle
        for bundle, name in zip(state.bundles, state.names, strict=True)
    )
    folds = f"{plural(len(state.parts), 'fold')} of {len(state.trainings.parts)}"
    return f"Of a study: {of}, {state.settings.steps} steps each, each patient judged by networks of a fold ({folds})."


def _left_out(state: State) -> list[str]:
    """Runs that are in no figure, and why."""
    found = [f"Not in these figures, as it failed: {name}: {why}" for name, why in state.failed.items()]
    if state.stale:
        found.append(
            "Not in these figures, as they were made under other settings, labels or images, and not run again yet: "
            f"{', '.join(sorted(state.stale))}."
        )
    return found


@dataclass(frozen=True)
class EqualTime:
    """The method against the baseline trained longer: in how long, the difference, and the faults of both in words."""

    trained: str
    difference: Difference
    faults: str


def _equal_time(state: State) -> EqualTime | None:
    """The method against the baseline trained as long in time, where that was run in all of its folds."""
    baseline, method = state.settings.baseline, state.settings.method
    if not state.settings.steps_at_equal_time:
        return None
    parts = state.judged((baseline, "equal_time"), (method, ""))
    if len(parts) < len(state.trainings.parts):  # the verdict above would be on other patients
        return None
    ours = [row for part in parts for row in read_cases(state.table(part, method))]
    theirs = [row for part in parts for row in read_cases(state.table(part, baseline, "equal_time"))]
    difference = _paired(ours, theirs)
    if difference is None:
        return None
    faults = "; ".join(
        f"{name}: missed {found['missed']}, false alarms {found['false_alarms']}"
        for name, rows in zip(state.names, (theirs, ours), strict=True)
        for found in [row_faults(rows, classes_of(rows))]
    )
    return EqualTime(_how_long(state, parts), difference, faults)


def _how_long(state: State, parts: Sequence[Part]) -> str:
    """What the baseline got, called as long as the method's time only where it was: steps may have been changed since
    the plan, and a machine has other work at times."""
    (baseline, method), settings = state.bundles, state.settings
    steps = settings.steps_at_equal_time
    longer, ours = (
        math.fsum(training_seconds(state.table(part, bundle, kind).parents[2]) for part in parts)
        for bundle, kind in ((baseline, "equal_time"), (method, ""))
    )
    times = (
        f"{minutes(longer)} against {minutes(ours)}" if math.isfinite(longer + ours) else "in a time that is not known"
    )
    equal = abs(longer - ours) <= AS_LONG * ours
    text = f"{baseline} trained {'as long in time' if equal else 'longer or shorter'} ({steps} steps, {times})"
    if steps < settings.steps:
        text += f", with fewer steps than the {settings.steps} of the verdict (steps_at_equal_time in study.yaml)"
    return text


def _paired(ours: Sequence[Row], theirs: Sequence[Row]) -> Difference | None:
    """None where no case has a Dice: a fold may have empty labels alone."""
    known = any(
        math.isfinite(a["dice_mean"]) and math.isfinite(b["dice_mean"]) for a, b in zip(ours, theirs, strict=True)
    )
    return paired_difference(ours, theirs) if known else None


@dataclass(frozen=True)
class Other:
    """A bundle beside the method: its mean Dice and faults, and its difference to the baseline and to the method.

    Each is of the folds that all three have done.

    Args:
        faults: counts, see :func:`..evaluation.case_report.fault_texts`.
        places: cases times classes that they are of.
    """

    name: str
    dice: float
    faults: Mapping[str, int]
    places: int
    to_baseline: Difference | None
    to_method: Difference | None


def _others(state: State) -> Table | None:
    baseline, method = state.settings.baseline, state.settings.method
    found = []
    for name in state.settings.others:
        parts = state.judged((name, ""), (baseline, ""), (method, ""))
        if not parts:
            continue
        rows, before, ours = (
            [row for part in parts for row in read_cases(state.table(part, bundle))]
            for bundle in (name, baseline, method)
        )
        known = [row["dice_mean"] for row in rows if math.isfinite(row["dice_mean"])]
        mean = math.fsum(known) / len(known) if known else math.nan
        classes = classes_of(rows)
        by_class = [class_counts(rows, each) for each in classes]
        faults = {key: sum(counts[key] for counts in by_class) for key in by_class[0]}
        places = len(rows) * len(classes)
        found.append(Other(name, mean, faults, places, _paired(rows, before), _paired(rows, ours)))
    if not found:
        return None
    columns = [
        texts("bundle", lambda other: other.name),
        Column("Dice", lambda other: number(other.dice, 3)),
        texts(f"minus {baseline}, points", lambda other: Cell(_difference(other.to_baseline))),
        texts(f"minus {method}, points", lambda other: Cell(_difference(other.to_method))),
        *fault_columns(lambda other: other.faults, lambda other: other.places),
    ]
    return Table(
        "Further bundles in the same folds, same steps. The best of several looks better than it is.", columns, found
    )


def _difference(dice: Difference | None) -> str:
    if dice is None:
        return NOTHING
    amount = number(100 * dice.mean, 1, sign=True).text
    if not math.isfinite(dice.low):
        return f"{amount} (one patient)"
    few = "; too few patients to tell" if dice.patients < FEW_PATIENTS else ""
    return f"{amount} ({interval(100 * dice.low, 100 * dice.high, 1, sign=True).text}{few})"


def _handed_over(state: State, serving: str, segmented: bool) -> dict[str, str]:
    """Which of ``bundle/`` and ``predictions/`` belong to this page, and what to say of one that does not."""
    served = _served(state, serving)
    there = [f"bundle/ ({serving}, trained with all labels)"] * served + [
        "predictions/ (of every unlabelled scan)"
    ] * segmented
    missing = []
    if not served:
        missing.append(f" {serving} is not trained with all labels yet: a bundle/ that is there is of an earlier page.")
    if state.trainings.unlabelled and not segmented:
        missing.append(
            " The unlabelled scans are not segmented yet: predictions/ that are there are of an earlier page."
        )
    return {"there": ", ".join(there), "missing": "".join(missing)}


def _served(state: State, serving: str) -> bool:
    """Whether ``bundle/`` is that of this page."""
    name = final_name(serving)
    return name not in state.stale and (state.runs / name / TRAINED).is_file()


# what stands at the end


def _faulty(state: State, both: pair.Pair, serving: str) -> str:
    """Which cases have a missed structure and which a false alarm, of the bundle that serves."""
    rows = both.ours if serving == state.settings.method else both.baseline
    missed, false_alarms = ([row["case"] for row in rows if row[kind]] for kind in FAULTS)
    return (
        f"Failures of {serving}, which has the higher Dice: a missed structure in {names_text(missed) or 'none'}; "
        f"a false alarm in {names_text(false_alarms) or 'none'}."
    )


def _failures(both: pair.Pair, ours: bool) -> dict[str, str]:
    """What the page calls up to three failures of the bundle that serves: a missed structure before a false alarm, the lowest
    Dice first."""
    missed, false_alarms = FAULTS
    rows = [row for row in (both.ours if ours else both.baseline) if row[missed] or row[false_alarms]]
    rows.sort(key=lambda row: (not row[missed], math.isnan(row["dice_mean"]), row["dice_mean"]))
    words = {missed: "missed structure", false_alarms: "false alarm"}
    return {
        row["case"]: " and ".join(text for kind, text in words.items() if row[kind]).capitalize()
        for row in rows[:SHOWN_FAILURES]
    }


def _calibration(tables: Mapping[str, Path], serving: str) -> dict[str, Any] | None:
    found = json.loads(tables[serving].with_suffix(".json").read_text(encoding="utf-8")).get("calibration")
    if not found:
        return None
    ece = number(found["ece"], 3).text
    return {"ece": ece, "svg": charts.reliability(found["bins"], f"Accuracy against confidence; mean gap {ece}")}


def _curves(state: State) -> list[tuple[str, Markup]]:
    """The learning curves of the trainings with all labels."""
    found = []
    for bundle in (state.settings.baseline, state.settings.method):
        path = state.runs / final_name(bundle) / "metrics.csv"
        if path.is_file() and final_name(bundle) not in state.stale:
            found.append((bundle, charts.learning(path, f"Learning curves of {bundle} with all labels")))
    return found
