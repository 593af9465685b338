"""The doubling convolution is the transposed convolution of size 2 and stride 2, whichever way it is computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from custom.networks import UNet, doubling, place
from custom.networks.doubling import DoublingConv2d, DoublingConv3d, doubled

LAYERS = {2: (DoublingConv2d, nn.ConvTranspose2d), 3: (DoublingConv3d, nn.ConvTranspose3d)}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}


def image(axes: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(2, 6, *(5, 4, 3)[:axes], dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=LAYOUT[axes]).requires_grad_()


@pytest.mark.parametrize("axes", [2, 3])
def test_its_values_and_gradients_are_those_of_the_stock_layer(axes):
    stock = LAYERS[axes][1](6, 4, 2, stride=2, dtype=torch.float64)
    x = image(axes, torch.float64)
    ours, theirs = doubled(x, stock.weight, stock.bias), stock(x)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=LAYOUT[axes])
    along = torch.randn_like(theirs)
    inputs = [x, stock.weight, stock.bias]
    for one, other in zip(
        torch.autograd.grad(ours, inputs, along), torch.autograd.grad(theirs, inputs, along), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("axes", [2, 3])
def test_the_layer_takes_it_in_bfloat16_with_gradient_channels_last_alone(axes, monkeypatch):
    taken = []
    monkeypatch.setattr(doubling, "doubled", lambda *a: taken.append(1) or doubled(*a))
    kind, stock_kind = LAYERS[axes]
    layer = kind(6, 4)
    stock = stock_kind(6, 4, 2, stride=2)
    stock.load_state_dict(layer.state_dict())
    x = image(axes, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # a processor without bfloat16 rounds between the sums
        torch.testing.assert_close(layer(x), stock(x), rtol=0.016, atol=0.004)
        assert taken == [1]
        with torch.no_grad():
            assert torch.equal(layer(x), stock(x))
        layer(x.contiguous())
    assert torch.equal(layer(x.float()), stock(x.float()))
    assert taken == [1]


def test_networks_take_it_under_autocast_and_keep_their_channels_last(monkeypatch):
    taken = []
    monkeypatch.setattr(doubling, "doubled", lambda *a: taken.append(1) or doubled(*a))
    network = place(UNet(2, 1, 3, widths=(4, 8, 16), dropout=0.0), "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.randn(2, 1, 16, 16).to(memory_format=torch.channels_last))
    assert len(taken) == 2
    assert logits.is_contiguous(memory_format=torch.channels_last)
