"""Percentiles of more voxels than may be copied, exact, from pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

HALF = 16  # bits of a float32 that one pass tells apart

Pieces = Callable[[], Iterable[NDArray[np.float32]]]


def percentiles(pieces: Pieces, wanted: Sequence[float]) -> list[float]:
    """Those that ``np.percentile`` has of all values, linear between two of them, as float32; NaN where a value is.

    With n values in order x_0 .. x_(n-1) and v = (n - 1) q / 100 it is x_floor(v) + (v - floor(v)) (x_(floor(v)+1) - x_floor(v)).
    The values at these places are found by counting: the first pass counts upper halves of their bits, the second one, where
    the wanted ones are, the lower halves.

    Args:
        pieces: gives vectors, the same whenever it is called.
        wanted: q, from 0 to 100.
    """
    upper = np.zeros(2**HALF, np.int64)
    for piece in pieces():
        if np.isnan(piece).any():
            return [math.nan] * len(wanted)
        upper += np.bincount(_ordered(piece) >> HALF, minlength=2**HALF)
    last = int(upper.sum()) - 1
    places = [last * (np.float64(q) / 100) for q in wanted]
    ranks = sorted({rank for place in places for rank in (math.floor(place), min(math.floor(place) + 1, last))})
    value = dict(zip(ranks, _values(pieces, upper, ranks), strict=True))
    found = []
    for place in places:
        first = math.floor(place)
        pair = np.array([value[first], value[min(first + 1, last)]], np.float32)
        found.append(float(np.float32(np.quantile(pair, np.float64(place - first)))))
    return found


def _values(pieces: Pieces, upper: NDArray[np.int64], ranks: Sequence[int]) -> Iterator[np.float32]:
    """The values that have these places in the order of all."""
    ends = np.cumsum(upper)
    bins = [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
    lower = {number: np.zeros(2**HALF, np.int64) for number in set(bins)}
    for piece in pieces():
        keys = _ordered(piece)
        for number, counts in lower.items():
            counts += np.bincount(keys[keys >> HALF == number] & (2**HALF - 1), minlength=2**HALF)
    for rank, number in zip(ranks, bins, strict=True):
        before = ends[number] - upper[number]
        low = int(np.searchsorted(np.cumsum(lower[number]), rank - before, side="right"))
        yield _value(number << HALF | low)


def _ordered(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Whole numbers that are in the order of the values; -0 is 0."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31))


def _value(key: int) -> np.float32:
    bits = np.uint32(key & (2**31 - 1)) if key >> 31 else np.uint32(~key & (2**32 - 1))
    return bits.view(np.float32)
