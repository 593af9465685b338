"""Where the classes lie in the labelled scans, and where one can be told from its place alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cohort.grids import BODY_AXES
from ..cohort.reader import ScanReader
from ..cohort.words import plural

RAS = ("left-right", "back-front", "foot-head")
PICTURE = ("left-right", "top-bottom")
ENDS = {"left-right": ("left", "right"), "back-front": ("back", "front"), "foot-head": ("foot", "head"),
        "top-bottom": ("top", "bottom")}  # fmt: skip
FEWEST_OF_ONE = 4  # patients: by chance they lie on one side in 1 of 8 cohorts of four
FEWEST_OF_TWO = 2  # patients, of two classes: a mirror image that exchanges them costs more than one that is missing
MARGIN = 0.05  # of the extent
MOST = 60  # labels that are read


@dataclass(frozen=True)
class Place:
    """Where a class lies in a scan.

    Args:
        value: of the label.
        centre: the centroid, from the middle of the image, in shares of its extent, [-0.5, 0.5]; along the axes of RAS, or
            of the picture.
    """

    patient: str
    value: int
    centre: tuple[float, ...]


@dataclass(frozen=True)
class Side:
    """An axis along which a class is known by where it lies; ``why`` is the end of a sentence."""

    axis: int
    why: str


def class_places(entries: Sequence[Mapping[str, Any]], values: Sequence[int], most: int = MOST) -> list[Place]:
    """Measure the classes of labelled scans.

    Args:
        entries: with ``patient`` and ``label``, a path; of more than ``most`` some from all over the list are read.
        values: of the classes, in labels, without the background.
    """
    step = max(len(entries) / most, 1)
    chosen = [entries[int(k * step)] for k in range(min(len(entries), most))]
    return [place for entry in chosen for place in _places(entry, values)]


def _places(entry: Mapping[str, Any], values: Sequence[int]) -> list[Place]:
    label = volume(entry["label"])[0]
    found = []
    for value in values:
        voxels = np.argwhere(label == value)
        if len(voxels):
            centre = (voxels.mean(axis=0) + 0.5) / label.shape - 0.5
            found.append(Place(str(entry["patient"]), value, tuple(centre.tolist())))
    return found


def volume(file: str) -> NDArray:
    """``(C, *spatial)``; a volume with its axes in the order and direction of RAS."""
    from monai.transforms import LoadImage, Orientation

    image = LoadImage(reader=ScanReader, image_only=True, ensure_channel_first=True)(file)
    if image.ndim == 4:
        image = Orientation("RAS", labels=[tuple(ends) for ends in BODY_AXES])(image)
    return np.asarray(image)


def sides(places: Sequence[Place], names: Mapping[int, str], axes: Sequence[int]) -> list[Side]:
    """Axes along which some class lies on one side of the middle, or of another class, in every patient and by a margin.

    There a mirror image or a half turn shows what no scan shows. Of fewer than four patients the order of two classes
    counts alone, of one patient nothing.

    Args:
        names: of the classes, by value.
        axes: to be looked at.
    """
    centres: dict[int, dict[str, list[tuple[float, ...]]]] = {}  # of a class, by patient
    for place in places:
        centres.setdefault(place.value, {}).setdefault(place.patient, []).append(place.centre)
    means = {value: {p: np.mean(rows, axis=0) for p, rows in of.items()} for value, of in centres.items()}
    texts = RAS if places and len(places[0].centre) == 3 else PICTURE
    found = []
    for axis in axes:
        for (first, second), offsets in _offsets(means).items():
            along, fewest = offsets[:, axis], FEWEST_OF_ONE if second is None else FEWEST_OF_TWO
            if len(along) >= fewest and (along.min() >= MARGIN or along.max() <= -MARGIN):
                end = ENDS[texts[axis]][int(along.min() > 0)]
                other = names.get(second, f"label {second}") if second is not None else "the middle"
                name, every = names.get(first, f"label {first}"), plural(len(along), "labelled patient")
                found.append(Side(axis, f"{name} lies to the {end} of {other} in all {every}"))
                break
    return found


def _offsets(means: Mapping[int, Mapping[str, NDArray]]) -> dict[tuple[int, int | None], NDArray]:
    """``(patients, axes)`` of each class from the middle, and from each other class."""
    values = sorted(means)
    offsets: dict[tuple[int, int | None], NDArray] = {(v, None): np.array(list(means[v].values())) for v in values}
    for k, value in enumerate(values):
        for other in values[k + 1 :]:
            both = [patient for patient in means[value] if patient in means[other]]
            if both:
                offsets[value, other] = np.array([means[value][p] - means[other][p] for p in both])
    return offsets
