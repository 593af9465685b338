"""Intensities as a network sees them, after preprocessing, and whether those of a case are like those it was trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .mapped import release_pages
from .words import plural

FILE = "intensities.json"  # beside the weights
SAMPLE = 2**18  # voxels that the median is taken of
AT_ONCE = 2**22  # voxels whose sums are taken at once
MARGIN = 0.5, 0.05  # beyond what training had, before a case is named: of the width of that, of the whole range
BEYOND = 1.0, 100.0  # widths of the whole range: half of the voxels so far outside, or one voxel: nonsense
AWAY = 0.6  # of the whole range, that the median lies from all those in training: nonsense
FLAT = 0.05  # of the smallest contrast in training: nonsense
BRIGHTEST = 0.25, 0.5  # share of all voxels, above that in training, and of those that are not darkest: nonsense
ALL_BRIGHTEST = 0.95
IN_FULL = 3
REMEDY = "Save it with the range of values that the scans in training had (the same bits and unit), or remove it"


class IntensityError(UserError, ValueError):
    """A network would see nonsense."""


@dataclass(frozen=True)
class Intensities:
    """The intensities of one channel of a case after preprocessing.

    Args:
        finite: whether all voxels are.
        low, high, mean, deviation, median: of the finite voxels.
        darkest, brightest: shares of the voxels that have the lowest and the highest value.
    """

    finite: bool
    low: float
    high: float
    mean: float
    deviation: float
    median: float
    darkest: float
    brightest: float


CaseIntensities = Mapping[str, Intensities]
"""Intensities by channel; without those that the case lacks."""
IntensityRecord = Mapping[str, Mapping[str, tuple[float, float]]]
"""The smallest and the largest value of all cases in training, by channel and name of :class:`Intensities`."""


def measure(image: Tensor, channels: Sequence[str]) -> dict[str, Intensities]:
    """What a network sees of a case.

    Args:
        image: ``(C, *spatial)``.
        channels: C names.
    """
    return {name: _of(voxels) for name, voxels in zip(channels, image, strict=True)}


def _of(voxels: Tensor) -> Intensities:
    flat = voxels.flatten().float()
    known = flat
    if not all(bool(part.isfinite().all()) for part in _parts(flat)):
        known = flat[flat.isfinite()]
    if not known.numel():
        return Intensities(False, *[math.nan] * 7)
    low = torch.stack([part.min() for part in _parts(known)]).min()
    high = torch.stack([part.max() for part in _parts(known)]).max()
    values = [float(value) for value in (low, high, *_mean_and_deviation(known), _sample(known).median())]
    shares = [sum(int((part == end).sum()) for part in _parts(known)) / known.numel() for end in (low, high)]
    return Intensities(known.numel() == flat.numel(), *values, *shares)


def _parts(values: Tensor) -> Iterator[Tensor]:
    """Parts of a large volume, which may be mapped: neither a copy of the whole nor all its pages are held at once."""
    for part in values.split(AT_ONCE):
        yield part
        release_pages()


def _sample(values: Tensor) -> Tensor:
    step = max(values.numel() // SAMPLE, 1) | 1  # odd: even ones might run down a few columns alone
    return torch.cat([part[-number * AT_ONCE % step :: step].clone() for number, part in enumerate(_parts(values))])


def _mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in float64, without a float64 copy of a large volume."""
    if values.numel() <= AT_ONCE:
        return values.double().mean(), values.double().std(correction=0)
    mean = sum((part.double().sum() for part in _parts(values)), torch.zeros(())) / values.numel()
    squares = sum(((part.double() - mean).square().sum() for part in _parts(values)), torch.zeros(()))
    return mean, (squares / values.numel()).sqrt()


def seen(cases: Sequence[CaseIntensities]) -> dict[str, dict[str, tuple[float, float]]]:
    """The range of each number over the cases of a training."""
    found: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        for channel, intensities in case.items():
            for name, value in asdict(intensities).items():
                if name != "finite":
                    found.setdefault(channel, {}).setdefault(name, []).append(value)
    return {c: {name: (min(values), max(values)) for name, values in named.items()} for c, named in found.items()}


def load(models: Path) -> IntensityRecord:
    """The record beside weights; an empty one where there is none."""
    path = models / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def nonsense(case: CaseIntensities, record: IntensityRecord) -> str:
    """Why a network would see nothing that means anything, with a remedy; empty where it may."""
    for channel, now in case.items():
        if not now.finite:
            return f"{channel} has values that are not finite after preprocessing. Correct the file, or remove it"
        if now.low == now.high:
            return f"{channel} is {now.low:g} all over after preprocessing: nothing can be found in it. Remove it"
        if fault := _nonsense(now, record.get(channel)):
            return f"{channel} {fault}. {REMEDY}"
    return ""


def _nonsense(now: Intensities, trained: Mapping[str, tuple[float, float]] | None) -> str:
    white = f"has its highest value in {now.brightest:.0%} of all voxels after preprocessing"
    if trained is None:
        return white if now.brightest >= ALL_BRIGHTEST else ""
    low, high, contrast = _extent(trained)
    above = now.brightest / (1 - now.darkest)
    if now.brightest > trained["brightest"][1] + BRIGHTEST[0] and above > BRIGHTEST[1]:
        return f"{white}, in training in at most {trained['brightest'][1]:.0%}"
    half, one = (reach * (high - low) for reach in BEYOND)
    if not low - half <= now.median <= high + half or now.low < low - one or now.high > high + one:
        return (
            f"runs from {now.low:.4g} to {now.high:.4g} after preprocessing (median {now.median:.3g}), in training from "
            f"{low:.3g} to {high:.3g}"
        )
    least, most = trained["median"]
    if max(least - now.median, now.median - most) > AWAY * (high - low):
        return (
            f"has a median of {now.median:.3g} after preprocessing, in training {least:.3g} to {most:.3g}: its greys are "
            "inverted, or what surrounds it has a value far below or above all others"
        )
    if now.high - now.low < FLAT * contrast:
        return f"runs from {now.low:.3g} to {now.high:.3g} after preprocessing, in training over no less than {contrast:.3g}"
    return ""


def _extent(trained: Mapping[str, tuple[float, float]]) -> tuple[float, float, float]:
    """The lowest and the highest value of all cases, and the least that lies between those of a case."""
    low, high = trained["low"], trained["high"]
    return low[0], high[1], max(high[0] - low[1], 0.0)


def outside_training(case: CaseIntensities, record: IntensityRecord) -> str:
    """What of a case lies outside of what training had, in words; empty where nothing does."""
    found = []
    for channel in case.keys() & record.keys():
        now, trained = asdict(case[channel]), record[channel]
        low, high, _ = _extent(trained)
        for name in ("low", "high", "mean", "deviation", "brightest"):
            least, most = trained[name]
            whole = 1.0 if name == "brightest" else high - low
            margin = MARGIN[0] * (most - least) + MARGIN[1] * whole
            if not least - margin <= now[name] <= most + margin:
                found.append(f"{channel}: {WORDS[name]} {now[name]:.3g}, in training {least:.3g} to {most:.3g}")
    return "; ".join(sorted(found))


def odd_summary(odd: Mapping[str, str], total: int) -> str:
    """One line for all cases that are odd: how many, the first few in full, of the others the names.

    Args:
        odd: what :func:`outside_training` or :func:`nonsense` says, by the case's name.
        total: how many cases there are.
    """
    names = [f"{name} ({text})" if k < IN_FULL else name for k, (name, text) in enumerate(odd.items())]
    return f"after preprocessing {len(odd)} of {plural(total, 'scan')} unlike those in training: {', '.join(names)}."


WORDS = {"low": "lowest value", "high": "highest value", "mean": "mean", "deviation": "standard deviation",
         "brightest": "share of the highest value"}  # fmt: skip
