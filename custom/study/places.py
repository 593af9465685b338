"""Where the classes lie in the labelled scans, and where one can be told from its place alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
SPREAD, COUNTED = 0.08, 3  # of places between patients, share of the extent, and as how many patients that counts
CONFIDENCE = 0.975
MOST = 60  # labels that are read


@dataclass(frozen=True)
class Place:
    """Where a class lies in a scan.

    Args:
        value: of the label.
        centre: the centroid, from the middle of the image, in shares of its extent, [-0.5, 0.5]; along the axes of
            RAS, or of the picture.
        in_slices: voxels in a slice across each of these axes, on average over the slices that show the class.
    """

    patient: str
    value: int
    centre: tuple[float, ...]
    in_slices: tuple[float, ...] = field(default=(), compare=False)


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
            in_slices = tuple(len(voxels) / len(np.unique(along)) for along in voxels.T)
            found.append(Place(str(entry["patient"]), value, tuple(centre.tolist()), in_slices))
    return found


def volume(file: str) -> NDArray:
    """``(C, *spatial)``; a volume with its axes in the order and direction of RAS."""
    from monai.transforms import LoadImage, Orientation

    image = LoadImage(reader=ScanReader, image_only=True, ensure_channel_first=True)(file)
    if image.ndim == 4:
        image = Orientation("RAS", labels=[tuple(ends) for ends in BODY_AXES])(image)
    return np.asarray(image)


def sides(places: Sequence[Place], names: Mapping[int, str], axes: Sequence[int]) -> list[Side]:
    """Axes along which a class lies on one side of the middle, or of another class, in every patient, and the next
    patient is expected to be so as well: see :func:`same_side`. There a mirror image or a half turn shows what no scan
    shows.

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
        known = [(pair, rows[:, axis]) for pair, rows in _offsets(means).items() if same_side(rows[:, axis])]
        for (first, second), along in known[:1]:
            end = ENDS[texts[axis]][int(along.min() > 0)]
            other = names.get(second, f"label {second}") if second is not None else "the middle"
            name, every = names.get(first, f"label {first}"), plural(len(along), "labelled patient")
            found.append(Side(axis, f"{name} lies to the {end} of {other} in all {every}"))
    return found


def same_side(offsets: NDArray) -> bool:
    r"""Whether all patients, at least two, and with 97.5 % the next one lie on one side of 0.

    Student's prediction interval, with a spread :math:`s_0` that counts as :math:`k` patients: four tumours may lie
    left by chance, and two patients say next to nothing of the spread of all.

    .. math:: |\bar x| > t_{k+n-1} \sqrt{\frac{k s_0^2 + \sum_i (x_i - \bar x)^2}{k + n - 1} (1 + 1/n)}

    Args:
        offsets: ``(n,)``, a patient each, shares of the extent.
    """
    from scipy.special import stdtrit

    n = len(offsets)
    if n < 2 or offsets.min() <= 0 <= offsets.max():
        return False
    degrees = COUNTED + n - 1
    variance = (COUNTED * SPREAD**2 + ((offsets - offsets.mean()) ** 2).sum()) / degrees
    reach = stdtrit(degrees, CONFIDENCE) * math.sqrt(variance * (1 + 1 / n))
    return bool(abs(offsets.mean()) > reach)


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
