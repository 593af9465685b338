"""Dice at other thresholds than 0.5."""

from __future__ import annotations

import math

import pytest
import torch
from saying import raises
from torch import nn

from benchmarks import thresholds
from custom.errors import UserError
from custom.networks import OneChannel


def test_a_voxel_is_foreground_from_the_threshold_on():
    """Of four voxels, two in the label: one is found at 0.5, both and one more at 0.25."""
    foreground, label = torch.tensor([0.5, 0.3, 0.25, 0.1]), torch.tensor([True, True, False, False])
    assert thresholds.dice_at(foreground, label, 0.5) == pytest.approx(2 / 3)
    assert thresholds.dice_at(foreground, label, 0.25) == pytest.approx(4 / 5)
    assert math.isnan(thresholds.dice_at(foreground, torch.zeros(4, dtype=torch.bool), 0.5))


@pytest.mark.parametrize("slices", [True, False])
def test_slices_are_seen_one_by_one_and_come_back_as_the_scan_lies(slices):
    """A network that answers what it reads: the second channel, as a logit."""
    network = OneChannel(nn.Identity(), 1)
    image = torch.randn(2, 4, 3, 5)
    found = thresholds._foreground(network, image, slices)
    torch.testing.assert_close(found, image[1].sigmoid())


def test_several_classes_and_an_unfinished_run_are_refused(finished, tmp_path):
    run = finished("supervised", tmp_path / "run")
    with raises(UserError, str(run), "classes", "expected a background and one foreground class"):
        thresholds.rows(run)
    with raises(UserError, str(tmp_path / "none"), "*_final.pt", "Give the output_dir"):
        thresholds.rows(tmp_path / "none")
