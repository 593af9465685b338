"""Scans unlike the labelled ones, by what their files hold: grid, field of view, intensities, channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..cohort.facts import PERCENTILES, Facts
from ..cohort.grids import as_seen
from ..cohort.words import plural

FACTOR = 1.5  # of spacing and field of view: less is never named
CONTRASTS = 1 / 3  # of the labelled scans' contrast, 99.5 % less 0.5 %: less is never named
ROUNDING = 1e-9
AXES = ("first", "second", "third")
PARTS = {0.25: "a quarter of the", 1 / 3: "a third of the", 0.5: "half the"}


def unlike(
    labelled: Mapping[str, Facts], others: Mapping[str, Facts], patients: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    r"""Say of each scan that is unlike the labelled ones what differs: ``3x coarser along the third axis``.

    Each number of a scan is compared with the range of the labelled scans. It is unlike them where it lies outside by
    more than

    .. math:: t = \max\Big(f, \max_p d\big(x_p, [\min_{q \ne p} x_q, \max_{q \ne p} x_q]\big)\Big),

    the largest distance of a labelled patient's scan from the range of the other patients', and never less than a floor
    f. The numbers:

    - logarithm of the spacing and of the field of view (size x spacing) along each axis; f is a factor of 1.5.
    - the 0.5, 50 and 99.5 % percentiles of each channel, divided by the median contrast (99.5 % less 0.5 %) of the
      labelled scans; f is 1/3.

    Beside that: another number of axes or channels than any labelled scan has, whole numbers among fractions or the
    reverse, and channels that are the same all over or without a finite voxel.

    Axes are compared by what they run along, in the order left-right, back-front, foot-head, whatever the order in the
    file.

    Args:
        labelled: facts of one modality's files, by the scan's name.
        others: the scans to judge, of the same modality.
        patients: whose scan a labelled one is; one that is not named is a patient's only one. Scans of one patient are
            alike: held out one by one they would make the thresholds too small.

    Returns:
        By the scan's name what is unlike, a text a fault; scans like the labelled ones are not in it.

    Raises:
        ValueError: no labelled scan.
    """
    if not labelled:
        raise ValueError("what is unlike the labelled scans cannot be said without one: got none")
    whose = {name: (patients or {}).get(name, name) for name in labelled}
    known = {name: as_seen(facts, "RAS") for name, facts in labelled.items()}
    found = {name: _texts(as_seen(facts, "RAS"), known, whose) for name, facts in others.items()}
    return {name: texts for name, texts in found.items() if texts}


def _texts(scan: Facts, labelled: Mapping[str, Facts], whose: Mapping[str, str]) -> list[str]:
    peers = {name: facts for name, facts in labelled.items() if len(facts.shape) == len(scan.shape)}
    if not peers:
        return [f"{len(scan.shape)} axes, the labelled scans have {_each(len(f.shape) for f in labelled.values())}"]
    texts = [text for axis in range(len(scan.shape)) for text in _along(axis, scan, peers, whose)]
    alike = {name: facts for name, facts in peers.items() if facts.channels == scan.channels}
    if not alike:
        have = _each(facts.channels for facts in peers.values())
        return [*texts, f"{plural(scan.channels, 'channel')}, the labelled scans have {have}"]
    if _fractions(scan) not in {_fractions(facts) for facts in alike.values()}:
        texts.append(f"stored as {scan.dtype}, the labelled scans as {_each(facts.dtype for facts in alike.values())}")
    for channel in range(scan.channels):
        if text := _intensities(channel, scan, alike, whose):
            texts.append(text if scan.channels == 1 else f"channel {channel + 1}: {text}")
    return texts


def _along(axis: int, scan: Facts, labelled: Mapping[str, Facts], whose: Mapping[str, str]) -> list[str]:
    """Spacing and field of view along an axis."""
    nominal = len(scan.shape) == 2 and set(scan.spacing_mm) == {1.0}  # a picture knows of no mm
    texts = []
    for what, of in (("spacing", _spacing), ("field", _field)):
        mine, theirs = of(scan, axis), {name: of(facts, axis) for name, facts in labelled.items()}
        logs = {name: math.log(value) for name, value in theirs.items()}
        if ratio := _beyond(math.log(mine), logs, whose, math.log(FACTOR)):
            unit = "pixels" if nominal and what == "field" else "mm"
            says = _coarser(math.exp(ratio)) if what == "spacing" else f"{_part(math.exp(ratio))} field of view"
            texts.append(f"{says} along the {AXES[axis]} axis ({_against(mine, theirs.values(), unit)})")
    return texts


def _intensities(channel: int, scan: Facts, labelled: Mapping[str, Facts], whose: Mapping[str, str]) -> str:
    """The percentile of a channel that is farthest outside, in words; empty where none is."""
    mine = scan.percentiles[channel]
    theirs = {name: facts.percentiles[channel] for name, facts in labelled.items()}
    theirs = {name: values for name, values in theirs.items() if all(map(math.isfinite, values))}
    if not all(map(math.isfinite, mine)):
        return "no finite voxel"
    if scan.low == scan.high:
        return f"{scan.low:g} all over"
    if not theirs:
        return ""
    contrast = float(np.median([values[-1] - values[0] for values in theirs.values()])) or 1.0
    beyond = [
        _beyond(value / contrast, {name: values[k] / contrast for name, values in theirs.items()}, whose, CONTRASTS)
        for k, value in enumerate(mine)
    ]
    k = max(range(len(mine)), key=lambda k: abs(beyond[k]))
    if not beyond[k]:
        return ""
    numbers = _against(mine[k], [values[k] for values in theirs.values()])
    word = "brighter" if beyond[k] > 0 else "darker"
    return f"{word} than all labelled scans ({PERCENTILES[k]:g} % percentile {numbers})"


def _beyond(value: float, labelled: Mapping[str, float], whose: Mapping[str, str], floor: float) -> float:
    """How far a number lies above (> 0) or below the labelled ones; 0 where that is no more than the threshold."""
    threshold = floor
    ends = {
        whose[min(labelled, key=lambda name: labelled[name])],
        whose[max(labelled, key=lambda name: labelled[name])],
    }
    for patient in ends:  # no other lies outside of what the rest has
        own, rest = ([x for name, x in labelled.items() if (whose[name] == patient) is held] for held in (True, False))
        threshold = max([threshold, *(abs(_outside(number, rest)) for number in own if rest)])
    distance = _outside(value, list(labelled.values()))
    return distance if abs(distance) > threshold + ROUNDING else 0.0


def _outside(value: float, numbers: Sequence[float]) -> float:
    low, high = min(numbers), max(numbers)
    return value - high if value > high else min(value - low, 0.0)


def _spacing(scan: Facts, axis: int) -> float:
    return scan.spacing_mm[axis]


def _field(scan: Facts, axis: int) -> float:
    return scan.spacing_mm[axis] * scan.shape[axis]


def _fractions(scan: Facts) -> bool:
    return np.dtype(scan.dtype).kind == "f"


# Words


def _coarser(ratio: float) -> str:
    return f"{ratio:.2g}x coarser" if ratio > 1 else f"{1 / ratio:.2g}x finer"


def _part(ratio: float) -> str:
    part = next((text for value, text in PARTS.items() if abs(ratio / value - 1) < 0.05), "")
    return part or f"{ratio:.2g}x the"


def _against(value: float, labelled: Iterable[float], unit: str = "") -> str:
    numbers = list(labelled)
    low, high = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
    space = f" {unit}" if unit else ""
    return f"{value:.4g}{space}; labelled {low if low == high else f'{low} to {high}'}{space}"


def _each(values: Iterable[object]) -> str:
    """``uint8``, ``1 or 3``."""
    return " or ".join(sorted({str(value) for value in values}))
