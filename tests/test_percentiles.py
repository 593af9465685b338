"""Percentiles from pieces, by custom/cohort/percentiles.py: those of numpy, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from monai.transforms.utils_pytorch_numpy_unification import percentile

from custom.cohort import percentiles as module
from custom.cohort.percentiles import percentiles

COUNT = 1_000_003  # from a million on MONAI asks numpy
WANTED = (0, 0.5, 33.3, 50, 99.5, 100)
DRAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "real": lambda draw: draw.normal(0, 1e3, COUNT),
    "whole": lambda draw: draw.integers(-1000, 3000, COUNT),
    "few": lambda draw: draw.integers(-1, 2, COUNT) * -0.0 + draw.integers(-1, 2, COUNT),
    "background": lambda draw: np.where(draw.random(COUNT) < 0.994, 0, draw.normal(size=COUNT)),
    "narrow": lambda draw: 1 + draw.random(COUNT) * 1e-4,
}


def pieces(values: np.ndarray) -> Callable[[], Iterable[np.ndarray]]:
    return lambda: np.array_split(values, 7)


@pytest.mark.parametrize("draw", DRAWS)
def test_they_are_numpys_to_the_bit(draw):
    values = DRAWS[draw](np.random.default_rng(0)).astype(np.float32)
    assert percentiles(pieces(values), WANTED) == [float(percentile(torch.from_numpy(values), q)) for q in WANTED]


def test_of_few_values_and_of_one():
    assert percentiles(pieces(np.float32([3, 1, 2, 9])), (0, 50, 90, 100)) == [1, 2.5, pytest.approx(7.2), 9]
    assert percentiles(pieces(np.float32([-7])), (0, 50, 100)) == [-7, -7, -7]


def test_where_one_value_is_nan_all_are():
    assert all(map(math.isnan, percentiles(pieces(np.float32([1, np.nan, 2, -np.nan])), (0, 50))))


def test_the_numbers_that_are_counted_are_in_the_order_of_the_values():
    values = np.float32([-np.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 2, 3e38, np.inf])
    keys = module._ordered(values)
    assert (np.diff(keys.astype(np.int64)) >= 0).all()
    assert keys[4] == keys[5]
    assert [module._value(int(key)) for key in keys] == values.tolist()
