"""A network of one modality reads its own channel of several, or the one that it is given."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest
import torch

from custom.networks import OneChannel, UNet, place
from custom.networks.one_channel import cut, thresholds_of


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


def maps_of(*values: float) -> OneChannel:
    """A network that finds these maps of one class, whatever it sees."""
    net = OneChannel(torch.nn.Identity())
    net.network.forward = lambda x: torch.tensor(values).reshape(1, 1, -1)  # type: ignore[method-assign]
    return net


def test_a_voxel_is_a_class_s_from_the_threshold_on_and_its_probability_stays():
    probabilities = torch.tensor([0.1, 0.19, 0.21, 0.6])
    net = maps_of(*probabilities.logit().tolist())
    for threshold, expected in ((0.5, [0, 0, 0, 1]), (0.2, [0, 0, 1, 1]), (0.7, [0, 0, 0, 0])):
        net.cut(threshold)
        logits = net(torch.zeros(1, 1, 4))
        assert logits.argmax(dim=1).tolist() == [expected]
        torch.testing.assert_close(net.probabilities(logits)[0, 1], probabilities)
        assert float(net.threshold) == pytest.approx(threshold)


def test_at_one_half_its_maps_are_those_of_the_network_bit_for_bit():
    net, image = network(), torch.rand(2, 2, 8, 8)
    assert torch.equal(net(image)[:, 1:], net.network(image[:, :1]))


def test_a_file_of_weights_brings_its_threshold_and_one_of_before_thresholds_has_one_half():
    served = network()
    served.cut(0.2)
    net = network()
    net.load_state_dict(served.state_dict())
    assert float(net.threshold) == pytest.approx(0.2)
    earlier = {name: value for name, value in served.state_dict().items() if name != "threshold"}
    net.load_state_dict(earlier)
    assert float(net.threshold) == 0.5
    assert "threshold" not in earlier, "a file's content is not changed by being loaded"


def test_who_begins_to_train_from_weights_cuts_at_one_half():
    net = network(1)
    net.cut(0.2)
    net.read(0)
    assert (int(net.channel), float(net.threshold)) == (0, 0.5)


def test_networks_cut_at_their_thresholds_within_a_block_alone_also_where_it_fails():
    networks = {"flair": network(0), "t1ce": network(1), "both": UNet(2, 2, 2)}
    with contextlib.suppress(KeyError), cut(networks, {"t1ce": 0.2, "both": 0.3}):
        assert [float(networks[name].threshold) for name in ("flair", "t1ce")] == pytest.approx([0.5, 0.2])
        raise KeyError
    assert float(networks["t1ce"].threshold) == 0.5


def test_only_a_network_of_one_modality_has_a_choice_of_thresholds():
    assert thresholds_of(network(), (0.5, 0.2)) == (0.5, 0.2)
    assert thresholds_of(UNet(2, 2, 2), (0.5, 0.2)) == (0.5,)
