"""The ranked list loss in closed form, against loops over pairs, where its gradient goes, and at its edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from custom.losses import RankedListLoss


def gallery(rows=12, dims=3, labels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = normalize(torch.randn(rows, dims, generator=generator, dtype=torch.float64), dim=-1)
    return embeddings, torch.randint(labels, (rows,), generator=generator)


def by_loops(embeddings, labels, margin=0.4, boundary=1.2, balance=0.5, temperature=10.0):
    """The formula, pair by pair; the weights are Python numbers, and so constants."""
    total = embeddings.sum() * 0
    for i in range(len(labels)):
        pull, push, weights = [], [], []
        for j in range(len(labels)):
            distance = (embeddings[i] - embeddings[j]).norm() if i != j else None
            if i != j and labels[i] == labels[j] and distance > boundary - margin:
                pull.append(distance - (boundary - margin))
            if i != j and labels[i] != labels[j] and distance < boundary:
                push.append(boundary - distance)
                weights.append(math.exp(temperature * (boundary - distance.item())))
        total = total + (1 - balance) * sum(pull) / max(len(pull), 1)
        total = total + balance * sum(w * p for w, p in zip(weights, push, strict=True)) / max(sum(weights), 1e-300)
    return total / len(labels)


def test_four_rows_whose_loss_is_known():
    rows = normalize(torch.tensor([[1, 0], [-1, 0], [0.9, 0.1], [0, 1]], dtype=torch.float64), dim=-1)
    assert RankedListLoss()(rows, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(0.7058105, abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        ([1.0, -1.0], [0, 0], 0.5 * (2 - 0.8)),  # one label, opposite: 2 is 1.2 outside the ball of 0.8
        ([0.0, 0.7], [0, 0], 0.0),  # within the ball: nothing pulls
        ([0.0, 0.5], [0, 1], 0.5 * (1.2 - 0.5)),  # two labels: 0.5 is 0.7 inside the boundary
        ([0.0, 1.3], [0, 1], 0.0),  # beyond the boundary: nothing pushes
        # the outer rows have one active negative (1.2 - 0.9 = 0.3), the middle one has two alike
        ([-0.9, 0.0, 0.9], [0, 1, 2], 0.5 * (0.3 + 0.3 + 0.3) / 3),
        # of one label: the outer ones 1.8 apart, both 0.9 from the middle: means (0.1 + 1) / 2, 0.1, (1 + 0.1) / 2
        ([-0.9, 0.0, 0.9], [0, 0, 0], 0.5 * (0.55 + 0.1 + 0.55) / 3),
    ],
)
def test_rows_on_a_line_in_closed_form(rows, labels, expected):
    embeddings = torch.tensor(rows, dtype=torch.float64)[:, None]
    assert RankedListLoss()(embeddings, torch.tensor(labels)).item() == pytest.approx(expected, abs=1e-9)


def test_the_closer_negative_weighs_more():
    """The negatives of 0 lie at 0.2 and at -1: 1 and 0.2 inside the boundary, weights e^10 and e^2."""
    embeddings, labels = torch.tensor([[0.0], [0.2], [-1.0]], dtype=torch.float64), torch.tensor([0, 1, 2])
    first = (math.exp(10) * 1.0 + math.exp(2) * 0.2) / (math.exp(10) + math.exp(2))
    second = 1.0  # from 0.2 the row at -1 is exactly at the boundary
    third = 0.2
    found = RankedListLoss()(embeddings, labels).item()
    assert found == pytest.approx(0.5 * (first + second + third) / 3, abs=1e-9)
    plain = RankedListLoss(temperature=0)(embeddings, labels).item()
    assert plain == pytest.approx(0.5 * (0.6 + 1.0 + 0.2) / 3, abs=1e-9)


@pytest.mark.parametrize("labels", [2, 12])
@pytest.mark.parametrize(
    "settings", [{}, {"margin": 0.2, "boundary": 0.9, "balance": 0.8, "temperature": 3.0}, {"balance": 0.0}]
)
def test_value_and_gradient_are_those_of_the_formula(settings, labels):
    embeddings, of = gallery(20, labels=labels)
    ours, theirs = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    value, expected = RankedListLoss(**settings)(ours, of), by_loops(theirs, of, **settings)
    assert value.item() == pytest.approx(expected.item(), abs=1e-9)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradcheck_where_the_weights_are_alike():
    """T = 0, so that the weights do not change with the rows and differences see what the gradient sees."""
    embeddings, labels = gallery(8)
    assert torch.autograd.gradcheck(
        lambda e: RankedListLoss(temperature=0)(e, labels), embeddings.requires_grad_(), eps=1e-7
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_without_a_partner_the_loss_is_0_and_in_the_graph(rows):
    embeddings = torch.randn(rows, 4, requires_grad=True)
    loss = RankedListLoss()(embeddings, torch.zeros(rows, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(embeddings.grad, torch.zeros(rows, 4))


def test_no_gallery_costs_0_and_stays_in_the_graph():
    embeddings = torch.randn(0, 5, 4, requires_grad=True)
    loss = RankedListLoss()(embeddings, torch.zeros(0, 5, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()


def test_rows_that_coincide_have_a_finite_gradient():
    embeddings = torch.ones(3, 4, requires_grad=True)
    RankedListLoss()(embeddings, torch.tensor([0, 1, 1])).backward()
    assert torch.isfinite(embeddings.grad).all()


def test_galleries_in_one_call_are_the_mean_of_single_ones():
    singles = [gallery(rows, seed=rows) for rows in (3, 7, 5)]
    embeddings, labels = torch.full((4, 7, 3), 9.0, dtype=torch.float64), torch.full((4, 7), -1)
    for place, (rows, of) in enumerate(singles):
        embeddings[place, : len(of)], labels[place, : len(of)] = rows, of
    embeddings.requires_grad_()  # the fourth gallery has no row, and does not count
    loss = RankedListLoss()(embeddings, labels)
    expected = sum(RankedListLoss()(rows, of).item() for rows, of in singles) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.backward()
    assert embeddings.grad[labels < 0].abs().sum() == 0
    assert embeddings.grad[labels >= 0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    embeddings, labels = gallery(16)
    rows = embeddings.to(dtype)
    loss = RankedListLoss()(rows, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, RankedListLoss()(rows.float(), labels))


def test_autocast_does_not_lower_the_precision():
    embeddings, labels = gallery(16, dims=64)
    rows = embeddings.float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = RankedListLoss()(rows, labels)
    assert torch.equal(inside, RankedListLoss()(rows, labels))


def test_no_temperature_overflows():
    embeddings, labels = gallery(10)
    embeddings = embeddings.float().requires_grad_()
    loss = RankedListLoss(temperature=1e6)(embeddings, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embeddings.grad).all()


def test_active_pairs_are_counted():
    """Rows at 0, 0.5, 1.5 with labels 0, 0, 1, and an empty one: the pair of one label (0, 0.5) is not outside 0.8; of
    those of two labels, (0, 1.5) and (0.5, 1.5), one is inside 1.2. At 0, 0.9 the pair of one label is outside."""
    labels = torch.tensor([0, 0, 1, -1])
    shares = RankedListLoss().active(torch.tensor([[0.0], [0.5], [1.5], [0.1]]), labels)
    assert [s.item() for s in shares] == [0.0, 0.5]
    shares = RankedListLoss().active(torch.tensor([[0.0], [0.9], [1.5], [0.1]], requires_grad=True), labels)
    assert [s.item() for s in shares] == [1.0, 0.5]
    assert not any(s.requires_grad for s in shares)
    assert [s.item() for s in RankedListLoss().active(torch.zeros(0, 3), torch.zeros(0))] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"boundary": 0.0}, "boundary is a distance above 0, got 0.0"),
        ({"margin": 1.3}, r"margin is in \[0, boundary\], got 1.3 with the boundary 1.2"),
        ({"margin": -0.1}, r"margin is in \[0, boundary\], got -0.1"),
        ({"balance": 1.5}, r"balance is in \[0, 1\], got 1.5"),
        ({"temperature": -1}, "temperature is at least 0, got -1"),
        ({"temperature": math.nan}, "temperature is at least 0, got nan"),
    ],
)
def test_wrong_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        RankedListLoss(**settings)


@pytest.mark.parametrize(("rows", "labels"), [((4, 2), (3,)), ((4,), (4,)), ((2, 4, 3), (4,))])
def test_shapes_that_do_not_fit_are_named(rows, labels):
    with pytest.raises(ValueError, match=r"do not fit: expected \(\*, N, D\) and \(\*, N\)"):
        RankedListLoss()(torch.zeros(rows), torch.zeros(labels))
