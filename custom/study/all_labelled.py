"""What a study says when no scan is without a label: there is nothing to compare, and what there is to do instead."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ..cohort.split import ScansByPatient
from ..cohort.words import plural
from .jobs import CACHE, lengths
from .parts import Part, entries_of, write_list
from .settings import BUNDLES, TASK, Settings, StudyError
from .trainings import RECORD, WORK, unlabelled_scans

ALL = "all_labels"  # below the study: what the command writes that trains with all labels
PAGE = "verdict.html"


def refuse_to_plan(scans: ScansByPatient) -> None:
    """A study tells what scans without a label bring.

    Raises:
        StudyError: all scans have one.
    """
    if not unlabelled_scans(scans):
        raise StudyError(
            f"Found {_count(scans)}, all with labels: a study tells what scans without labels bring, and needs some. Put "
            "images without a label beside them, or leave out the labels of some patients. To train with all labels and no "
            "study, use bundles/supervised: README.md, Your own scans, has the commands"
        )


def refuse_to_go_on(folder: Path, settings: Settings, scans: ScansByPatient) -> None:
    """The end of correcting: the last scan has its label, and no training would have a scan without one.

    Raises:
        StudyError: all scans have labels; the text has the command that trains the baseline with all of them. Its data
            list is written; nothing else of the study is touched.
    """
    if unlabelled_scans(scans):
        return
    there = f" {folder / PAGE} and what lies beside it stay as they are." if (folder / PAGE).is_file() else ""
    raise StudyError(
        f"All {_count(scans)} have labels now: no scan is left to learn from without one, so there is nothing to compare, and "
        f"nothing was trained.{there} {settings.baseline} learns from all labels by this line, and its bundle is "
        f"{folder / ALL}/bundle then:\n  {_command(folder, settings, scans)}\n"
        "For another study put new images without a label beside these"
    )


def _command(folder: Path, settings: Settings, scans: ScansByPatient) -> str:
    data = write_list(folder / WORK / f"{ALL}.json", entries_of(Part(ALL, tuple(scans)), scans), folder / RECORD)
    options = {
        "data_list": data,
        "output_dir": folder / ALL,
        "cache_dir": folder / WORK / CACHE,
        "seed": settings.seed,
        **lengths(settings.steps),
        **settings.overrides.get(settings.baseline, {}),
    }
    words = [
        *(sys.executable, "-m", "monai.bundle", "run", "training"),
        *("--config_file", f"['configs/train.yaml','{folder / TASK}']"),
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]
    return f"cd {shlex.quote(str(BUNDLES / settings.baseline))} && {shlex.join(words)}"


def _count(scans: ScansByPatient) -> str:
    return f"{plural(sum(map(len, scans.values())), 'scan')} of {plural(len(scans), 'patient')}"
