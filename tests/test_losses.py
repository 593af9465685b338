"""Losses in closed form, where their gradient goes, and what they do at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss

from custom.losses import ConsistencyLoss


def logits(*probabilities):
    """``(1, K, V)`` logits whose softmax is the given rows."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T[None]


def test_consistency_in_closed_form():
    student, teacher = logits((0.9, 0.1), (0.5, 0.5)), logits((0.6, 0.4), (0.5, 0.5))
    # voxel 1: (0.3^2 + 0.3^2) / 2 = 0.09, voxel 2: 0; mean 0.045
    assert ConsistencyLoss()(student, teacher).item() == pytest.approx(0.045, abs=1e-12)


def test_consistency_of_certain_opposites_is_2_over_k():
    student, teacher = torch.zeros(1, 4, 1), torch.zeros(1, 4, 1)
    student[:, 0], teacher[:, 1] = 100, 100
    assert ConsistencyLoss()(student, teacher).item() == pytest.approx(2 / 4)


def test_consistency_is_0_for_equal_networks_and_for_no_images():
    z = torch.randn(2, 3, 4, 4, 4)
    assert ConsistencyLoss()(z, z).item() == 0
    assert ConsistencyLoss()(z[:0], z[:0]).item() == 0


def test_consistency_gives_the_teacher_no_gradient():
    student, teacher = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    ConsistencyLoss()(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_gradient_of_consistency_is_right():
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: ConsistencyLoss()(s, teacher), student)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_consistency_of_half_precision_logits_is_computed_in_single(dtype):
    student, teacher = torch.full((1, 2, 4096), 3.0, dtype=dtype), torch.zeros(1, 2, 4096, dtype=dtype)
    value = ConsistencyLoss()(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == 0  # equal logits in both classes are the same probabilities


def test_consistency_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match=r"student \(1, 2, 4\) and teacher \(1, 2, 5\) differ in shape"):
        ConsistencyLoss()(torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))
    with pytest.raises(ValueError, match=r"softmax needs K >= 2 on axis 1, got \(1, 1, 4\)"):
        ConsistencyLoss()(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))


def test_the_supervised_loss_of_the_bundles_is_half_cross_entropy_and_half_dice():
    """1/2 (CE + Dice), Dice with squared denominator pooled over the batch, as the methods' pages define it."""
    loss = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)
    p = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)  # two images of one voxel each
    label = torch.tensor([0, 1]).reshape(2, 1, 1)
    dice = [1 - (2 * 0.75 + 1e-5) / (0.75**2 + 0.5**2 + 1 + 1e-5), 1 - (2 * 0.5 + 1e-5) / (0.25**2 + 0.5**2 + 1 + 1e-5)]
    expected = 0.5 * -(math.log(0.75) + math.log(0.5)) / 2 + 0.5 * sum(dice) / 2
    assert loss(p.log()[..., None], label).item() == pytest.approx(expected, abs=1e-9)
