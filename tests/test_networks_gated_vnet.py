"""The V-Net with gated skips: its size, its maps, its gates, its exports."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from custom.networks import GatedVNet, place


def small(dims: int = 2, **settings) -> GatedVNet:
    torch.manual_seed(0)
    return GatedVNet(dims, 1, 3, **{"widths": (4, 8, 16), **settings})


@pytest.mark.parametrize(
    ("dims", "gates", "expected"),
    [(3, True, 9_472_414), (3, False, 9_448_866), (2, True, 3_294_846), (2, False, 3_271_298)],
)
def test_the_published_size(dims, gates, expected):
    network = GatedVNet(dims, 1, 2, gates=gates)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_each_level_has_its_convolutions_and_its_gate():
    network = GatedVNet(2, 1, 2)
    convs = [
        sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in stage.modules()) for stage in network.down
    ]
    assert convs == [1, 2, 3, 3, 3]
    convs = [sum(isinstance(m, nn.Conv2d) for m in stage.modules()) for stage in network.merge]
    assert convs == [3, 3, 2, 1]
    assert [gate.w_g[0].out_channels for gate in network.gate] == [64, 32, 16, 32]
    every = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert all(m.bias is not None for m in every)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("widths", [(4, 8), (4, 8, 16), (2, 4, 6, 8, 10)])
def test_it_trains_in_any_number_of_levels(dims, norm, widths):
    network = GatedVNet(dims, 3, 12, widths=widths, norm=norm)
    sides = [2 ** len(widths)] * dims
    logits, maps = network.features(torch.randn(1, 3, *sides))
    assert logits.shape == (1, 12, *sides)
    assert list(maps) == [f"x{i + 1}" for i in range(len(widths))] + [
        f"{kind}{i}" for i in range(len(widths) - 1, 0, -1) for kind in "sg"
    ]
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_maps_stand_on_the_grids_of_their_levels():
    maps = small().features(torch.randn(2, 1, 8, 12))[1]
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
        "x1": (4, 8, 12), "x2": (8, 4, 6), "x3": (16, 2, 3),
        "s2": (8, 4, 6), "g2": (1, 4, 6), "s1": (4, 8, 12), "g1": (1, 8, 12)}  # fmt: skip


def test_a_gated_skip_is_gate_times_map():
    maps = small().eval().features(torch.randn(2, 1, 8, 8))[1]
    for level in "12":
        assert torch.equal(maps["s" + level], maps["g" + level] * maps["x" + level])
        assert maps["g" + level].min() > 0
        assert maps["g" + level].max() < 1


def test_a_gate_is_its_formula():
    """Each convolution takes the mean over its channels, and the statistics are fresh. g = 2 and x = -1.5 make
    ReLU(0.5), so psi = sigmoid(0.5); g = -2 and x = 1 make ReLU(-1) = 0, so psi = 1/2."""
    gate = small().gate[1].eval()
    with torch.no_grad():
        for projection in (gate.w_g[0], gate.w_x[0], gate.w_psi[0]):
            projection.weight.fill_(1 / projection.in_channels)
            projection.bias.fill_(0.0)
        grids = [(torch.full((1, 4, 2, 2), g), torch.full((1, 4, 2, 2), x)) for g, x in ((2.0, -1.5), (-2.0, 1.0))]
        passing, half = (gate(g, x) for g, x in grids)
    torch.testing.assert_close(passing, torch.full((1, 1, 2, 2), 0.5).sigmoid(), atol=1e-4, rtol=0)
    assert torch.equal(half, torch.full((1, 1, 2, 2), 0.5))


def test_without_gates_the_skips_are_the_maps():
    maps = small(gates=False).eval().features(torch.randn(1, 1, 8, 8))[1]
    for level in "12":
        assert torch.equal(maps["s" + level], maps["x" + level])
        assert torch.equal(maps["g" + level], torch.ones_like(maps["g" + level]))


def test_skips_are_added():
    network = small().eval()
    logits, maps = network.features(torch.randn(1, 1, 8, 8))
    finer = network.merge[0](network.up[0](maps["x3"]) + maps["s2"])
    finest = network.merge[1](network.up[1](finer) + maps["s1"])
    torch.testing.assert_close(network.out(finest), logits)


@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_takes_whole_channels_of_the_coarsest_and_the_last_map(dims):
    network = small(dims, dropout=0.5).train()
    seen = []
    network.merge[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.out.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    _, maps = network.features(torch.randn(8, 1, *[8] * dims))
    whole = seen[1].flatten(2).amax(dim=2) > 0  # what is left of the channels of the last map
    torch.testing.assert_close(seen[1], seen[0] * whole.reshape(8, 4, *[1] * dims) * 2)
    for values in (maps["x3"], seen[1]):
        dropped = (values == 0).flatten(2).all(dim=2).float().mean().item()
        assert 0.2 < dropped < 0.8
    assert not any((maps[name] == 0).flatten(2).all(dim=2).any() for name in ("s2", "s1"))


def test_nothing_is_dropped_in_evaluation():
    network, image = small().eval(), torch.randn(1, 1, 8, 8)
    assert torch.equal(network(image), network(image))


def test_features_come_with_the_logits_of_forward():
    network, image = small().eval(), torch.randn(1, 1, 8, 8)
    assert torch.equal(network.features(image)[0], network(image))


@pytest.mark.parametrize("gates", [True, False])
def test_features_survive_torchscript(gates):
    network, image = small(gates=gates).eval(), torch.randn(1, 1, 8, 8)
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(image), network(image))
    found, expected = scripted.features(image)[1], network.features(image)[1]
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_computes_the_same_channels_last(dims, norm):
    network, image = small(dims, norm=norm).eval(), torch.randn(2, 1, *[8] * dims)
    before = network(image)
    torch.testing.assert_close(place(network, "cpu")(image), before)


@pytest.mark.parametrize("grid", [(9, 8, 5), (4, 4)])
def test_instance_norm_trains_on_small_coarsest_grids(grid):
    network = GatedVNet(len(grid), 1, 2, widths=(2, 4, 6, 8), norm="instance").train()
    logits, maps = network.features(torch.randn(1, 1, *[8 * side for side in grid]))
    assert tuple(maps["x4"].shape[2:]) == grid
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 2 or 3, got 4"),
        ({"norm": "layer"}, "norm is 'batch' or 'instance', got 'layer'"),
        ({"widths": (4,)}, r"widths needs two levels at least, got \[4\]"),
        ({"dropout": 1.0}, r"dropout is the rate of whole channels, in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        GatedVNet(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **arguments})


def test_a_patch_that_does_not_halve_is_refused():
    with pytest.raises(ValueError, match=r"input \[1, 1, 8, 10\]: each spatial size must be a multiple of 4"):
        small()(torch.randn(1, 1, 8, 10))
