"""A study (``python -m custom.study``) as annotation takes it: its images, its bundle, and which scan comes next."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from annotate.models import StartError
from custom.cohort.formats import files_of
from custom.cohort.names import is_image, scans_in
from custom.files import write_atomically, write_text
from custom.study import settings as plan
from custom.study.settings import COPIED, CORRECTED

ORDER = "order.json"  # in the work folder


@dataclass(frozen=True)
class Study:
    """What a study says.

    Args:
        images: its folder.
        labels: its folder; None where they lie elsewhere.
        bundle: that serves.
        order: names of the unlabelled scans, the one to look at first in front.
    """

    images: Path
    labels: Path | None
    bundle: Path
    order: list[str]

    @property
    def name(self) -> str:
        """The model's name in the work folder, by its weights: after a further study it is a new one, which begins with
        that study's weights, and what was trained on the earlier one stays beside it."""
        return f"study_{hashlib.sha256((self.bundle / 'models/model.pt').read_bytes()).hexdigest()[:8]}"


def read(folder: Path) -> Study:
    """Read a study whose page is written.

    Raises:
        StartError: it is not a study, has no page yet, or its modalities lie in several folders, which MONAI Label
            cannot show.
    """
    folder = folder.expanduser().resolve()
    scores, bundle = folder / "scores.csv", folder / "bundle"
    if not (folder / plan.FILE).is_file():
        raise StartError(
            f"--study {folder} is not a study: it has no study.yaml. Plan one: python -m custom.study {folder}"
        )
    if not (scores.is_file() and bundle.is_dir()):
        raise StartError(
            f"--study {folder} is not done: it has no bundle or no scores. Go on: python -m custom.study run {folder}"
        )
    settings = plan.read(folder)
    if not settings.one_folder:
        raise StartError(
            f"--study {folder}: its images are not files of one folder ({settings.images}), which is what MONAI Label "
            "shows. Annotate a folder with --studies and --model"
        )
    with scores.open(newline="", encoding="utf-8") as file:
        order = [row["scan"] for row in csv.DictReader(file) if not row["patient"]]
    labels = Path(settings.labels) if settings.labels else None
    return Study(Path(str(settings.images)), labels, bundle, order)


def hand_over(study: Study, work: Path) -> int:
    """Write the list into the work folder, and copy the study's labels to where MONAI Label looks for them, which the study
    reads too. One that was corrected there stays; a copy that nobody has changed since is made anew where the study's label is
    another one now. Returns how many were copied.

    Raises:
        CohortError: two labels of one name.
    """
    write_text(work / ORDER, json.dumps(study.order) + "\n")
    if study.labels is None:
        return 0
    final, copied, count = study.images / CORRECTED, plan.copies(study.images), 0
    final.mkdir(parents=True, exist_ok=True)
    there = scans_in(final)
    for name, label in scans_in(study.labels).items():
        if not is_image(label):
            continue
        earlier, wanted = there.get(name), plan.digest(label)
        if earlier is None or plan.digest(earlier) == copied.get(earlier.name) != wanted:
            if earlier is not None and earlier.name != label.name:  # in another form: two of one name are refused
                earlier.unlink()
            for file in reversed(files_of(label)):
                write_atomically(final / file.name, partial(_copy, file))
            earlier, count = final / label.name, count + 1
        elif plan.digest(earlier) != wanted:
            continue  # corrected
        copied[earlier.name] = wanted
    write_text(study.images / COPIED, json.dumps(copied, indent=1) + "\n")
    return count


def _copy(file: Path, out: BinaryIO) -> None:
    with file.open("rb") as content:
        shutil.copyfileobj(content, out)
