"""The cascade: two networks in a row, two answers, one set of weights, and its exports."""

from __future__ import annotations

import copy

import pytest
import torch

from custom.networks import Cascade, UNet, place


def cascade(dims=2, channels=2, classes=3, detach=False, norm="batch"):
    torch.manual_seed(0)
    settings = {"widths": (4, 8), "dropout": 0.0, "norm": norm}
    coarse = UNet(dims, channels, classes, **settings)
    return Cascade(coarse, UNet(dims, channels + classes, classes, **settings), detach).eval()


def image(dims=2, channels=2):
    return torch.randn(2, channels, *[8] * dims, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("dims", "channels", "classes"), [(2, 2, 3), (3, 1, 2), (2, 3, 12)])
def test_the_refined_network_sees_the_image_and_the_coarse_probabilities(dims, channels, classes, norm):
    network, x = cascade(dims, channels, classes, norm=norm), image(dims, channels)
    z_coarse = network.coarse(x)
    z_refined, maps = network.refined.features(torch.cat([x, z_coarse.softmax(dim=1)], dim=1))
    coarse, refined, last = network.features(x)
    assert torch.equal(coarse, z_coarse)
    assert torch.equal(refined, z_refined)
    assert torch.equal(last, maps["d1"])
    assert torch.equal(network(x), z_refined)
    assert network(x).shape == (2, classes, *[8] * dims)


def test_the_size_of_the_plain_2d_cascade():
    """A U-Net of 1,943,812 parameters for one channel and four classes, and one with 4 x 16 x 9 more for its input."""
    network = Cascade(UNet(2, 1, 4), UNet(2, 5, 4))
    assert sum(p.numel() for p in network.parameters()) == 1_943_812 + 1_943_812 + 4 * 16 * 9


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_of_the_refined_answer_reaches_the_coarse_network_unless_it_is_cut(detach):
    network = cascade(detach=detach)
    network.features(image())[1].square().sum().backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.coarse.parameters()]
    assert not any(reached) if detach else all(reached)
    assert network.refined.out.weight.grad.abs().sum() > 0


def test_the_coarse_view_answers_coarse_with_the_same_weights():
    network, x = cascade(), image()
    view = network.coarse_view()
    assert torch.equal(view(x), network.coarse(x))
    assert {id(p) for p in view.parameters()} == {id(p) for p in network.parameters()}
    assert torch.equal(network(x), network.features(x)[1]), "the cascade itself still answers refined"


def test_the_coarse_view_leaves_the_mode_of_its_networks_alone():
    network = cascade().train()
    assert network.coarse_view().training
    assert not network.eval().coarse_view().training
    network.train().coarse_view()
    assert network.coarse.training
    assert network.refined.training


def test_the_state_says_which_answer_is_given():
    """The files of both answers load into the same network, strictly."""
    network, x = cascade(), image()
    files = {"refined": copy.deepcopy(network.state_dict()), "coarse": network.coarse_view().state_dict()}
    assert files["refined"].keys() == files["coarse"].keys()
    other = cascade()
    for p in other.parameters():
        torch.nn.init.ones_(p)
    other.load_state_dict(files["coarse"], strict=True)
    assert torch.equal(other(x), network.coarse(x))
    other.load_state_dict(files["refined"], strict=True)
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("served", [lambda n: n, lambda n: n.coarse_view()], ids=["refined", "coarse"])
def test_a_deep_copy_answers_the_same_and_shares_nothing(served):
    network = served(cascade())
    twin = copy.deepcopy(network)
    assert torch.equal(twin(image()), network(image()))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in network.parameters()}
    twin.load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("answer", ["refined", "coarse"])
def test_torchscript_gives_both_answers_and_the_features(answer, detach):
    network, x = cascade(detach=detach), image()
    network.answers_coarse.fill_(answer == "coarse")
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(x), network(x))
    for ours, theirs in zip(scripted.features(x), network.features(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.jit.trace(network, x)(x), network(x))


def test_the_coarse_view_can_be_scripted():
    view = cascade().coarse_view()
    torch.testing.assert_close(torch.jit.script(view)(image()), view(image()))


@pytest.mark.parametrize("answer", ["refined", "coarse"])
def test_an_exported_program_gives_both_answers(answer):
    """What ONNX is made from; it takes no branch that depends on a buffer."""
    network, x = cascade(), image()
    network.answers_coarse.fill_(answer == "coarse")
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


@pytest.mark.parametrize(("dims", "form"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_a_cascade_lies_channels_last_and_computes_the_same(dims, form):
    network, x = cascade(dims), image(dims)
    before = network(x)
    placed = place(network, "cpu")
    assert placed.refined.down[0][0].weight.is_contiguous(memory_format=form)
    torch.testing.assert_close(placed(x), before)


@pytest.mark.parametrize(
    ("taken", "given", "text"),
    [
        (2, 3, "takes 2 channels, expected 5: 2 of the image .* 3 coarse .* in_channels 5"),
        (5, 4, "the coarse network has 3 classes, the refined one 4: give both as many"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_are_refused(taken, given, text):
    with pytest.raises(ValueError, match=text):
        Cascade(UNet(2, 2, 3, (4, 8), 0.0), UNet(2, taken, given, (4, 8), 0.0))
