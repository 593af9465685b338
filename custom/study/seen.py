"""What a plan is made from: the median scan, the classes and where they lie, the intensities of what is labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cohort.check import Check
from ..cohort.errors import CohortError
from ..cohort.facts import Facts
from ..cohort.fingerprint import SEEN, fingerprint, image_files
from ..cohort.grids import as_seen
from ..cohort.record import Record
from .places import Place, class_places, volume
from .sources import Source

SAMPLE = 20_000  # voxels of a scan's foreground
CUTS = 0.5, 99.5  # percentiles
MOST = 5, 95  # percentiles


@dataclass(frozen=True)
class Seen:
    """What the scans of a cohort have in common. Axes of volumes are those of RAS, of pictures their own.

    Args:
        size: median over scans, voxels, an entry an axis (2: pictures, 3: volumes).
        spacing_mm: median over scans; of pictures 1.
        channels: names in the network's order.
        modality: what each channel is, such as CT; an empty text where nobody says it.
        classes: names by label value, background first.
        darkest: median over scans of the smallest value.
        eight_bit: all images are of 8 bit.
        smallest: voxels of the smallest class, median over the scans that have it; NaN without any class.
        least: value of that class; 0 without any.
        in_slices: of volumes, the same in a slice across each axis, of the slices that show it on average; NaN as above.
        aspects: of pictures, first side to second, of those that are nearly the flattest and the most upright:
            percentiles 5 and 95; NaN of volumes.
        places: of the classes in labelled scans.
        foreground: 0.5 and 99.5 % of all values inside labels; None where they were not wanted, or there are none.
    """

    size: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    channels: tuple[str, ...]
    modality: tuple[str, ...]
    classes: Mapping[int, str]
    darkest: float = 0.0
    eight_bit: bool = True
    smallest: float = float("nan")
    least: int = 0
    in_slices: tuple[float, ...] = (float("nan"),) * 3
    aspects: tuple[float, float] = (float("nan"),) * 2
    places: tuple[Place, ...] = ()
    foreground: tuple[float, float] | None = None

    @property
    def pictures(self) -> bool:
        return len(self.size) == 2

    @property
    def ct(self) -> bool:
        """Hounsfield units: the source says so or, where it says nothing, air is in most scans."""
        return not self.pictures and is_ct(self.modality, self.darkest)


def is_ct(modality: Sequence[str], darkest: float) -> bool:
    """Whether values are Hounsfield units: all channels are called CT or, where none is called anything, at least half
    of the scans reach -500, which only air has."""
    return all(m.strip().upper() == "CT" for m in modality) if any(modality) else darkest <= -500


def see(parts: Mapping[str, Sequence[Mapping[str, Any]]], source: Source, record: Record) -> Seen:
    """Read the scans that may choose numbers: labelled, unlabelled and for validation, never those for testing.

    Args:
        parts: of a data list, with absolute paths, as :func:`custom.cohort.data_list.load` gives them.
        source: for the names of channels and classes.
        record: of the files that were read before.

    Raises:
        CohortError: all faults that :class:`~..cohort.check.Check` finds without a task; images unlike most; no label
            with a class.
    """
    chosen = {part: list(parts.get(part, [])) for part in SEEN}
    check = Check(needs=(), named=len(source.classes))
    check.record = record
    if faults := check.report(chosen).text():
        raise CohortError(f"The scans cannot be used.\n  {faults}")
    found = fingerprint(chosen, record, len(source.classes))
    entries = [entry for part in SEEN for entry in chosen[part]]
    labelled = [entry for part in SEEN if part != "unlabelled" for entry in chosen[part]]
    images = [{name: _facts(record, file) for name, file in image_files(entry).items()} for entry in entries]
    firsts = [as_seen(next(iter(image.values())), "RAS") for image in images]
    labels = [_facts(record, entry["label"], label=True) for entry in labelled]
    values = found["label_values"]
    if not any(values):
        raise CohortError(f"no label has a class: the values of {len(labels)} labels are {values}, expected 0, the "
                          "background, and others. Give labels in which something is drawn")  # fmt: skip
    named = len(source.channels) == len(found["channels"])
    channels = source.channels if named else tuple(found["channels"])
    modality = source.modality if named else ("",) * len(channels)
    smallest, least = _smallest(labels)
    places = class_places(labelled, [value for value in values if value])
    darkest = float(np.median([min(f.low for f in image.values()) for image in images]))
    ct = found["dimensions"] == 3 and is_ct(modality, darkest)
    return Seen(
        size=_median([f.shape for f in firsts]),
        spacing_mm=_median([f.spacing_mm for f in firsts]),
        channels=channels,
        modality=modality,
        classes=_named(values, source.classes),
        darkest=darkest,
        eight_bit=all(f.dtype == "uint8" for image in images for f in image.values()),
        smallest=smallest,
        least=least,
        in_slices=_in_slices(places),
        aspects=_aspects([f.shape for f in firsts]),
        places=tuple(places),
        foreground=_foreground(labelled) if ct else None,
    )


def _facts(record: Record, file: str, label: bool = False) -> Facts:
    """The facts of a file that was read without a fault a moment ago."""
    found = record.facts([str(file)], labels=[str(file)] if label else [])[str(file)]
    if not isinstance(found, Facts):
        raise CohortError(str(found))
    return found


def _median(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.median(np.asarray(rows, dtype=float), axis=0).tolist())


def _named(values: Sequence[int], names: Mapping[int, str]) -> dict[int, str]:
    """Names by value, those that labels hold and those that are named; 0 is the background."""
    every = sorted({0, *values, *names})
    return {value: names.get(value, f"label {value}" if value else "background") for value in every}


def _smallest(labels: Sequence[Facts]) -> tuple[float, int]:
    """Voxels and value of the smallest class."""
    counts: dict[float, list[int]] = {}
    for label in labels:
        for value, count in label.values or ():
            if value:
                counts.setdefault(value, []).append(count)
    medians = ((float(np.median(found)), round(value)) for value, found in counts.items())
    return min(medians, default=(float("nan"), 0))


def _in_slices(places: Sequence[Place]) -> tuple[float, ...]:
    found: dict[int, list[tuple[float, ...]]] = {}
    for place in places:
        found.setdefault(place.value, []).append(place.in_slices)
    return tuple(np.min([np.median(rows, axis=0) for rows in found.values()], axis=0).tolist())


def _aspects(shapes: Sequence[Sequence[int]]) -> tuple[float, float]:
    if len(shapes[0]) != 2:
        return float("nan"), float("nan")
    first, second = np.array(shapes, dtype=float).T
    low, high = np.percentile(first / second, MOST).tolist()
    return low, high


def _foreground(labelled: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Percentiles of the foreground over all scans and channels, with at most as many voxels from each scan."""
    samples = []
    for entry in labelled:
        inside = volume(entry["label"])[0] > 0
        for file in image_files(entry).values():
            values = volume(file)[:, inside]
            values = values[np.isfinite(values)]
            samples.append(values[:: max(values.size // SAMPLE, 1)])
    pooled = np.concatenate(samples) if samples else np.zeros(0)
    return tuple(np.percentile(pooled, CUTS).tolist()) if pooled.size else None
