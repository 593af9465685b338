"""Task affinity in closed form, where its gradient goes, and what it does at the edges."""

from __future__ import annotations

import pytest
import torch

from custom.losses import TaskAffinityLoss


def published():
    """Features and masks of both halves, B = 2, C = 3, K = 2, on a grid of 2 x 2 x 2."""
    features = torch.arange(48, dtype=torch.float64).reshape(2, 3, 2, 2, 2) / 48
    foreground = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    foreground[0, 0] = 1
    foreground[1, :, 0, 0] = 1
    p = torch.linspace(0.05, 0.95, 16, dtype=torch.float64).reshape(2, 2, 2, 2)
    masks_l, masks_u = (torch.stack([1 - f, f], dim=1) for f in (foreground, p))
    return features, masks_l, 0.5 * features.flip(0), masks_u


def drawn(*grid, images=2, channels=3, classes=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = [(images, n, *grid) for n in (channels, classes) * 2]
    return [torch.rand(shape, generator=generator).to(dtype) for shape in shapes]


def in_loops(features_l, masks_l, features_u, masks_u, pooling):
    """The formula, a class, an image and a channel at a time."""

    def vectors(features, masks):
        flat_f, flat_m = features.flatten(2), masks.flatten(2)
        rows = []
        for b in range(len(flat_f)):
            for k in range(flat_m.shape[1]):
                mass = flat_m[:, k].sum() if pooling == "batch" else flat_m[b, k].sum()
                rows.append([(flat_m[b, k] * channel).sum() / (mass + 1e-6) for channel in flat_f[b]])
        return torch.tensor(rows, dtype=torch.float64)

    return (vectors(features_u, masks_u) - vectors(features_l, masks_l)).square().mean()


@pytest.mark.parametrize(("pooling", "expected"), [("batch", 0.0586079), ("image", 0.2035102)])
def test_the_published_settings_in_numbers(pooling, expected):
    assert TaskAffinityLoss(pooling)(*published()).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("pooling", "expected"), [("batch", 5 / 8), ("image", 5 / 2)])
def test_a_sum_on_paper(pooling, expected):
    """Two images a half, one channel, one class that fills both voxels. Labelled features (1, 3) and (0, 2) have the
    masked sums 4 and 2, unlabelled (0, 0) and (2, 2) the sums 0 and 4. Divided by the mass of a half, 4, the distances
    are (0 - 1)^2 and (1 - 1/2)^2, by that of an image, 2, they are (0 - 2)^2 and (2 - 1)^2."""
    labelled, unlabelled = torch.tensor([[[1, 3]], [[0, 2]]]).double(), torch.tensor([[[0, 0]], [[2, 2]]]).double()
    ones = torch.ones_like(labelled)
    assert TaskAffinityLoss(pooling)(labelled, ones, unlabelled, ones).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pooling", ["batch", "image"])
@pytest.mark.parametrize("grid", [(5,), (4, 6), (3, 2, 4)])
def test_it_is_its_formula_in_any_number_of_axes(pooling, grid):
    halves = drawn(*grid, images=3, channels=5, classes=12, dtype=torch.float64)
    torch.testing.assert_close(TaskAffinityLoss(pooling)(*halves), in_loops(*halves, pooling))


@pytest.mark.parametrize("pooling", ["batch", "image"])
@pytest.mark.parametrize("skip_absent", [False, True])
def test_equal_halves_cost_0(pooling, skip_absent):
    features, masks, *_ = published()
    assert TaskAffinityLoss(pooling, skip_absent)(features, masks, features, masks).item() == 0


def test_the_vectors_of_a_half_add_up_to_its_masked_mean():
    features, masks, *_ = published()
    vectors, _ = TaskAffinityLoss()._vectors(features, masks)
    foreground = masks[:, 1].bool()
    expected = torch.stack([features[:, c][foreground].mean() for c in range(3)])
    torch.testing.assert_close(vectors.sum(dim=0)[1], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["batch", "image"])
def test_gradient_reaches_features_and_masks_of_both_halves(pooling):
    halves = [t.requires_grad_() for t in drawn(4, 4)]
    TaskAffinityLoss(pooling)(*halves).backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in halves)


@pytest.mark.parametrize("pooling", ["batch", "image"])
@pytest.mark.parametrize("skip_absent", [False, True])
def test_the_gradient_is_right(pooling, skip_absent):
    halves = drawn(2, 3, channels=2, classes=2, dtype=torch.float64)
    halves[1][:, 1] = 0
    halves[3][:, 0] = 0.5
    loss = TaskAffinityLoss(pooling, skip_absent)
    free = [halves[i].requires_grad_() for i in (0, 2, 3)]
    assert torch.autograd.gradcheck(lambda f_l, f_u, m_u: loss(f_l, halves[1], f_u, m_u), free)


# a class that the labelled half does not have


def absent_class():
    """One channel, two voxels, two classes; the labelled half is background throughout. Background: V^l = 1 in one
    image, V^u = 2; the other class: V^l = 0, V^u = 4."""
    labelled, masks_l = torch.ones(1, 1, 2, dtype=torch.float64), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]).double()
    unlabelled, masks_u = torch.tensor([[[2.0, 4.0]]]).double(), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
    return labelled, masks_l, unlabelled, masks_u


@pytest.mark.parametrize("pooling", ["batch", "image"])
@pytest.mark.parametrize(("skip_absent", "expected"), [(False, (1 + 16) / 2), (True, 1.0)])
def test_an_absent_class_draws_to_0_unless_it_is_skipped(pooling, skip_absent, expected):
    found = TaskAffinityLoss(pooling, skip_absent)(*absent_class()).item()
    assert found == pytest.approx(expected, abs=1e-4)


def test_image_pooling_skips_a_class_in_the_images_that_lack_it():
    labelled, masks_l, unlabelled, masks_u = (torch.cat([t, t]) for t in absent_class())
    masks_l[1] = torch.tensor([[0.0, 0.0], [1.0, 1.0]])  # the second image has the other class alone: V^l = 1, V^u = 4
    assert TaskAffinityLoss("image", True)(labelled, masks_l, unlabelled, masks_u).item() == pytest.approx(
        (1 + 9) / 2, abs=1e-4
    )


def test_nothing_to_compare_costs_0():
    features, masks = torch.ones(2, 1, 4), torch.zeros(2, 3, 4)
    assert TaskAffinityLoss(skip_absent=True)(features, masks, features + 1, masks + 1).item() == 0


@pytest.mark.parametrize("pooling", ["batch", "image"])
@pytest.mark.parametrize("skip_absent", [False, True])
def test_two_empty_halves_cost_0(pooling, skip_absent):
    halves = [t[:0].requires_grad_() for t in drawn(4, 4)]
    loss = TaskAffinityLoss(pooling, skip_absent)(*halves)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("pooling", ["batch", "image"])
def test_empty_masks_give_a_finite_gradient(pooling):
    features_l, masks_l, features_u, masks_u = drawn(4, 4)
    masks_u = torch.zeros_like(masks_u, requires_grad=True)
    TaskAffinityLoss(pooling)(features_l, torch.zeros_like(masks_l), features_u, masks_u).backward()
    assert masks_u.grad.isfinite().all()


# precision and size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_single(dtype):
    """A mass of 300 x 300 voxels is beyond what float16 holds, and bfloat16 counts no further than 256."""
    halves = [torch.ones(1, 1, 300, 300, dtype=dtype) for _ in range(4)]
    halves[2] = 3 * halves[2]
    loss = TaskAffinityLoss()(*halves)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(4.0, rel=1e-4)


def test_autocast_does_not_pool_in_half_precision():
    halves = drawn(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = TaskAffinityLoss()(*halves)
    assert torch.equal(inside, TaskAffinityLoss()(*halves))


def test_integer_masks_serve():
    features_l, masks_l, features_u, masks_u = published()
    expected = TaskAffinityLoss()(features_l, masks_l, features_u, masks_u)
    torch.testing.assert_close(TaskAffinityLoss()(features_l, masks_l.long(), features_u, masks_u), expected)


def test_memory_is_linear_in_the_voxels():
    """10^6 voxels: what grew with pairs of them would need terabytes."""
    halves = [t.requires_grad_() for t in drawn(1000, 1000, images=1, channels=2, classes=2)]
    TaskAffinityLoss()(*halves).backward()
    assert halves[0].grad.isfinite().all()


# what it refuses


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fl, ml, fu, mu: (fl, ml, fu[:1], mu[:1]), "2 labelled and 1 unlabelled images: .* give equal numbers"),
        (lambda fl, ml, fu, mu: (fl, ml[..., :2], fu, mu), r"labelled features \(2, 3, 4, 4\) and masks \(2, 4, 4, 2\) differ"),
        (lambda fl, ml, fu, mu: (fl, ml, fu, mu[:1]), r"unlabelled features .* and masks \(1, 4, 4, 4\) differ in images"),
        (lambda fl, ml, fu, mu: (fl, ml, fu[:, :2], mu), "differ in channels or classes"),
        (lambda fl, ml, fu, mu: (fl, ml[:, :3], fu, mu), "differ in channels or classes"),
        (lambda fl, ml, fu, mu: tuple(t[..., 0, 0] for t in (fl, ml, fu, mu)), "need a spatial axis"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        TaskAffinityLoss()(*change(*drawn(4, 4)))


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling is 'batch' or 'image', got 'voxel'"):
        TaskAffinityLoss("voxel")
