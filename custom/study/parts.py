"""Who trains and who judges: the data lists of a study's trainings."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cohort.data_list import record_path
from ..cohort.split import FoundScan, ScansByPatient, can_evaluate, has_label
from ..evaluation.compare import FEW_PATIENTS
from ..files import write_text
from .settings import StudyError

HELD_OUT = 0.3  # of the labelled patients, where one part judges and no folds
MANY = 15  # labelled patients from which on a held-out part may judge, where there is no time for folds
Entries = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Part:
    """One division of the labelled patients: those that train, those that judge, and half of those that train.

    Args:
        half: see :func:`halves`.
    """

    name: str
    train: tuple[str, ...]
    judges: tuple[str, ...] = ()
    half: tuple[str, ...] = ()

    @property
    def can_halve(self) -> bool:
        """Whether half of those that train is fewer of them: where one trains alone it is the same training again."""
        return 0 < len(self.half) < len(self.train)


def divide(scans: ScansByPatient, folds: int, seed: int) -> list[Part]:
    """Deal the labelled patients to the folds, by ``seed``; each that can judge does so once.

    With one fold, 30 % of them judge, and of 15 or more as many as a verdict asks for. A patient with a scan that lacks its
    label or a modality never judges.

    Raises:
        StudyError: fewer than two labelled patients, or fewer that can judge than folds.
    """
    order = [patient for patient in scans if has_label(scans[patient])]
    if len(order) < 2:
        raise StudyError(
            f"{len(order)} labelled patient{'s' if len(order) != 1 else ''} found: one must train and another judge. "
            "Label at least two patients, better six; with the patient's name as the plan shows it, two scans of one "
            "patient count as one (--patient says what in a name is the patient)"
        )
    random.Random(seed).shuffle(order)
    able = [patient for patient in order if can_evaluate(scans[patient])]
    if (folds > 1 and folds > len(able)) or not able:
        raise StudyError(
            f"{len(able)} of {len(order)} labelled patients can judge (all their scans have labels and modalities); "
            f"{folds} folds need as many. Label the other scans of some patients"
        )
    if folds == 1:
        least = FEW_PATIENTS if len(able) >= MANY else 1
        count = min(max(least, round(HELD_OUT * len(able))), len(order) - 1)
        dealt = [able[:count]]
    else:
        dealt = [able[k::folds] for k in range(folds)]
    trains = [tuple(p for p in order if p not in judges) for judges in dealt]
    return [
        Part(f"fold{k + 1}", train, tuple(judges), half)
        for k, (train, judges, half) in enumerate(zip(trains, dealt, halves(trains), strict=True))
    ]


def halves(trains: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Half of those who train in each fold, at least one: each patient is in as many halves as any other, or in one more.

    Else the same few would stand for half of the labels in every fold, and what is theirs would pass for what few labels do.

    Args:
        trains: who trains, by fold. Those who were taken least are taken first, then those who are left the fewest folds,
            then in their order.
    """
    times: Counter[str] = Counter()
    found = []
    for k, train in enumerate(trains):
        later = Counter(patient for rest in trains[k + 1 :] for patient in rest)
        order = sorted(train, key=lambda patient: (times[patient], later[patient]))
        taken = set(order[: max(1, len(train) // 2)])
        times.update(taken)
        found.append(tuple(patient for patient in train if patient in taken))
    return found


def entries_of(part: Part, scans: ScansByPatient, train: Sequence[str] | None = None) -> Entries:
    """The data list of a part: no scan of a patient who judges is among those that train, labelled or not.

    Args:
        part: the division.
        scans: of each patient.
        train: those of ``part.train`` whose labels are used; the others' scans are unlabelled. None: all.
    """
    taken = set(part.train if train is None else train)
    lists: Entries = {"labelled": [], "unlabelled": [], "validation": [], "test": []}
    for patient, found in scans.items():
        for scan in found:
            if patient in part.judges:
                lists["test"].append(_entry(patient, scan, label=True))
            elif patient in taken and scan.label:
                lists["labelled"].append(_entry(patient, scan, label=True))
            else:
                lists["unlabelled"].append(_entry(patient, scan, label=False))
    return lists


def _entry(patient: str, scan: FoundScan, label: bool) -> dict[str, Any]:
    image = {k: str(v) for k, v in scan.image.items()} if isinstance(scan.image, Mapping) else str(scan.image)
    return {"patient": patient, "image": image} | ({"label": str(scan.label)} if label else {})


def write_list(path: Path, entries: Entries, record: Path) -> Path:
    """Write a data list with absolute paths; one that says the same already is left alone.

    Args:
        path: of the list.
        entries: of its parts.
        record: of what the files hold, see :class:`~..cohort.record.Record`: copied beside the list, so that no training
            examines them again.
    """
    beside = record_path(path)
    if record.is_file() and not beside.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(beside, record.read_text(encoding="utf-8"))
    text = json.dumps(entries, indent=1) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return path
