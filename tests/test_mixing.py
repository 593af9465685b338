"""Mixing within a batch: boxes, shares, and that everything of a patch is mixed alike."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from custom.stream.mixing import CutMix, Mix


def drawn(cutmix: CutMix, batch: int, patch: tuple[int, ...], present=None, seed: int = 0) -> Mix:
    present = torch.ones(batch, 1, dtype=torch.bool) if present is None else present
    return cutmix.draw(present, patch, Generator().manual_seed(seed))


def test_a_box_shows_the_neighbour_in_closed_form():
    mask = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    mask[1, 0, 0] = True  # the second patch shows the first row of the first one
    image = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert Mix(mask)(image).tolist() == [[[[0, 0], [0, 0]]], [[[0, 0], [1, 1]]], [[[2, 2], [2, 2]]]]


def test_what_belongs_to_a_patch_is_mixed_by_the_same_box():
    mix = drawn(CutMix(prob=1.0), 4, (16, 20))
    who = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 20)
    image, classes = mix(who), mix(who[:, 0])  # (B, C, *spatial) and (B, *spatial)
    assert torch.equal(image[:, 0], classes)
    assert torch.equal(image[:, 0], image[:, 2])
    assert torch.equal(image[:, :1] != who[:, :1], mix.mask)


@pytest.mark.parametrize("patch", [(40, 60), (24, 20, 16)])
def test_a_box_has_the_share_of_the_patch_that_is_asked_for(patch):
    """Rounding to voxels and cutting at the border take a little; no box is larger than asked for."""
    mask = drawn(CutMix(prob=1.0, low=0.2, high=0.3, aspect=1.5), 64, patch).mask
    shares = mask.flatten(1).float().mean(dim=1)
    assert shares.min() > 0.15
    assert shares.max() < 0.35
    for one in mask[:, 0]:  # a box: as many voxels as the product of its sides
        where = one.nonzero()
        assert len(where) == int((where.amax(0) - where.amin(0) + 1).prod())


def test_as_often_as_asked_for():
    used = drawn(CutMix(prob=0.5), 400, (8, 8)).mask.flatten(1).any(dim=1)
    assert 0.4 < used.float().mean() < 0.6
    assert not drawn(CutMix(prob=0.0), 50, (8, 8)).mask.any()


def test_boxes_are_a_function_of_the_seed():
    first, again, other = (drawn(CutMix(prob=1.0), 8, (16, 16), seed=seed).mask for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_patch_whose_neighbour_has_other_modalities_keeps_itself():
    present = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    mask = drawn(CutMix(prob=1.0), 4, (8, 8), present).mask.flatten(1).any(dim=1)
    assert mask.tolist() == [True, False, True, False]  # neighbours: 3, 0, 1, 2


@pytest.mark.parametrize("arguments", [{"prob": 1.5}, {"low": 0.0}, {"low": 0.5, "high": 0.4}, {"aspect": 0.5}])
def test_what_is_out_of_range_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments)) if len(arguments) == 1 else "low and high"):
        CutMix(**arguments)
