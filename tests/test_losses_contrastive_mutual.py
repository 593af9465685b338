"""The area-similarity contrast, and cross-entropy with Dice of soft maps, in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from custom.losses import AreaSimilarityContrastiveLoss
from custom.losses.bce_dice import BCEDiceLoss, class_maps


def disjoint(images: int, channels: int = 1) -> torch.Tensor:
    """Maps of 0 and 1, no two of which share a voxel."""
    return torch.eye(images, dtype=torch.float64).reshape(images, 1, images).repeat(1, channels, 1)


# the contrast


def test_two_pairs_in_closed_form():
    """The maps (1, 0, .5), (0, 1, 0) and (.8, .1, .5), (0, .6, .2)."""
    first = torch.tensor([[[1, 0, 0.5]], [[0, 1, 0]]], dtype=torch.float64)
    second = torch.tensor([[[0.8, 0.1, 0.5]], [[0, 0.6, 0.2]]], dtype=torch.float64)
    assert AreaSimilarityContrastiveLoss()(first, second).item() == pytest.approx(0.6435488, abs=1e-6)
    # s of the first pair: 2 (.8 + .25) / (1.25 + .9)
    assert AreaSimilarityContrastiveLoss().similarities(first, second)[0, 2].item() == pytest.approx(2.1 / 2.15)


@pytest.mark.parametrize(("images", "expected"), [(4, 1.165), (26, 2.965)])
def test_perfect_pairs_without_overlap_between_them(images, expected):
    value = AreaSimilarityContrastiveLoss()(disjoint(images), disjoint(images)).item()
    assert value == pytest.approx(math.log(1 + (2 * images - 2) / math.e), abs=1e-5)  # eps is the similarity of none
    assert value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("similarity", ["area", "cosine"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("images", "expected"), [(4, 1.946), (26, 3.932)])
def test_maps_that_are_all_alike_lie_on_the_plateau(images, expected, value, similarity):
    """Empty maps too: the loss is neither 0 nor NaN."""
    maps = torch.full((images, 2, 5), value, dtype=torch.float64)
    found = AreaSimilarityContrastiveLoss(similarity=similarity)(maps, maps).item()
    assert found == pytest.approx(math.log(2 * images - 1), abs=1e-9)
    assert found == pytest.approx(expected, abs=1e-3)


def test_every_map_of_both_sets_is_an_anchor_and_the_rest_are_negatives():
    """Written out with loops."""
    first, second = torch.rand(2, 3, 2, 4, 4, dtype=torch.float64)
    z, eps, losses = [*first, *second], 1e-6, []
    s = [[(2 * (a * b).sum() + eps) / ((a * a).sum() + (b * b).sum() + eps) for b in z] for a in z]
    for i in range(6):
        others = [math.exp(s[i][k]) for k in range(6) if k != i]
        losses.append(-math.log(math.exp(s[i][(i + 3) % 6]) / sum(others)))
    assert AreaSimilarityContrastiveLoss()(first, second).item() == pytest.approx(sum(losses) / 6, abs=1e-12)


def test_cosine_does_not_see_how_large_a_map_is_and_area_does():
    first = torch.rand(3, 2, 8, dtype=torch.float64)
    area, cosine = AreaSimilarityContrastiveLoss(), AreaSimilarityContrastiveLoss(1e-12, "cosine")
    assert cosine.similarities(first, 0.1 * first)[0, 3].item() == pytest.approx(1.0)
    assert area.similarities(first, 0.1 * first)[0, 3].item() == pytest.approx(2 * 0.1 / (1 + 0.01), abs=1e-5)


def test_the_gradient_of_the_contrast_is_right_and_reaches_both_modalities():
    first, second = (torch.rand(3, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for similarity in ("area", "cosine"):
        assert torch.autograd.gradcheck(AreaSimilarityContrastiveLoss(similarity=similarity), (first, second))
    AreaSimilarityContrastiveLoss()(first, second).backward()
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.abs().sum() > 0
    assert second.grad.abs().sum() > 0


def test_empty_maps_have_a_finite_gradient():
    for similarity in ("area", "cosine"):
        maps = torch.zeros(2, 1, 4, requires_grad=True)
        AreaSimilarityContrastiveLoss(similarity=similarity)(maps, torch.rand(2, 1, 4)).backward()
        assert maps.grad is not None
        assert maps.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_contrast_of_half_precision_maps_is_computed_in_single(dtype):
    """65,536 voxels: their sum is above the largest float16."""
    maps = torch.ones(2, 1, 256, 512, dtype=dtype)
    value = AreaSimilarityContrastiveLoss()(maps, maps)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(math.log(3))


def test_autocast_does_not_take_the_products_in_half_precision():
    first, second = torch.rand(2, 4, 1, 64, 64)
    expected = AreaSimilarityContrastiveLoss().similarities(first.double(), second.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = AreaSimilarityContrastiveLoss().similarities(first, second)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (3, 2, 4, 4, 4), (2, 11, 5, 5)])
def test_sums_run_over_channels_and_any_number_of_axes(shape):
    first, second = torch.rand(2, *shape, dtype=torch.float64)
    flat = AreaSimilarityContrastiveLoss()(first.reshape(shape[0], 1, -1), second.reshape(shape[0], 1, -1))
    torch.testing.assert_close(AreaSimilarityContrastiveLoss()(first, second), flat)


def test_memory_is_linear_in_voxels():
    """A matrix over voxels of 512 x 512 would take 256 GiB."""
    maps = torch.rand(2, 1, 512, 512, requires_grad=True)
    AreaSimilarityContrastiveLoss()(maps, maps.flip(0)).backward()


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ((1, 1, 4), (1, 1, 4), r"B >= 2, got \(1, 1, 4\): one image has no negatives, raise unlabelled_batch"),
        ((0, 1, 4), (0, 1, 4), r"B >= 2, got \(0, 1, 4\)"),
        ((2, 1, 4), (2, 1, 5), r"first \(2, 1, 4\) and second \(2, 1, 5\) differ in shape"),
    ],
)
def test_what_has_no_contrast_is_refused(first, second, text):
    with pytest.raises(ValueError, match=text):
        AreaSimilarityContrastiveLoss()(torch.zeros(first), torch.zeros(second))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"similarity": "dice"}, r"similarity is one of \['area', 'cosine'\], got 'dice'"),
        ({"eps": 0.0}, "eps must be above 0, got 0.0"),
    ],
)
def test_wrong_arguments_of_the_contrast_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        AreaSimilarityContrastiveLoss(**arguments)


# cross-entropy and Dice


def test_cross_entropy_and_dice_in_closed_form():
    """p = (1/2, 3/4), y = (0, 1)."""
    logits = torch.tensor([[[0.0, math.log(3)]]], dtype=torch.float64)
    target = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    cross_entropy = (math.log(2) + math.log(4 / 3)) / 2
    dice = 1 - 2 * 0.75 / (0.25 + 0.5625 + 1)
    value = BCEDiceLoss(bce=10, dice=7)(logits, target).item()
    assert value == pytest.approx(10 * cross_entropy + 7 * dice, abs=1e-5)


def test_sums_of_the_dice_are_pooled_over_images_and_classes():
    """Two images of two classes are one long map: no mean over images, none over classes."""
    logits, target = torch.randn(2, 2, 5, dtype=torch.float64), torch.rand(2, 2, 5, dtype=torch.float64)
    loss = BCEDiceLoss(bce=0, dice=1)
    torch.testing.assert_close(loss(logits, target), loss(logits.reshape(1, 1, -1), target.reshape(1, 1, -1)))


def test_a_batch_without_foreground_and_without_a_claim_of_any_costs_nothing():
    logits = torch.full((2, 1, 8), -60.0)
    assert BCEDiceLoss()(logits, torch.zeros(2, 1, 8)).item() == pytest.approx(0.0, abs=1e-6)


def test_soft_targets_get_no_gradient_and_logits_the_right_one():
    logits = torch.randn(2, 1, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: BCEDiceLoss()(z, target.detach()), logits)
    BCEDiceLoss()(logits, target).backward()
    assert logits.grad is not None
    assert target.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_single(dtype):
    value = BCEDiceLoss()(torch.full((1, 1, 70000), 30.0, dtype=dtype), torch.ones(1, 1, 70000))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("logits", "target", "text"),
    [
        ((2, 1, 4), (2, 2, 4), r"logits \(2, 1, 4\) and target \(2, 2, 4\) differ in shape"),
        ((0, 1, 4), (0, 1, 4), r"nothing to compare in \(0, 1, 4\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(logits, target, text):
    with pytest.raises(ValueError, match=text):
        BCEDiceLoss()(torch.zeros(logits), torch.zeros(target))


def test_labels_become_a_map_a_foreground_class():
    label = torch.tensor([[[0, 1, 2, 1]]])
    assert class_maps(label, 4).tolist() == [[[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]]
    assert class_maps(torch.zeros(2, 1, 3, 3, 3, dtype=torch.long), 12).shape == (2, 11, 3, 3, 3)
