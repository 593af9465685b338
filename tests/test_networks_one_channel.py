"""A network of one modality reads its own channel of several, or the one that it is given."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from custom.networks import OneChannel, UNet, place


def network(channel: int = 0, classes: int = 4, dims: int = 2) -> OneChannel:
    torch.manual_seed(0)
    return OneChannel(UNet(dims, 1, classes - 1, widths=(4, 8), dropout=0.0), channel).eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channel", [0, 1])
def test_it_sees_its_own_channel_and_no_other(channel, dims):
    net, image = network(channel, dims=dims), torch.rand(2, 2, *[8] * dims)
    logits = net(image)
    assert logits.shape == (2, 4, *[8] * dims)
    assert torch.equal(logits, net(image[:, channel : channel + 1]))
    other = image.clone()
    other[:, 1 - channel] = 7.0
    assert torch.equal(logits, net(other))
    assert not torch.equal(logits, network(1 - channel, dims=dims)(image))


def test_the_class_is_the_largest_map_that_reaches_one_half_else_the_background():
    net = OneChannel(torch.nn.Identity())
    net.network.forward = lambda x: x.reshape(1, 2, -1)  # type: ignore[method-assign]
    maps = torch.tensor([[0.2, -1.0], [0.5, 0.7], [-0.1, -0.3]]).T  # (2 classes, 3 voxels)
    logits = net(maps.reshape(1, 1, -1))
    assert logits.argmax(dim=1).tolist() == [[1, 2, 0]]
    assert torch.equal(logits[:, 0], torch.zeros(1, 3))


def test_with_one_class_softmax_is_sigmoid():
    net, image = network(classes=2), torch.rand(1, 2, 8, 8)
    logits = net(image)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1], logits[:, 1].sigmoid())


def test_its_parameters_are_those_of_the_network_and_its_channel_is_a_whole_number_in_the_file():
    net = OneChannel(UNet(2, 1, 3), 1)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in UNet(2, 1, 3).parameters())
    assert net.state_dict()["channel"].dtype == torch.int64
    assert net.state_dict()["channel"].item() == 1


def test_a_file_of_weights_brings_its_modality_with_it():
    served, image = network(1), torch.rand(1, 2, 8, 8)
    file = io.BytesIO()
    torch.save(served.state_dict(), file)
    file.seek(0)
    net = network(0)
    net.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net(image), served(image))


def test_it_can_be_copied_placed_and_scripted():
    net, image = network(1), torch.rand(2, 2, 8, 8)
    assert torch.equal(copy.deepcopy(net)(image), net(image))
    scripted = torch.jit.script(net)
    for x in (image, image[:, :1]):
        torch.testing.assert_close(scripted(x), net(x))
    torch.testing.assert_close(place(copy.deepcopy(net), "cpu")(image), net(image))


def test_a_negative_channel_is_refused():
    with pytest.raises(ValueError, match="number of a modality, counted from 0, got -1"):
        OneChannel(UNet(2, 1, 1), -1)
