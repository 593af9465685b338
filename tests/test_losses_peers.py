"""Losses of the methods that everybody compares with: sums that can be done on paper, gradients, edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from custom.losses import (
    ConsistencyLoss,
    LowConfidenceConsistencyLoss,
    MaskedDiceCELoss,
    PyramidConsistencyLoss,
    UncertaintyConsistencyLoss,
)


def logits(*pixels: tuple[float, ...]) -> Tensor:
    """``(1, K, V)`` whose softmax are these probabilities, in float64."""
    return torch.tensor(pixels, dtype=torch.float64).T[None].log()


def foreground(*p: float) -> Tensor:
    return logits(*((1 - x, x) for x in p))


# Dice and cross-entropy over a mask

P, Y, SURE = (0.8, 0.6, 0.3, 0.9), torch.tensor([[1, 1, 0, 0]]), torch.tensor([[True, True, True, False]])


def test_masked_dice_in_numbers():
    # class 1: 1 - 2 (.8 + .6) / (.64 + .36 + .09 + 2) = .0938511; class 0: 1 - 2 (.7) / (.04 + .16 + .49 + 1) = .1715976
    assert MaskedDiceCELoss()(foreground(*P), Y, SURE).item() == pytest.approx(0.1327237, abs=1e-6)


def test_masked_cross_entropy_is_the_mean_over_the_mask():
    found = MaskedDiceCELoss(dice=0, ce=1)(foreground(*P), Y, SURE)
    assert found.item() == pytest.approx(-math.log(0.8 * 0.6 * 0.7) / 3)


def test_the_parts_add_up():
    loss = MaskedDiceCELoss(dice=0.5, ce=0.25)(foreground(*P), Y, SURE)
    assert loss.item() == pytest.approx(0.5 * 0.1327237 - 0.25 * math.log(0.8 * 0.6 * 0.7) / 3, abs=1e-6)


def test_a_pixel_outside_the_mask_has_no_gradient():
    z = foreground(*P).requires_grad_()
    MaskedDiceCELoss(1.0, 1.0)(z, Y, SURE).backward()
    assert z.grad[..., 3].abs().sum() == 0
    assert (z.grad[..., :3].abs().sum(dim=1) > 0).all()


def test_where_no_pixel_counts_the_loss_is_0_and_can_be_differentiated():
    z = foreground(*P).requires_grad_()
    loss = MaskedDiceCELoss(1.0, 1.0)(z, Y, torch.zeros_like(SURE))
    loss.backward()
    assert loss.item() == 0
    assert z.grad.abs().sum() == 0


def test_masked_dice_sums_over_the_batch():
    two = torch.cat([foreground(*P[:2]), foreground(*P[2:])])
    assert MaskedDiceCELoss()(two, Y.reshape(2, 2), SURE.reshape(2, 2)).item() == pytest.approx(0.1327237, abs=1e-6)


def test_masked_dice_and_cross_entropy_have_the_gradient_of_finite_differences():
    z = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    target, mask = torch.randint(0, 3, (2, 2, 2)), torch.rand(2, 2, 2) > 0.3
    assert torch.autograd.gradcheck(lambda x: MaskedDiceCELoss(0.5, 0.5)(x, target, mask), z)


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"want target and mask \(1, 4\), got \(1, 3\) and \(1, 4\)"):
        MaskedDiceCELoss()(foreground(*P), Y[:, :3], SURE)


# uncertainty

STUDENT = logits((0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4))
TEACHER = torch.tensor([(0.9, 0.05, 0.05), (0.2, 0.7, 0.1), (0.4, 0.3, 0.3)], dtype=torch.float64).T[None]


@pytest.mark.parametrize(("share", "expected", "pixels"), [(0.75, 0.0141667, 2), (1.0, 0.0116667, 3)])
def test_uncertainty_in_numbers(share, expected, pixels):
    """Entropies .3943977 .8018186 1.0889; ln 3 = 1.0986, three quarters of it .8240."""
    loss, sure = UncertaintyConsistencyLoss()(STUDENT, TEACHER, share)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert sure.sum() == pixels


def test_without_its_mask_it_is_plain_consistency():
    loss, sure = UncertaintyConsistencyLoss(masked=False)(STUDENT, TEACHER, 0.1)
    assert loss.item() == pytest.approx(0.0116667, abs=1e-6)
    assert sure.all()


def test_the_sum_over_classes_is_as_many_times_the_mean():
    mean, total = (UncertaintyConsistencyLoss(over_classes=how)(STUDENT, TEACHER, 1.0)[0] for how in ("mean", "sum"))
    torch.testing.assert_close(total, STUDENT.shape[1] * mean)
    z, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    squares = (z.sigmoid() - t.sigmoid()).square()
    torch.testing.assert_close(ConsistencyLoss(sigmoid=True)(z, t), squares.mean())
    torch.testing.assert_close(ConsistencyLoss("sum", sigmoid=True)(z, t), squares.sum(dim=1).mean())


def test_a_teacher_that_is_certain_has_no_entropy_and_one_that_is_nowhere_sure_costs_nothing():
    certain = torch.tensor([[[1.0], [0.0]]])
    loss, sure = UncertaintyConsistencyLoss()(torch.zeros(1, 2, 1), certain, 0.1)
    assert (loss.item(), sure.item()) == (0.25, True)
    z = torch.zeros(1, 2, 1, requires_grad=True)
    loss, sure = UncertaintyConsistencyLoss()(z, torch.full((1, 2, 1), 0.5), 0.75)
    loss.backward()
    assert (loss.item(), sure.item(), z.grad.abs().sum().item()) == (0, False, 0)


def test_the_uncertain_teacher_gets_no_gradient():
    teacher = TEACHER.clone().requires_grad_()
    z = STUDENT.clone().requires_grad_()
    UncertaintyConsistencyLoss()(z, teacher, 1.0)[0].backward()
    assert teacher.grad is None
    assert z.grad.abs().sum() > 0


# the pyramid

SCALES = [
    logits(*rows)
    for rows in (((0.7, 0.3), (0.6, 0.4)), ((0.9, 0.1), (0.4, 0.6)), ((0.5, 0.5), (0.5, 0.5)), ((0.8, 0.2), (0.3, 0.7)))
]


def test_pyramid_in_numbers():
    assert PyramidConsistencyLoss()(SCALES).item() == pytest.approx(0.0573262, abs=1e-6)


def test_scales_that_are_all_sure_cost_nothing_and_give_no_nan():
    z = torch.tensor([[[0.0], [200.0]]], requires_grad=True)
    loss = PyramidConsistencyLoss()([z, 0.9 * z])
    loss.backward()
    assert loss.item() == 0
    assert z.grad.isfinite().all()


def test_scales_that_are_not_rectified_cost_their_variance():
    found = PyramidConsistencyLoss(rectified=False)(SCALES)
    assert found.item() == pytest.approx((0.021875 + 0.0125) / 2)  # of .7 .9 .5 .8, and of .6 .4 .5 .3


def test_scales_that_agree_cost_nothing_and_an_empty_batch_neither():
    assert PyramidConsistencyLoss()([SCALES[0]] * 3).item() == pytest.approx(0, abs=1e-12)
    assert PyramidConsistencyLoss()([torch.zeros(0, 2, 4, 4)] * 2).item() == 0


def test_pyramid_has_the_gradient_of_finite_differences():
    scales = [torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *z: PyramidConsistencyLoss()(z), scales)


def test_scales_on_different_grids_are_refused():
    with pytest.raises(ValueError, match="one shape at every scale"):
        PyramidConsistencyLoss()([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)])


# the sum over classes


@pytest.mark.parametrize("loss", [ConsistencyLoss, LowConfidenceConsistencyLoss])
def test_the_sum_over_classes_is_k_times_the_mean(loss):
    student, teacher = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    mean, total = (loss(over_classes=name)(student, teacher) for name in ("mean", "sum"))
    torch.testing.assert_close(total, 3 * mean)
    with pytest.raises(ValueError, match="over_classes is 'mean' or 'sum', got 'max'"):
        loss(over_classes="max")
