"""A convolution of two maps beside each other is the same whether or not they are put there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from custom.networks import UNet, merging, place
from custom.networks.merging import Merge, beside

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}


def maps(axes: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Maps of 3 and 5 channels: neither is half of the whole."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, channels, *(6, 5, 4)[:axes]) for channels in (3, 5)]
    found = [torch.randn(shape, dtype=dtype, generator=draw).to(memory_format=LAYOUT[axes]) for shape in shapes]
    return [each.requires_grad_() for each in found]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_its_values_and_gradients_are_those_of_the_concatenated_maps(axes, bias):
    conv = CONV[axes](8, 4, 3, padding=1, bias=bias, dtype=torch.float64)
    skip, below = maps(axes, torch.float64)
    ours, theirs = beside(skip, below, conv.weight, conv.bias), conv(torch.cat([skip, below], dim=1))
    torch.testing.assert_close(ours, theirs)
    inputs = [skip, below, *conv.parameters()]
    along = torch.randn_like(theirs)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, along), torch.autograd.grad(theirs, inputs, along), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("axes", [2, 3])
def test_it_is_taken_in_float32_with_gradient_channels_last_alone(axes, monkeypatch):
    taken = []
    monkeypatch.setattr(merging, "beside", lambda *a: taken.append(1) or beside(*a))
    layer = Merge(CONV[axes](8, 4, 3, padding=1), nn.LeakyReLU())
    skip, below = maps(axes)
    plain = nn.Sequential(*layer)(torch.cat([skip, below], dim=1))
    ours = layer(skip, below)
    torch.testing.assert_close(ours, plain)
    assert ours.is_contiguous(memory_format=LAYOUT[axes])
    assert taken == [1]
    with torch.no_grad():
        assert torch.equal(layer(skip, below), plain)
    layer(skip.contiguous(), below)
    layer(skip, below.contiguous())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(skip, below)
    copy.deepcopy(layer).double()(skip.double(), below.double())
    assert taken == [1]


def test_a_network_takes_it_at_every_level_and_its_file_keeps_its_names(monkeypatch):
    taken = []
    monkeypatch.setattr(merging, "beside", lambda *a: taken.append(1) or beside(*a))
    network = place(UNet(2, 1, 3, widths=(4, 8, 16), dropout=0.0), "cpu")
    logits = network(torch.randn(2, 1, 16, 16).to(memory_format=torch.channels_last))
    assert len(taken) == 2
    assert logits.is_contiguous(memory_format=torch.channels_last)
    assert {"merge.0.0.weight", "merge.0.1.running_mean", "merge.1.4.bias"} <= set(network.state_dict())


def test_a_scripted_network_gives_the_same(tmp_path):
    network = place(UNet(2, 1, 3, widths=(4, 8), dropout=0.0), "cpu").eval()
    image = torch.randn(1, 1, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(network)(image), network(image))
