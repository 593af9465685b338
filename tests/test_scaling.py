"""Intensities between two percentiles (custom/cohort/scaling.py): MONAI's, except for a scan of nearly one value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentilesd

from custom.cohort.scaling import ScalePercentilesd

OPTIONS = {"keys": "image", "lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True, "channel_wise": True}


def scaled(image: torch.Tensor) -> torch.Tensor:
    return ScalePercentilesd(**OPTIONS)({"image": image})["image"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 3), low=st.integers(-1000, 1000))
def test_of_usual_scans_it_is_monais_to_the_bit(seed, channels, low):
    image = torch.from_numpy(np.random.default_rng(seed).integers(low, low + 300, (channels, 9, 8, 7))).float()
    image = MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    mine, monais = scaled(image), ScaleIntensityRangePercentilesd(**OPTIONS)({"image": image})["image"]
    assert torch.equal(mine.as_tensor(), monais.as_tensor())
    assert (mine.dtype, mine.affine.tolist()) == (monais.dtype, monais.affine.tolist())


def sparse(background: float, *values: float) -> torch.Tensor:
    """``(1, 1000)``, each of the values once."""
    image = torch.full((1, 1000), background)
    image[0, : len(values)] = torch.tensor(values)
    return image


@pytest.mark.fault("32", "a scan that is one value nearly all over (MONAI unscaled: 0 to 2549)")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("background", "values", "expected"),
    [
        (0.0, (2549.0,), [1.0]),
        (0.0, (50.0, 100.0, 100.0), [0.5, 1.0, 1.0]),  # 99.5 % of the others: 100
        (-1000.0, (0.0, 1000.0, 1000.0), [0.5, 1.0, 1.0]),  # air
        (0.0, (-5.0, 5.0), [0.0, 1.0]),  # from -4.95 to 4.95, clipped
    ],
)
def test_a_scan_of_few_voxels_has_its_background_at_the_end_of_the_range(background, values, expected):
    found = scaled(sparse(background, *values))[0]
    torch.testing.assert_close(found[: len(values)].as_tensor(), torch.tensor(expected))
    assert float(found[-1]) == pytest.approx(0.5 if min(values) < background else 0.0)


def test_a_white_background_stays_white_and_a_blank_scan_is_the_darkest():
    assert scaled(sparse(255.0, 55.0))[0, [0, -1]].tolist() == [0.0, 1.0]
    assert scaled(sparse(7.0)).unique().tolist() == [0.0]


def test_each_channel_is_scaled_by_itself():
    found = scaled(torch.stack([sparse(0.0, 2549.0)[0], torch.arange(1000.0)]))
    assert (float(found[0].max()), float(found[0].mean())) == (1.0, pytest.approx(0.001))
    assert float(found[1].mean()) == pytest.approx(0.5)


@pytest.mark.parametrize("task", sorted((ROOT / "custom/tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_task_scales_by_percentiles_in_another_way(task):
    assert "ScaleIntensityRangePercentilesd" not in str(yaml.safe_load(task.read_text()))
