"""Augmentation: geometry that can be checked on paper, one grid for image and label, numbers that follow a seed."""

from __future__ import annotations

import math

import pytest
import torch

from custom.stream.augment import (
    Augmentation,
    Blur,
    Brightness,
    Contrast,
    Flip,
    Gamma,
    Intensity,
    Noise,
    Rotate,
    Scale,
    Shift,
    Spatial,
    sampling_grid,
    transform,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes(augmentation, patch, batch=2, channels=1, seed=0):
    return torch.rand(batch, channels, *augmentation.field(patch), generator=generator(seed))


def middle(box, patch):
    """The central patch of a box, which an unmoved patch must equal."""
    for axis, side in enumerate(patch, start=2):
        box = box.narrow(axis, (box.shape[axis] - side) // 2, side)
    return box


class Turn(Spatial):
    """A rotation by exactly that many degrees, which tests can predict."""

    def __init__(self, degrees, axes=(0, 1)):
        self.degrees, self.rotate = degrees, Rotate(180, axes=axes)

    def reach(self, extent):
        return self.rotate.reach(extent)

    def draw(self, batch, dims, generator):
        return torch.full((batch,), float(self.degrees), dtype=torch.float64)

    def matrix(self, params, dims):
        return self.rotate.matrix(params, dims)


# ---- the box that is cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "patch", "field"),
    [
        ([], (160, 160), (160, 160)),
        ([Flip()], (9, 160), (9, 160)),
        ([Rotate(180)], (4, 5), (6, 7)),  # 3 and 4 between outer centres, diagonal 5: 6 voxels, 7 for the odd side
        ([Rotate(180)], (31, 41), (51, 51)),  # 30, 40, diagonal 50
        ([Rotate(180)], (31, 41, 20), (51, 51, 20)),  # the third axis stays
        ([Rotate(180, axes=(1, 2))], (20, 31, 41), (20, 51, 51)),
        ([Rotate(180, step=90)], (31, 41), (41, 41)),  # a quarter turn needs no diagonal
        ([Scale(0.5, 2)], (11, 21, 31), (21, 41, 61)),  # half as large: twice as far
        ([Scale(0.5, 2, axes=(0, 1))], (11, 21, 31), (21, 41, 31)),
        ([Scale(1.5, 2)], (11, 21), (11, 21)),  # it may also be left out
        ([Rotate(180), Scale(0.5, 1)], (31, 41), (101, 101)),
        ([Scale(0.5, 1), Rotate(180)], (31, 41), (101, 101)),
    ],
)
def test_field_in_closed_form(parts, patch, field):
    assert Augmentation(parts).field(patch) == field


@pytest.mark.parametrize("patch", [(16, 23), (9, 14, 11)])
@pytest.mark.parametrize("degrees", [10, 30, 90, 180])
def test_no_patch_reaches_outside_its_field(patch, degrees):
    """A box of ones stays one: no place of any grid falls outside, where 0 would be mixed in."""
    augmentation = Augmentation([Rotate(degrees, prob=1), Scale(0.6, 1.5, prob=1), Flip()])
    box = torch.ones(200, 1, *augmentation.field(patch))
    image, _, _ = augmentation(box, None, patch, generator())
    torch.testing.assert_close(image, torch.ones_like(image))


# ---- geometry --------------------------------------------------------------------------------------------------------


def test_without_parts_the_patch_is_the_box():
    box = torch.rand(2, 3, 5, 4, 6)
    image, label, views = Augmentation()(box, box[:, :1].byte(), (5, 4, 6), generator())
    torch.testing.assert_close(image, box, rtol=0, atol=0)
    assert label is not None
    assert label.dtype == torch.uint8
    assert views == []


@pytest.mark.parametrize("patch", [(6, 10), (5, 9), (6, 9, 4)])
def test_a_patch_that_is_not_moved_is_copied_exactly(patch):
    augmentation = Augmentation([Rotate(180, prob=0), Scale(0.7, 1.4, prob=0), Flip(prob=0)])
    box = boxes(augmentation, patch)
    image, _, _ = augmentation(box, None, patch, generator())
    torch.testing.assert_close(image, middle(box, patch), rtol=0, atol=0)


@pytest.mark.parametrize("patch", [(6, 10), (5, 9), (6, 9, 4)])
def test_interpolation_at_voxels_gives_the_voxels(patch):
    """The identity through the grid: voxel and normalised coordinates agree, in every parity."""
    augmentation = Augmentation([Rotate(180), Scale(0.7, 1.4)])
    box = boxes(augmentation, patch, batch=1)
    still = torch.eye(len(patch), len(patch) + 1, dtype=torch.float64)[None]
    grid = sampling_grid(still, box.shape[2:], patch)
    image = torch.nn.functional.grid_sample(box, grid, align_corners=False)
    torch.testing.assert_close(image, middle(box, patch), rtol=0, atol=1e-4)


@pytest.mark.parametrize("patch", [(6, 10), (5, 9), (6, 10, 4)])
def test_a_rotation_by_90_degrees_is_exact_in_closed_form(patch):
    """A quarter turn takes place (i, j) from (-j, i): the patch is the middle of the rotated box."""
    augmentation = Augmentation([Turn(90)])
    box = boxes(augmentation, patch)
    image, _, _ = augmentation(box, None, patch, generator())
    field = box.shape[2:]
    assert field[0] % 2 == patch[0] % 2
    torch.testing.assert_close(image, middle(box.rot90(-1, (2, 3)), patch), rtol=0, atol=0)


def test_interpolation_agrees_with_the_exact_quarter_turn():
    patch = (6, 10)
    augmentation = Augmentation([Turn(90 + 1e-4)])  # not quite: it is resampled
    box = boxes(augmentation, patch)
    image, _, _ = augmentation(box, None, patch, generator())
    torch.testing.assert_close(image, middle(box.rot90(-1, (2, 3)), patch), rtol=0, atol=1e-3)


def test_a_quarter_turn_between_unlike_parities_is_interpolated_half_way():
    """A side of 4 has its centre between voxels, one of 5 on a voxel: each value is the mean of 2 x 2 voxels."""
    augmentation = Augmentation([Turn(90)])
    box = boxes(augmentation, (4, 5))
    image, _, _ = augmentation(box, None, (4, 5), generator())
    means = torch.nn.functional.avg_pool2d(box.rot90(-1, (2, 3)), 2, stride=1)
    torch.testing.assert_close(image, middle(means, (4, 5)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("degrees", [30, -75, 140])
def test_a_ramp_turns_with_the_angle(degrees):
    """A turn of image(x, y) = x shows x cos - y sin, in anisotropic patches too: linear, so interpolation is exact."""
    patch = (8, 21)
    augmentation = Augmentation([Turn(degrees)])
    field = augmentation.field(patch)
    box = (torch.arange(field[0]) - (field[0] - 1) / 2)[:, None].expand(field)[None, None].contiguous()
    image, _, _ = augmentation(box, None, patch, generator())
    x, y = (torch.arange(side) - (side - 1) / 2 for side in patch)
    angle = math.radians(degrees)
    torch.testing.assert_close(image[0, 0], x[:, None] * math.cos(angle) - y * math.sin(angle), rtol=0, atol=1e-4)


def test_zoom_two_shows_half_as_far():
    patch = (9, 12, 5)
    augmentation = Augmentation([Scale(2 - 1e-9, 2, prob=1)])
    box = (torch.arange(12.0) - 5.5).expand(1, 1, 9, 5, 12).transpose(3, 4).contiguous()
    image, _, _ = augmentation(box, None, patch, generator())
    torch.testing.assert_close(image[0, 0, 4, :, 2], (torch.arange(12.0) - 5.5) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch", [(6, 9), (5, 4, 7)])
def test_flip_is_its_own_inverse(patch):
    augmentation = Augmentation([Flip(prob=1)])
    box = boxes(augmentation, patch)
    once, _, _ = augmentation(box, None, patch, generator())
    twice, _, _ = augmentation(once, None, patch, generator())
    torch.testing.assert_close(once, box.flip(tuple(range(2, box.ndim))), rtol=0, atol=0)
    torch.testing.assert_close(twice, box, rtol=0, atol=0)


def test_flip_leaves_other_axes_alone():
    augmentation = Augmentation([Flip(prob=1, axes=[1])])
    box = boxes(augmentation, (4, 5, 6))
    image, _, _ = augmentation(box, None, (4, 5, 6), generator())
    torch.testing.assert_close(image, box.flip(3), rtol=0, atol=0)


@pytest.mark.parametrize("patch", [(24, 32), (16, 20, 12)])
def test_label_goes_through_the_same_grid_as_the_image(patch):
    """An image that equals its label stays within half of it: a linear mean of 0s and 1s rounds to the nearest."""
    parts = [Rotate(180, prob=0.7), Scale(0.7, 1.4, prob=0.7), Flip()]
    augmentation = Augmentation(parts)
    field = augmentation.field(patch)
    label = torch.zeros(12, 1, *field, dtype=torch.uint8)
    label[:, :, field[0] // 2 :, : field[1] // 3] = 1  # not symmetric in either axis
    image, moved, _ = augmentation(label.float(), label, patch, generator())
    assert moved is not None
    assert moved.dtype == torch.uint8
    assert moved.float().mean() > 0.05
    certain = (image - 0.5).abs() > 0.499  # away from the edge, where nearest and linear agree exactly
    assert certain.float().mean() > 0.8
    torch.testing.assert_close(image[certain].round(), moved.float()[certain], rtol=0, atol=0)
    assert image.round().ne(moved).float().mean() < 0.02


def test_label_values_are_never_mixed():
    augmentation = Augmentation([Rotate(180, prob=1), Scale(prob=1)])
    label = torch.randint(0, 2, (4, 1, *augmentation.field((20, 20))), dtype=torch.uint8, generator=generator()) * 200
    _, moved, _ = augmentation(label.float(), label, (20, 20), generator())
    assert moved is not None
    assert moved.unique().tolist() == [0, 200]


def test_moved_and_unmoved_samples_share_a_batch():
    """Sample by sample the law is that of a batch of one."""
    matrix = torch.stack([Rotate().matrix(torch.tensor([angle]).double(), 2)[0] for angle in (0.0, 33.0, 0.0, 71.0)])
    box = torch.rand(4, 2, 20, 20)
    label = (box[:, :1] * 3).byte()
    matrix = torch.nn.functional.pad(matrix, (0, 1))
    image, moved = transform(box, label, matrix, (8, 10))
    assert moved is not None
    for row in range(4):
        alone, label_alone = transform(box[row : row + 1], label[row : row + 1], matrix[row : row + 1], (8, 10))
        torch.testing.assert_close(image[row], alone[0])
        assert label_alone is not None
        torch.testing.assert_close(moved[row], label_alone[0])


# ---- intensities -----------------------------------------------------------------------------------------------------


def column(*values):
    return torch.tensor(values).reshape(len(values), 1, 1, 1)


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        (Gamma(), 2.0, [0.25, 0.0625, 0.0, 0.0]),
        (Brightness(), 2.0, [1.0, 0.5, 0.0, -0.5]),
        (Contrast(), 2.0, [0.875, 0.375, -0.125, -0.625]),  # the mean is 1/8
        (Noise(), 0.0, [0.5, 0.25, 0.0, -0.25]),
    ],
)
def test_intensities_in_closed_form(part, value, expected):
    image = torch.tensor([0.5, 0.25, 0.0, -0.25]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(part.apply(image, column(value), 0).flatten(), torch.tensor(expected))


def test_noise_has_the_standard_deviation_drawn():
    image = torch.zeros(2, 1, 100, 100)
    noise = Noise().apply(image, column(0.1, 0.5), seed=1)
    assert noise.std(dim=(1, 2, 3)).tolist() == pytest.approx([0.1, 0.5], rel=0.03)
    torch.testing.assert_close(noise, Noise().apply(image, column(0.1, 0.5), seed=1))
    assert not torch.equal(noise, Noise().apply(image, column(0.1, 0.5), seed=2))


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_is_a_gaussian_and_keeps_the_mean(dims):
    """A blurred voxel has neighbours in the ratio exp(-1 / (2 sigma^2)); a constant stays constant up to the edge."""
    image = torch.zeros(1, 1, *[15] * dims)
    centre = (0, 0, *[7] * dims)
    image[centre] = 1
    sigma = torch.full((1, 1, *[1] * dims), 0.8)
    blurred = Blur().apply(image, sigma, 0)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    for axis in range(dims):
        neighbour = (*centre[: 2 + axis], 8, *centre[3 + axis :])
        assert (blurred[neighbour] / blurred[centre]).item() == pytest.approx(math.exp(-0.5 / 0.8**2), rel=1e-5)
    torch.testing.assert_close(Blur().apply(torch.ones_like(image), sigma, 0), torch.ones_like(image))


def test_each_channel_gets_its_own_value_and_unchosen_samples_none():
    chosen, values, _ = Gamma(prob=0.5).draw(1000, 3, generator())
    assert 400 < len(chosen) < 600
    assert values.shape == (len(chosen), 3)
    assert (values[:, 0] != values[:, 1]).all()
    augmentation = Augmentation([Gamma(prob=0.5)])
    box = torch.rand(1000, 1, 2, 2)
    image, _, _ = augmentation(box, None, (2, 2), generator())
    changed = (image != box).flatten(1).any(1)
    torch.testing.assert_close(changed.nonzero().squeeze(1), Gamma(prob=0.5).draw(1000, 1, generator())[0])


# ---- views and randomness --------------------------------------------------------------------------------------------

ALL: list[Spatial | Intensity] = [Rotate(), Scale(), Flip(), Gamma(), Contrast(), Brightness(), Noise(), Blur()]


def test_the_strong_view_shares_the_geometry_not_the_intensities():
    augmentation = Augmentation([Rotate(prob=1), Brightness(2, 2, prob=1)], strong=[Brightness(3, 3, prob=1)])
    box = boxes(augmentation, (12, 10))
    image, _, (strong,) = augmentation(box, None, (12, 10), generator(), strong_views=1)
    torch.testing.assert_close(image / 2, strong / 3)
    assert strong.std() > 0


def test_a_strong_view_needs_strong_parts():
    with pytest.raises(ValueError, match="has no strong parts"):
        Augmentation([Gamma()])(torch.rand(1, 1, 4, 4), None, (4, 4), generator(), strong_views=1)


@pytest.mark.parametrize("patch", [(12, 10), (8, 10, 6)])
def test_the_same_generator_gives_the_same_views(patch):
    augmentation = Augmentation(ALL, strong=[Gamma(), Noise(prob=1)])
    box = boxes(augmentation, patch, batch=4, channels=2)
    label = (box[:, :1] > 0.5).byte()
    first, again, other = (augmentation(box, label, patch, generator(seed), 2) for seed in (1, 1, 2))
    for one, two, three in zip(*([image, moved, *views] for image, moved, views in (first, again, other)), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
        assert not torch.equal(one, three)
    assert not torch.equal(*first[2]), "two strong views, each with its own intensities"


@pytest.mark.parametrize("parts", [[], ALL, [Gamma(prob=1), Noise(prob=1)]])
def test_the_input_is_not_changed(parts):
    augmentation = Augmentation(parts, strong=[Noise(prob=1)])
    box = boxes(augmentation, (12, 10))
    label = (box > 0.5).byte()
    before = box.clone(), label.clone()
    image, moved, _ = augmentation(box, label, (12, 10), generator(), strong_views=1)
    assert moved is not None
    image.zero_(), moved.zero_()
    torch.testing.assert_close((box, label), before, rtol=0, atol=0)


def test_probabilities_and_ranges_are_kept():
    angles = Rotate(40, prob=0.5).draw(4000, 2, generator())
    assert (angles != 0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert angles.abs().max() <= 40
    zoom = Scale(0.5, 2, prob=1).draw(4000, 2, generator())
    assert zoom.log().mean().item() == pytest.approx(0, abs=0.03)  # as often larger as smaller
    assert (zoom.min() >= 0.5) & (zoom.max() <= 2)
    assert (Flip(0.3).draw(4000, 3, generator()) < 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert Rotate(180, 1, step=90).draw(400, 2, generator()).unique().tolist() == [-180, -90, 0, 90, 180]


def test_an_empty_batch_stays_empty():
    augmentation = Augmentation(ALL)
    image, label, _ = augmentation(boxes(augmentation, (8, 8), batch=0), None, (8, 8), generator())
    assert image.shape == (0, 1, 8, 8)
    assert label is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Rotate(200), "expected 0 <= step <= degrees <= 180, got degrees 200"),
        (lambda: Rotate(prob=1.5), r"prob is a probability in \[0, 1\], got 1.5"),
        (lambda: Rotate(axes=(1, 1)), "two axes of a plane"),
        (lambda: Scale(1.2, 0.8), "must be ordered and above 0, got low 1.2 and high 0.8"),
        (lambda: Gamma(0, 1), "above 0"),
        (lambda: Augmentation(["flip"]), "'flip' is not a part of an augmentation"),  # type: ignore[list-item]
        (lambda: Augmentation([], strong=[Flip()]), "Flip in strong: both views share the geometry"),  # type: ignore[list-item]
        (
            lambda: Augmentation([Scale(0.5, 1)])(torch.rand(1, 1, 9, 9), None, (9, 9), generator()),
            r"taken from boxes of \(17, 17\)",
        ),
    ],
)
def test_nonsense_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


class ByOneAndMinusTwo(Shift):
    """A shift that is known: row 1, column -2."""

    def draw(self, batch, dims, generator):
        return torch.tensor([[1, -2, 0][:dims]] * batch)


@pytest.mark.parametrize("patch", [(8, 6), (8, 6, 4)])
def test_a_shift_in_closed_form(patch):
    augmentation = Augmentation([ByOneAndMinusTwo(2)])
    field = augmentation.field(patch)
    assert field == tuple(side + 4 for side in patch)
    box = torch.rand(2, 1, *field)
    label = (box > 0.5).long()
    image, moved, _ = augmentation(box, label, patch, torch.Generator())
    cut = (slice(None), slice(None), slice(3, 11), slice(0, 6), slice(2, 6))[: 2 + len(patch)]
    torch.testing.assert_close(image, box[cut], atol=1e-5, rtol=0)
    assert torch.equal(moved, label[cut])


def test_a_shift_is_of_the_scan_when_a_turn_comes_after_it_in_the_list():
    """x_scan = t + R x_patch: the centre of the patch lies at t whatever the angle."""
    box = torch.zeros(1, 1, 33, 33)
    box[0, 0, 17, 14] = 1  # row +1, column -2 from the centre
    augmentation = Augmentation([ByOneAndMinusTwo(2), Rotate(degrees=90, prob=1.0, step=90)])
    field = augmentation.field((9, 9))
    margin = (33 - field[0]) // 2
    inner = box[:, :, margin : 33 - margin, margin : 33 - margin]
    image, *_ = augmentation(inner, None, (9, 9), torch.Generator().manual_seed(3))
    assert image[0, 0, 4, 4].item() == pytest.approx(1, abs=1e-5)


def test_shifts_reach_every_place_up_to_their_bound():
    offsets = Shift(2, prob=1.0).draw(500, 2, torch.Generator().manual_seed(0))
    assert sorted(set(offsets[:, 0].tolist())) == [-2, -1, 0, 1, 2]
    assert (Shift(2, prob=0.0).draw(50, 2, torch.Generator()) == 0).all()
    with pytest.raises(ValueError, match="voxels is a whole number >= 0, got -1"):
        Shift(-1)
