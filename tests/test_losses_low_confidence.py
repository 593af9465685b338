"""Low-confidence consistency and class separation: values on paper, where gradients go, the edges."""

from __future__ import annotations

import math

import pytest
import torch
from test_losses import logits

from custom.losses import ClassSeparationLoss, ConsistencyLoss, LowConfidenceConsistencyLoss

STUDENT = logits((0.9, 0.1), (0.97, 0.03), (0.7, 0.3))
TEACHER = logits((0.6, 0.4), (0.5, 0.5), (0.8, 0.2))
# squared distances of the three pixels, averaged over two classes: .3^2, .47^2, .1^2

# consistency


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.05),  # pixels 1 and 3: (.09 + .01) / 2
        ({"keep": "high"}, 0.47**2),  # pixel 2 alone
        ({"keep": "all"}, (0.09 + 0.47**2 + 0.01) / 3),
        (
            {"keep": "all", "divide": "low"},
            (0.09 + 0.47**2 + 0.01) / 2,
        ),  # all pixels, each with the weight of an unsure one
        ({"keep": "high", "divide": "low"}, 0.47**2 / 2),
        ({"divide": "low"}, 0.05),
        ({"threshold": 0.8}, 0.01),  # pixel 3 alone
        ({"threshold": 0.98}, (0.09 + 0.47**2 + 0.01) / 3),
        ({"threshold": 0.5}, 0.0),  # none: 0, not NaN
        ({"threshold": 0.7, "confidence": "teacher"}, (0.09 + 0.47**2) / 2),  # .6, .5; not .8
        ({"threshold": 0.65, "confidence": "lesser"}, (0.09 + 0.47**2) / 2),  # lesser: .6, .5, .7
        ({"threshold": 0.75, "confidence": "lesser"}, (0.09 + 0.47**2 + 0.01) / 3),
        ({"threshold": 0.65, "confidence": "lesser", "keep": "high"}, 0.01),
    ],
)
def test_consistency_in_closed_form(settings, expected):
    found = LowConfidenceConsistencyLoss(**settings)(STUDENT, TEACHER)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("low", "divisor"), [(0, 10), (1, 10), (10, 10), (11, 11), (20, 20), (1000, 1000)])
@pytest.mark.parametrize("keep", ["all", "high"])
def test_divided_by_the_pixels_of_low_confidence_no_pixel_weighs_more_than_100_times_its_share(keep, low, divisor):
    """Of 1000 pixels: the mean over all is of weight 1 / 1000 each, this one of 1 / 10 at most."""
    student = torch.cat([logits((0.7, 0.3)).expand(1, 2, low), logits((0.97, 0.03)).expand(1, 2, 1000 - low)], dim=2)
    distance = 0.1**2 * low * (keep == "all") + 0.17**2 * (1000 - low)
    found = LowConfidenceConsistencyLoss(keep=keep, divide="low")(student, logits((0.8, 0.2)).expand(1, 2, 1000))
    assert found.item() == pytest.approx(distance / divisor)


def test_where_every_pixel_is_sure_the_loss_has_the_bound_that_its_docstring_names():
    right, wrong = (torch.tensor([50.0, -50.0]).mul(sign).reshape(1, 2, 1, 1).expand(8, 2, 80, 80) for sign in (1, -1))
    assert LowConfidenceConsistencyLoss(keep="all", divide="low")(right, wrong).item() == pytest.approx(100 * 2 / 2)


def test_a_pixel_at_the_threshold_is_of_high_confidence():
    even = torch.zeros(1, 2, 1, dtype=torch.float64)  # probabilities 1/2 exactly
    assert LowConfidenceConsistencyLoss(0.5, keep="low")(even, even + logits((0.9, 0.1))).item() == 0
    assert LowConfidenceConsistencyLoss(0.5, keep="high")(even, logits((0.9, 0.1))).item() == pytest.approx(0.16)


def test_the_kept_pixels_divide_however_many_sure_ones_stand_beside():
    hard, sure = logits((0.7, 0.3)), logits((0.97, 0.03)).expand(1, 2, 999)
    alone = LowConfidenceConsistencyLoss()(hard, logits((0.8, 0.2)))
    drowned = LowConfidenceConsistencyLoss()(torch.cat([hard, sure], 2), torch.cat([logits((0.8, 0.2)), sure], 2))
    assert alone.item() == drowned.item() == pytest.approx(0.01)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_over_all_pixels_it_is_plain_consistency(spatial):
    student, teacher = (torch.randn(2, 12, *spatial, dtype=torch.float64) for _ in range(2))
    found = LowConfidenceConsistencyLoss(keep="all")(student, teacher)
    torch.testing.assert_close(found, ConsistencyLoss()(student, teacher))


def test_the_sides_of_the_threshold_make_the_whole():
    """low x its pixels + high x its pixels = all x all pixels."""
    student, teacher = (3 * torch.randn(2, 3, 8, 8, dtype=torch.float64) for _ in range(2))
    few = int((student.softmax(1).amax(1) < 0.9).sum())
    assert 0 < few < 128
    low, high, every = (LowConfidenceConsistencyLoss(0.9, keep)(student, teacher) for keep in ("low", "high", "all"))
    torch.testing.assert_close(low * few + high * (128 - few), every * 128)


def test_gradient_reaches_the_kept_pixels_of_the_student_alone():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    LowConfidenceConsistencyLoss()(student, teacher).backward()
    assert (student.grad.abs().sum(1) > 0).tolist() == [[True, False, True]]
    assert teacher.grad is None


@pytest.mark.parametrize("confidence", ["student", "teacher", "lesser"])
def test_the_gradient_of_consistency_is_right(confidence):
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    loss = LowConfidenceConsistencyLoss(0.6, confidence=confidence)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


def test_consistency_of_no_images_is_0_with_a_gradient():
    empty = torch.zeros(0, 2, 4, 4, requires_grad=True)
    value = LowConfidenceConsistencyLoss()(empty, empty.detach())
    assert value.item() == 0
    value.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_judged_and_compared_in_single(dtype):
    """The student's .9504 is not below .95; its neighbours in bfloat16 are .9492 and .9531."""
    student = torch.tensor([[[2.953125], [0.0]]], dtype=dtype)
    value = LowConfidenceConsistencyLoss(keep="high")(student, torch.zeros_like(student))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx((1 / (1 + math.exp(-2.953125)) - 0.5) ** 2, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"threshold": 1.5}, r"threshold is a probability in \[0, 1\], got 1.5"),
        ({"keep": "lo"}, r"keep is one of \['low', 'high', 'all'\], got 'lo'"),
        ({"divide": "all"}, r"divide is one of \['kept', 'low'\], got 'all'"),
        ({"confidence": "both"}, r"confidence is one of \['student', 'teacher', 'lesser'\], got 'both'"),
    ],
)
def test_consistency_refuses_settings_it_does_not_have(settings, text):
    with pytest.raises(ValueError, match=text):
        LowConfidenceConsistencyLoss(**settings)


def test_consistency_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match=r"student \(1, 2, 4\) and teacher \(1, 2, 5\) differ in shape"):
        LowConfidenceConsistencyLoss()(torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))
    with pytest.raises(ValueError, match=r"softmax needs K >= 2 on axis 1, got \(1, 1, 4\)"):
        LowConfidenceConsistencyLoss()(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))


# separation

H = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]], dtype=torch.float64)  # (1, 2, 3): (1,0), (0,1), (1,1)
CLASSES = torch.tensor([[1, 1, 2]])
ALL = torch.ones(1, 3, dtype=torch.bool)
P = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
HALF = 1 - math.sqrt(0.5)  # 1 - cos 45 degrees


@pytest.mark.parametrize(
    ("classes", "mask", "expected"),
    [
        ([1, 1, 2], [1, 1, 1], (1 / 2 + HALF) / 2),  # class 1: (0 + 1) / 2
        ([1, 1, 2], [1, 0, 1], (0 + HALF) / 2),
        ([1, 1, 2], [0, 1, 0], 1.0),  # class 2 has no chosen pixel: class 1 alone
        ([1, 0, 0], [1, 1, 1], 0.0),  # background has no prototype
        ([0, 0, 0], [1, 1, 1], 0.0),
        ([1, 1, 2], [0, 0, 0], 0.0),
    ],
)
def test_separation_in_closed_form(classes, mask, expected):
    found = ClassSeparationLoss()(H, torch.tensor([classes]), torch.tensor([mask]).bool(), P)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_number_that_the_formula_gives_by_hand():
    assert ClassSeparationLoss()(H, CLASSES, ALL, P).item() == pytest.approx(0.3964466, abs=1e-6)


def test_a_class_that_was_not_seen_adds_nothing():
    unseen = P.clone()
    unseen[2] = 0
    assert ClassSeparationLoss()(H, CLASSES, ALL, unseen).item() == pytest.approx(1 / 2)
    assert ClassSeparationLoss()(H, CLASSES, ALL, torch.zeros_like(P)).item() == 0


def test_lengths_do_not_count():
    a = ClassSeparationLoss()(H, CLASSES, ALL, P)
    torch.testing.assert_close(ClassSeparationLoss()(7 * H, CLASSES, ALL, 0.1 * P), a)


def test_push_in_closed_form():
    """Cosines to both prototypes, over T = .5: (1,0), (0,1) -> softmax e^2 / (e^2 + 1); (1,1) -> 1/2."""
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    found = ClassSeparationLoss(push=True, temperature=0.5)(H, CLASSES, ALL, P)
    assert found.item() == pytest.approx(((right + wrong) / 2 + math.log(2)) / 2, abs=1e-12)


def test_push_with_one_prototype_has_nothing_to_tell_apart():
    h = H.clone().requires_grad_()
    one = torch.stack([P[0], P[1], P[0]])
    value = ClassSeparationLoss(push=True)(h, CLASSES, ALL, one)
    value.backward()
    assert value.item() == 0
    assert h.grad.isfinite().all()


def test_the_temperature_of_push_is_a_tenth():
    a = ClassSeparationLoss(push=True)(H, CLASSES, ALL, P)
    assert a.item() == ClassSeparationLoss(push=True, temperature=0.1)(H, CLASSES, ALL, P).item()


@pytest.mark.parametrize("push", [False, True])
def test_gradient_reaches_the_chosen_pixels_and_no_prototype(push):
    h, p = H.clone().requires_grad_(), P.clone().requires_grad_()
    ClassSeparationLoss(push)(h, CLASSES, torch.tensor([[False, True, True]]), p).backward()
    assert (h.grad.abs().sum(1) > 0).tolist() == [[False, True, True]]
    assert p.grad is None


@pytest.mark.parametrize("push", [False, True])
def test_the_gradient_of_separation_is_right(push):
    torch.manual_seed(0)
    h = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    classes, mask = torch.randint(0, 4, (2, 4)), torch.rand(2, 4) < 0.7
    prototypes = torch.cat([torch.zeros(1, 3), torch.randn(3, 3)]).double()
    assert torch.autograd.gradcheck(lambda x: ClassSeparationLoss(push)(x, classes, mask, prototypes), h)


@pytest.mark.parametrize("push", [False, True])
def test_where_nothing_counts_the_gradient_is_0_and_exists(push):
    """A term without a graph would leave its head's parameters unused, which DDP does not forgive."""
    h = H.clone().requires_grad_()
    ClassSeparationLoss(push)(h, CLASSES, ~ALL, P).backward()
    assert torch.equal(h.grad, torch.zeros_like(H))
    ClassSeparationLoss(push)(torch.zeros(0, 2, 3), CLASSES[:0], ALL[:0], P).item()


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_twelve_classes_in_any_number_of_axes_against_a_loop(spatial):
    h, prototypes = torch.randn(2, 32, *spatial), torch.randn(12, 32)
    prototypes[0] = 0
    classes, mask = torch.randint(0, 12, (2, *spatial)), torch.rand(2, *spatial) < 0.8
    means = []
    for c in range(1, 12):
        chosen = h.movedim(1, -1)[mask & (classes == c)]
        means += [1 - torch.cosine_similarity(chosen, prototypes[c][None]).mean()] if len(chosen) else []
    torch.testing.assert_close(ClassSeparationLoss()(h, classes, mask, prototypes), torch.stack(means).mean())


@pytest.mark.parametrize("push", [False, True])
def test_autocast_and_half_precision_features_are_computed_in_single(push):
    h = torch.randn(2, 32, 6, 6).bfloat16()
    prototypes = torch.cat([torch.zeros(1, 32), torch.randn(3, 32)])
    classes, mask = torch.randint(0, 4, (2, 6, 6)), torch.ones(2, 6, 6, dtype=torch.bool)
    expected = ClassSeparationLoss(push)(h.float(), classes, mask, prototypes)
    with torch.autocast("cpu", torch.bfloat16):
        found = ClassSeparationLoss(push)(h, classes, mask, prototypes)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


# the drawing of pixels


def drawn(seed, at_most, classes, mask):
    """Which pixels count: those that a gradient reaches."""
    h = torch.randn(1, 2, classes.shape[1], generator=torch.Generator().manual_seed(9)).requires_grad_()
    loss = ClassSeparationLoss(max_pixels=at_most)
    loss(h, classes, mask, P.float(), torch.Generator().manual_seed(seed)).backward()
    return h.grad.abs().sum(1) > 0


def test_at_most_so_many_pixels_of_each_class_are_drawn():
    classes = torch.tensor([[1] * 50 + [2] * 5 + [0] * 9])
    found = drawn(0, 20, classes, torch.ones(1, 64, dtype=torch.bool))
    assert found[:, :50].sum() == 20
    assert found[:, 50:55].all(), "a small class is kept whole"
    assert not found[:, 55:].any()


def test_pixels_are_drawn_among_the_chosen_ones():
    mask = torch.arange(64)[None] % 2 == 0
    found = drawn(0, 20, torch.ones(1, 64, dtype=torch.long), mask)
    assert found.sum() == 20
    assert not (found & ~mask).any()


def test_the_drawing_is_the_generators():
    classes, mask = torch.ones(1, 64, dtype=torch.long), torch.ones(1, 64, dtype=torch.bool)
    assert torch.equal(drawn(3, 20, classes, mask), drawn(3, 20, classes, mask))
    assert not torch.equal(drawn(3, 20, classes, mask), drawn(4, 20, classes, mask))


def test_every_pixel_has_its_chance():
    classes, mask = torch.ones(1, 64, dtype=torch.long), torch.ones(1, 64, dtype=torch.bool)
    counts = sum(drawn(seed, 32, classes, mask).float() for seed in range(200))
    assert 65 < counts.min() < counts.max() < 135  # 100 +- 5 sd


@pytest.mark.parametrize("at_most", [None, 3, 4096])
def test_a_limit_that_is_not_reached_changes_nothing(at_most):
    expected = ClassSeparationLoss()(H, CLASSES, ALL, P)
    assert ClassSeparationLoss(max_pixels=at_most)(H, CLASSES, ALL, P).item() == expected.item()


def test_separation_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"temperature is above 0, got 0"):
        ClassSeparationLoss(temperature=0)
    with pytest.raises(ValueError, match=r"max_pixels is at least 1, or null for all pixels, got 0"):
        ClassSeparationLoss(max_pixels=0)
    with pytest.raises(ValueError, match=r"features \(1, 2, 3\) have the pixels \(1, 3\), classes is \(1, 2\)"):
        ClassSeparationLoss()(H, CLASSES[:, :2], ALL, P)
    with pytest.raises(ValueError, match=r"features \(1, 2, 3\) have the pixels \(1, 3\), mask is \(3,\)"):
        ClassSeparationLoss()(H, CLASSES, ALL[0], P)
    with pytest.raises(ValueError, match=r"prototypes \(3, 1\): expected one row a class, as long as .* channels, 2"):
        ClassSeparationLoss()(H, CLASSES, ALL, P[:, :1])
