"""Which trainings a study is made of, and where each leaves what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cohort.split import FoundScan, ScansByPatient
from .jobs import Job
from .label_maps import link_folder
from .parts import Entries, Part, divide, entries_of, write_list
from .settings import TASK, Settings

WORK, RUNS = "work", "work/runs"
RECORD = "work/scans.checked.json"
FINAL = "final"


@dataclass(frozen=True)
class Trainings:
    """All jobs of a study, those that answer its question first.

    Args:
        jobs: in the order in which they are run.
        parts: divisions of the labelled patients.
        unlabelled: scans without a label.
        scans: all of them.
    """

    jobs: list[Job]
    parts: list[Part]
    unlabelled: list[FoundScan]
    scans: list[FoundScan]


def fold_name(part: Part, bundle: str, kind: str = "") -> str:
    """The folder of a fold's run: ``fold1_supervised``, ``fold1_supervised_half``, ``fold1_supervised_equal_time``."""
    return "_".join(filter(None, (part.name, bundle, kind)))


def final_name(bundle: str) -> str:
    """The folder of the run with all labels: ``final_supervised``."""
    return f"{FINAL}_{bundle}"


def unlabelled_scans(scans: ScansByPatient) -> list[FoundScan]:
    """The scans without a label, those of labelled patients among them."""
    return [scan for found in scans.values() for scan in found if not scan.label]


def trainings(folder: Path, settings: Settings, scans: ScansByPatient) -> Trainings:
    """Write the data lists and the folders of links that the jobs name, and return the jobs.

    Args:
        folder: of the study.
        settings: its plan.
        scans: by patient.
    """
    parts = divide(scans, settings.folds, settings.seed)

    def listed(name: str, entries: Entries) -> Path:
        return write_list(folder / WORK / f"{name}.json", entries, folder / RECORD)

    everyone = Part(FINAL, tuple(parts[0].train) + tuple(parts[0].judges))
    both = (settings.baseline, settings.method)
    pairs, beside, halves, longer, last = [], [], [], [], []
    for part in parts:
        judges = link_folder(folder / WORK / "images" / part.name, [s for p in part.judges for s in scans[p]])
        data = listed(part.name, entries_of(part, scans))
        half = listed(f"{part.name}_half", entries_of(part, scans, part.half))
        for bundle in settings.others:
            beside.append(_job(folder, settings, fold_name(part, bundle), bundle, data, f"{part.name}, {bundle}"))
        for bundle in both:
            title = f"{part.name}, {bundle}"
            pairs.append(_job(folder, settings, fold_name(part, bundle), bundle, data, title, maps_of=judges))
            if settings.half and part.can_halve:
                halves.append(
                    _job(folder, settings, fold_name(part, bundle, "half"), bundle, half, f"{title}, half the labels")
                )
        if settings.steps_at_equal_time:
            name = fold_name(part, settings.baseline, "equal_time")
            longer.append(
                _job(folder, settings, name, settings.baseline, data, f"{part.name}, {settings.baseline}, equal time",
                     steps=settings.steps_at_equal_time)
            )  # fmt: skip
    later = unlabelled_scans(scans)
    images = link_folder(folder / WORK / "images" / "unlabelled", later)
    data = listed(FINAL, entries_of(everyone, scans))
    for bundle in both:
        last.append(_job(folder, settings, final_name(bundle), bundle, data, f"all labels, {bundle}", maps_of=images))
    every = [scan for found in scans.values() for scan in found]
    return Trainings([*pairs, *last, *beside, *halves, *longer], parts, later, every)


def _job(
    folder: Path,
    settings: Settings,
    name: str,
    bundle: str,
    data: Path,
    title: str,
    steps: int | None = None,
    maps_of: Path | None = None,
) -> Job:
    task = folder / TASK
    own = settings.overrides.get(bundle, {})
    return Job(name, bundle, data, task, steps or settings.steps, settings.seed, maps_of, title, own)


def by_patient(scans: Sequence[FoundScan], patients: Mapping[str, str]) -> dict[str, list[FoundScan]]:
    """Scans of each patient, in the order of the scans; ``patients`` names the patient of each scan."""
    found: dict[str, list[FoundScan]] = {}
    for scan in scans:
        found.setdefault(patients[scan.name], []).append(scan)
    return found
