"""A study (``python -m custom.study``) as annotation takes it: its images, its bundle, and which scan comes next."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from annotate.models import StartError
from custom.cohort.formats import files_of
from custom.cohort.names import is_image, scans_in, stem, suffix
from custom.files import write_atomically, write_text
from custom.study import settings as plan
from custom.study.annotation import COPIED, CORRECTED, FOLDER, copies, digest, link, links, not_shown
from custom.study.sources import find

ORDER = "order.json"  # in the work folder


@dataclass(frozen=True)
class Study:
    """What a study says.

    Args:
        images: the folder that MONAI Label shows.
        labels: by the names of the files that they are copied to.
        bundle: that serves.
        order: names of the unlabelled scans, the one to look at first in front.
        data_set: its folder, where the images are those of one.
        links: images of the data set, by the names of the links to them.
    """

    images: Path
    labels: Mapping[str, Path]
    bundle: Path
    order: list[str]
    data_set: Path | None = None
    links: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name in the work folder, by its weights: after a further study it is a new one, which begins with
        that study's weights, and what was trained on the earlier one stays beside it."""
        return f"study_{hashlib.sha256((self.bundle / 'models/model.pt').read_bytes()).hexdigest()[:8]}"

    @property
    def names(self) -> dict[Path, str]:
        """What MONAI Label calls the images of a data set, by file: nnU-Net's names of files end in a channel."""
        return {file.resolve(): stem(name) for name, file in self.links.items()}


def read(folder: Path) -> Study:
    """Read a study whose page is written.

    Raises:
        StartError: it is not a study, has no page yet, or MONAI Label cannot show its images.
        CohortError: a data set that cannot be used; two labels of one name.
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
    # of a folder of images the start itself says more
    if not settings.one_folder and (reason := not_shown(settings)):
        raise StartError(
            f"--study {folder} cannot be annotated: {reason}. Annotate a folder with --studies and --model"
        )
    with scores.open(newline="", encoding="utf-8") as file:
        order = [row["scan"] for row in csv.DictReader(file) if not row["patient"]]
    images = Path(str(settings.images))
    if settings.one_folder:
        labels = {path.name: path for path in scans_in(Path(settings.labels)).values() if is_image(path)}
        return Study(images, labels, bundle, order)
    source = find(images)
    labels = {f"{scan.name}{suffix(scan.label)}": scan.label for scan in source.scans if scan.label}
    return Study(folder / FOLDER, labels, bundle, order, images, links(source))


def link_images(study: Study) -> None:
    """Show the images of a data set by links, see :func:`custom.study.annotation.link`; does nothing where they lie in the
    folder themselves."""
    if study.data_set is not None:
        link(study.images, study.data_set, study.links)


def hand_over(study: Study, work: Path) -> int:
    """Write the list into the work folder, and copy the study's labels to where MONAI Label looks for them, which the study
    reads too. One that was corrected there stays; a copy that nobody has changed since is made anew where the study's label is
    another one now. Returns how many were copied.

    Raises:
        CohortError: two labels of one name below the images.
    """
    write_text(work / ORDER, json.dumps(study.order) + "\n")
    final, copied, count = study.images / CORRECTED, copies(study.images), 0
    final.mkdir(parents=True, exist_ok=True)
    there = scans_in(final)
    for name, label in study.labels.items():
        earlier, wanted = there.get(unicodedata.normalize("NFC", stem(name))), digest(label)
        if earlier is None or digest(earlier) == copied.get(earlier.name) != wanted:
            if earlier is not None and earlier.name != name:  # in another form: two of one name are refused
                earlier.unlink()
            for file in reversed(files_of(label)):
                write_atomically(final / (name if file == label else file.name), partial(_copy, file))
            earlier, count = final / name, count + 1
        elif digest(earlier) != wanted:
            continue  # corrected
        copied[earlier.name] = wanted
    write_text(study.images / COPIED, json.dumps(copied, indent=1) + "\n")
    return count


def _copy(file: Path, out: BinaryIO) -> None:
    with file.open("rb") as content:
        shutil.copyfileobj(content, out)
