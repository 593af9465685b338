"""Which patients train, validate and test, and which of them are labelled; all scans of a patient are in one part."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import nearest
from .errors import CohortError
from .words import some

SPLIT = ("train", "val", "test")
Patients = dict[str, list[str]]  # names under train, val, test; the order says who is labelled


@dataclass(frozen=True)
class FoundScan:
    """One scan: its image is a path, or a path a modality; ``complete`` unless it lacks a modality others have."""

    name: str
    image: Path | dict[str, Path]
    label: Path | None
    complete: bool


ScansByPatient = Mapping[str, list[FoundScan]]  # by patient


def has_label(scans: Sequence[FoundScan]) -> bool:
    """Some scan of the patient can train with its label."""
    return any(case.label for case in scans)


def can_evaluate(scans: Sequence[FoundScan]) -> bool:
    """All scans of the patient have what validation and test need, so that none of them has to be left out."""
    return all(case.label and case.complete for case in scans)


def draw(cases: ScansByPatient, validation: int, test: int, seed: int) -> Patients:
    """Patients shuffled by ``seed``: the first validate, the next test, all others train, those without a label last.

    Raises:
        CohortError: fewer patients can evaluate than asked for.
    """
    order = [p for p in cases if has_label(cases[p])]
    random.Random(seed).shuffle(order)
    able = [p for p in order if can_evaluate(cases[p])]
    if validation + test > len(able):
        raise CohortError(f"asked for {validation} validation and {test} test patients; {len(able)} of {len(cases)} "
                          "patients have all labels and modalities")  # fmt: skip
    val, tested = able[:validation], able[validation : validation + test]
    with_label, judging = set(order), {*val, *tested}
    train = [p for p in order if p not in judging] + [p for p in cases if p not in with_label]
    return {"train": train, "val": val, "test": tested}


def given(
    split: Mapping[str, Sequence[str]], cases: ScansByPatient, validation: int, test: int
) -> tuple[Patients, list[str]]:
    """A split of the user's, and the patients that it does not name.

    Args:
        validation, test: 0, or how many patients at the end of ``train`` are that part, which the split then lacks;
            the test patients are the last.

    Raises:
        CohortError: parts with other names; numbers for a part that is named, or larger than train; patients in two
            parts or without an image; patients for evaluation who lack a label or a modality.
    """
    if "train" not in split or not set(split) <= set(SPLIT):
        found = [f"'{key}'{'' if key in SPLIT else nearest(key, SPLIT)}" for key in split]
        raise CohortError(f"a split has lists under train, val and test, this one has {some(found) or 'none'}")
    patients = {part: [str(name) for name in split.get(part, [])] for part in SPLIT}
    for part, option, number in (("test", "--test", test), ("val", "--validation", validation)):
        if number and patients[part]:
            raise CohortError(f"the split names its {part} patients: leave out {option}")
        if number > len(patients["train"]):
            raise CohortError(f"asked for {option} {number}; {len(patients['train'])} patients of train are left")
        if number:
            patients["train"], patients[part] = patients["train"][:-number], patients["train"][-number:]
    if faults := _faults(patients, cases):
        raise CohortError("the split cannot be used:\n  " + "\n  ".join(faults))
    named = {name for names in patients.values() for name in names}
    return patients, [name for name in cases if name not in named]


def _faults(patients: Patients, cases: ScansByPatient) -> list[str]:
    where: dict[str, list[str]] = {}
    for part, names in patients.items():
        for name in names:
            where.setdefault(name, []).append(part)
    faults = [f"patient {name}: in {' and in '.join(parts)}. Keep all scans of a patient in one part"
              for name, parts in where.items() if len(parts) > 1]  # fmt: skip
    if unknown := [name for name in where if name not in cases]:
        faults.append(f"patients without an image: {some(unknown)}. The images are of {some(list(cases))}")
    for part in ("val", "test"):
        if bare := [p for p in patients[part] if p in cases and not can_evaluate(cases[p])]:
            faults.append(f"{part} patients who lack a label or a modality: {some(bare)}")
    return faults


def fold(patients: Patients, cases: ScansByPatient, folds: int, seed: int) -> list[Patients]:
    """Deal the patients of train and val who can evaluate to the validation parts of ``folds`` splits, by ``seed``.

    The others train in every fold; the test part is the same in all.

    Raises:
        CohortError: fewer than 2 folds, or more than patients to deal.
    """
    pool = [*patients["train"], *patients["val"]]
    able = [p for p in pool if can_evaluate(cases[p])]
    if not 2 <= folds <= len(able):
        raise CohortError(f"asked for {folds} folds; expected 2 to {len(able)}, as many as patients can validate")
    random.Random(seed).shuffle(able)
    dealt = [able[k::folds] for k in range(folds)]
    return [{"train": [p for p in pool if p not in val], "val": val, "test": patients["test"]} for val in dealt]


def parts_of(patients: Patients, cases: ScansByPatient, labelled: int | str) -> dict[str, list[tuple[str, FoundScan]]]:
    """The scans of each part with their patients. A labelled patient's scans without a label are unlabelled.

    Args:
        labelled: the first so many patients of train that have a label; ``"10%"`` of train, rounded down, at least 1;
            0 is all that have a label.

    Raises:
        CohortError: fewer patients of train have a label.
    """
    train = patients["train"]
    with_label = [p for p in train if has_label(cases[p])]
    count = _count(labelled, len(train))
    if count > len(with_label):
        raise CohortError(f"asked for {count} labelled patients; {len(with_label)} of {len(train)} for training have "
                          "a label")  # fmt: skip
    chosen = set(with_label[: count or None])
    scans = {part: [(p, case) for p in names for case in cases[p]] for part, names in patients.items()}
    return {
        "labelled": [(p, case) for p, case in scans["train"] if p in chosen and case.label],
        "unlabelled": [(p, case) for p, case in scans["train"] if not (p in chosen and case.label)],
        "validation": scans["val"],
        "test": scans["test"],
    }


def _count(labelled: int | str, patients: int) -> int:
    if isinstance(labelled, str) and labelled.endswith("%"):
        return max(1, int(float(labelled[:-1]) * patients / 100))
    return int(labelled)
