"""What to do next, on the page of a study: commands with its own paths, ready to paste into a shell."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from .annotation import not_shown
from .scans import Scans
from .settings import BUNDLES
from .state import State
from .trainings import WORK

ROOT = BUNDLES.parent
UNKNOWN = 'TASK --data "NAME OF THE SCANS" --licence "THEIR TERMS"'  # to the study: its user says it
FIRST = 5  # scans to correct that are named
SEGMENTED = "segmented"  # below the study: what the command that segments a folder writes


@dataclass(frozen=True)
class NextSteps:
    """Commands, each of which may be pasted as it is, wherever the shell stands.

    Args:
        scans: names of those to correct first.
        annotate: empty where MONAI Label cannot show the images; why is said in ``not_shown`` then.
        labels: folder that corrected labels go to where they are drawn elsewhere.
        again: the study once more, with what was corrected.
        segment: a folder; empty where the study has no images that it could be shown on.
        publish: what only the user knows stands in capitals.
    """

    scans: tuple[str, ...]
    annotate: str
    not_shown: str
    labels: str
    again: str
    segment: str
    publish: str


def next_steps(state: State, scans: Scans) -> NextSteps:
    """The commands that follow a study's page.

    Args:
        scans: of the page, those to look at first in front.
    """
    folder, settings = shlex.quote(str(state.folder)), state.settings
    here, python = f"cd {shlex.quote(str(ROOT))} &&", shlex.quote(sys.executable)
    why_not = not_shown(settings)
    images = _to_segment(state)
    segment = (
        f"cd {shlex.quote(str(state.folder / 'bundle'))} && {python} -m monai.bundle run "
        f"--config_file configs/inference.yaml --dataset_dir {shlex.quote(str(images))} "
        f"--output_dir {shlex.quote(str(state.folder / SEGMENTED))}"
    )
    return NextSteps(
        scans=tuple(scan.name for scan in scans.order[:FIRST]),
        annotate="" if why_not else f"{here} make annotate STUDY={folder}",
        not_shown=why_not,
        labels=settings.labels or f"the folder of labels that {settings.images}/dataset.json names",
        again=f"{here} {python} -m custom.study {folder}",
        segment=segment if images else "",
        publish=f"{here} {python} -m distribution.from_study {folder} {UNKNOWN}",
    )


def _to_segment(state: State) -> Path | None:
    """The study's own images as inference takes them; None where there are none.

    Of a data set, or of several modalities, these are the links to the unlabelled scans.
    """
    if state.settings.one_folder:
        return Path(str(state.settings.images))
    links = state.folder / WORK / "images" / "unlabelled"
    return links if links.is_dir() else None
