"""Networks keep their shapes, their parameter counts and their exports."""

from __future__ import annotations

import pytest
import torch
from saying import says

from custom.errors import UserError
from custom.networks import UNet, place


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_logits_have_the_grid_of_the_image(dims, norm):
    network = UNet(dims, 2, 5, widths=(4, 8, 16), dropout=0.1, norm=norm)
    assert network(torch.randn(2, 2, *[16] * dims)).shape == (2, 5, *[16] * dims)


def test_the_size_of_the_plain_2d_network():
    assert sum(p.numel() for p in UNet(2, 1, 4).parameters()) == 1_943_812


def test_features_come_with_the_logits_of_forward():
    network = UNet(2, 1, 3, widths=(4, 8, 16), dropout=0.0).eval()
    image = torch.randn(1, 1, 16, 24)
    logits, maps = network.features(image)
    assert torch.equal(logits, network(image))
    assert {k: tuple(v.shape[1:]) for k, v in maps.items()} == {
        "e1": (4, 16, 24), "e2": (8, 8, 12), "e3": (16, 4, 6), "d2": (8, 8, 12), "d1": (4, 16, 24)}  # fmt: skip
    assert torch.equal(network.out(maps["d1"]), logits)


def test_features_survive_torchscript():
    network = UNet(2, 1, 3, widths=(4, 8), dropout=0.1).eval()
    scripted = torch.jit.script(network)
    image = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(scripted(image), network(image))
    torch.testing.assert_close(scripted.features(image)[1]["d1"], network.features(image)[1]["d1"])


def test_dropout_is_set_level_by_level():
    rates = [
        m.p for m in UNet(2, 1, 2, widths=(4, 8, 16), dropout=(0, 0.1, 0.3)).modules() if "Dropout" in str(type(m))
    ]
    assert rates == [0.1, 0.3]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 2 or 3, got 4"),
        ({"norm": "layer"}, "norm is 'batch' or 'instance', got 'layer'"),
        ({"widths": (4, 8)}, r"dropout has 5 rates .* for 2 widths \[4, 8\]; give one a level"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        UNet(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **arguments})


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("dims", "form"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_networks_lie_channels_last_and_compute_the_same(dims, form, norm):
    network = UNet(dims, 1, 3, widths=(4, 8), dropout=0.0, norm=norm).eval()
    image = torch.randn(2, 1, *[16] * dims)
    before = network(image)
    placed = place(network, "cpu")
    assert placed.down[0][0].weight.is_contiguous(memory_format=form)
    torch.testing.assert_close(placed(image), before)


@pytest.mark.parametrize("device", ["cuda:99", "cuda99", torch.device("cuda:99"), "xpu:99"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device):
    with pytest.raises(UserError) as error:
        place(UNet(2, 1, 3, widths=(4, 8), dropout=0.0), device)
    gpus = "".join(f", cuda:{number}" for number in range(torch.cuda.device_count()))
    text = str(error.value)
    assert text.startswith(f"device {str(device)!r} cannot be used (")
    says(text, f"found cpu{gpus}.", "Leave --device out", "name one of these", "a GPU that is not among them")
    assert "\n" not in text
