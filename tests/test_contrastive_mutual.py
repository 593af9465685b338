"""Contrastive mutual learning: the terms of both stages, and which modality is the stronger."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import tiny_contrastive_mutual
import torch
from contrastive_batches import (
    END,
    FLAIR,
    STAGE_1,
    STAGE_2,
    T1CE,
    buffers,
    fit,
    gradients,
    make,
    maps,
    pair,
    progress,
    same,
    staged,
)
from torch import nn

from custom.losses import AreaSimilarityContrastiveLoss
from custom.methods.batch import Batch, StrongView
from custom.stream.mixing import Mix

# stage 1 in closed form


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 4])
def test_stage_1_is_its_formula(classes, dims):
    method, (labelled, unlabelled) = make(classes=classes, dims=dims), pair(classes=classes, dims=dims)
    reference = copy.deepcopy(method)
    terms = method(labelled, unlabelled, progress(*STAGE_1))
    (l1, u1), (l2, u2) = (maps(reference, m, labelled, unlabelled) for m in (0, 1))
    y = torch.cat([labelled.label == k for k in range(1, classes)], dim=1).float()
    assert list(terms) == list(STAGE_1)
    torch.testing.assert_close(terms["supervised"], fit(l1, y) + fit(l2, y), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["contrastive"], AreaSimilarityContrastiveLoss()(u1, u2))
    torch.testing.assert_close(terms["consistency"], ((u1 - u2) ** 2).mean())


@pytest.mark.parametrize("term", ["contrastive", "consistency"])
def test_the_two_networks_teach_each_other(term):
    """No side is held constant."""
    method, (labelled, unlabelled) = make(), pair()
    method(labelled, unlabelled, progress(term))[term].backward()
    for m in (FLAIR, T1CE):
        assert sum(g.abs().sum() for g in gradients(method, m)) > 0


def strong_pair() -> tuple[Batch, Batch]:
    """As :func:`pair`, with a strong view whose box shows the neighbour."""
    labelled, unlabelled = pair()
    mask = torch.zeros(len(unlabelled), 1, *unlabelled.image.shape[2:], dtype=torch.bool)
    mask[:, :, :4] = True
    view = StrongView(Mix(mask)(unlabelled.image) ** 2, Mix(mask))
    return labelled, Batch(unlabelled.image, strong=(view,))


@pytest.mark.parametrize(
    ("follow", "strong", "teachers"),
    [
        ("other", "flair", (T1CE, FLAIR)),
        ("stronger", "flair", (FLAIR, FLAIR)),
        ("stronger", "t1ce", (T1CE, T1CE)),
        ("stronger", "auto", (T1CE, FLAIR)),  # not known yet
    ],
)
def test_on_the_strong_view_each_network_follows_an_average_of_the_weak_one(follow, strong, teachers):
    method, (labelled, unlabelled) = make(view="strong", follow=follow, strong=strong), strong_pair()
    reference, view = copy.deepcopy(method), unlabelled.strong_view()
    terms = method(labelled, unlabelled, progress("consistency"))
    expected = []
    for m, o in enumerate(teachers):
        weak = torch.cat([labelled.image, unlabelled.image])[:, o : o + 1]
        target = reference.averages[o].teach(weak)[len(labelled) :, 1:].sigmoid()
        found = reference.networks[m](view.image[:, m : m + 1])[:, 1:].sigmoid()
        expected.append(fit(found, view.mixed(target)))
    torch.testing.assert_close(terms["consistency"], torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("follow", "strong", "moved"),
    [
        ("other", "flair", [True, True]),
        ("stronger", "flair", [False, True]),
        ("stronger", "t1ce", [True, False]),
        ("stronger", "auto", [True, True]),
    ],
)
def test_the_contrast_moves_the_stronger_network_only_where_each_follows_the_other(follow, strong, moved):
    method, (labelled, unlabelled) = make(follow=follow, strong=strong), pair()
    method(labelled, unlabelled, progress("contrastive"))["contrastive"].backward()
    found = [[g for g in gradients(method, m) if g is not None and g.abs().sum() > 0] for m in (FLAIR, T1CE)]
    assert [bool(each) for each in found] == moved


@pytest.mark.parametrize(("follow", "rests"), [("other", False), ("stronger", True)])
def test_an_average_that_no_longer_teaches_has_its_network_s_statistics(follow, rests):
    method, (labelled, unlabelled) = make(view="strong", follow=follow), strong_pair()
    for taught in ([True, True], [True, not rests]):
        method(labelled, unlabelled, progress("consistency"))
        method.after_step(progress("consistency"))
        assert [average.taught for average in method.averages] == taught
        method.after_validation({"flair": 0.6, "t1ce": 0.4}, staged(1, steps=10))


def test_of_objects_alone_the_contrast_takes_patches_in_which_a_network_finds_something():
    method, (labelled, unlabelled) = make(contrast="objects"), pair(patches=5)
    u1, u2 = (x.clone() for x in maps(copy.deepcopy(method), FLAIR, labelled, unlabelled)[1:] * 2)
    for maps_of in (u1, u2):
        maps_of.clamp_(max=0.4)
    u1[1, 0, 2, 3] = u2[3, 0, 1, 1] = 0.5  # one of the two is enough
    every = torch.ones(5, dtype=torch.bool)
    free, seen = (u1.logit(), u2.logit()), torch.ones(5, 2, dtype=torch.bool)
    torch.testing.assert_close(
        method._contrast(free, every, seen), AreaSimilarityContrastiveLoss()(u1[[1, 3]], u2[[1, 3]])
    )
    assert method.watch()["contrastive/objects"] == 0.4
    assert method.watch()["contrastive/plateau"] == pytest.approx(math.log(3))
    assert (
        method._contrast((u1[[0, 1]].logit(), u2[[0, 1]].logit()), every[:2], seen[:2]) == 0
    )  # of one no other is told
    method.contrast = "all"
    torch.testing.assert_close(method._contrast(free, every, seen), AreaSimilarityContrastiveLoss()(u1, u2))


def test_supervised_alone_trains_each_modality_as_if_the_other_were_not_there():
    method, (labelled, _) = make(), pair()
    alone = copy.deepcopy(method)
    empty = Batch(torch.zeros(0, 2, 8, 8))
    method(labelled, empty, progress("supervised"))["supervised"].backward()
    other = Batch(labelled.image.clone(), labelled.label)
    other.image[:, T1CE] = torch.rand(8, 8)
    alone(other, empty, progress("supervised"))["supervised"].backward()
    for a, b in zip(gradients(method, FLAIR), gradients(alone, FLAIR), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(gradients(method, T1CE)[0], gradients(alone, T1CE)[0])


def test_a_term_that_is_not_wanted_is_not_computed():
    method, (labelled, unlabelled) = make(), pair()
    method.contrastive.similarities = None
    method.teacher.forward = None
    assert list(method(labelled, unlabelled, progress("supervised", "consistency"))) == ["supervised", "consistency"]
    seen = []
    method.networks[0].register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    method(labelled, unlabelled, progress("supervised"))
    assert seen == [3], "no unlabelled patch is shown where no term reads it"


# stage 2


def test_re_learning_is_its_formula():
    """The only pseudo-label without dropout, noise or passes is the strong network's own probabilities."""
    method, (labelled, unlabelled) = make(strong="t1ce", alpha=(0.1, 0.3), passes=3, noise=0.0), pair()
    for dropout in [m for m in method.teacher.modules() if isinstance(m, nn.Dropout)]:
        dropout.p = 0.0
    reference = copy.deepcopy(method)
    terms = method(labelled, unlabelled, progress(*END))
    pseudo = maps(reference, T1CE, unlabelled)[0].detach()
    for name, m, alpha in (("relearn", FLAIR, 0.1), ("relearn_strong", T1CE, 0.3)):
        p = maps(reference, m, unlabelled)[0]
        expected = alpha * AreaSimilarityContrastiveLoss()(pseudo, p) + (1 - alpha) * fit(p, pseudo)
        torch.testing.assert_close(terms[name], expected, rtol=1e-4, atol=1e-4)


def test_the_pseudo_label_is_the_mean_of_passes_with_noise_and_dropout_of_their_own():
    method, image = make(passes=4), torch.rand(3, 1, 8, 8)
    torch.manual_seed(5)
    expected = torch.stack([method.teacher(method._perturb(image))[:, 1:].sigmoid() for _ in range(4)])
    torch.manual_seed(5)
    torch.testing.assert_close(method._pseudo_labels(image), expected.mean(dim=0))
    assert not torch.equal(expected[0], expected[1])
    method.noise = 0.0
    assert not torch.equal(method._pseudo_labels(image), method._pseudo_labels(image)), "dropout is on"
    assert not method._pseudo_labels(image).requires_grad


def test_the_noise_of_the_teacher_only_brightens_and_is_clipped():
    noise = make()._perturb(torch.zeros(200, 200))
    assert noise.min().item() == 0
    assert noise.max().item() == pytest.approx(0.2)
    assert (noise == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    # E clip(N, 0, 2) = phi(0) - phi(2) + 2 (1 - Phi(2))
    phi = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (0, 2)]
    assert noise.mean().item() == pytest.approx(0.1 * (phi[0] - phi[1] + 2 * 0.02275), rel=0.03)


@pytest.mark.parametrize(("strong", "weak"), [(FLAIR, T1CE), (T1CE, FLAIR)])
def test_the_strong_network_rests_until_its_term_is_wanted(strong, weak):
    """Not run at all: no gradient, and its BatchNorm keeps its statistics."""
    method, (labelled, unlabelled) = make(strong=tiny_contrastive_mutual.CHANNELS[strong]), pair()
    resting, learning = buffers(method.networks[strong]), buffers(method.networks[weak])
    sum(method(labelled, unlabelled, progress(*STAGE_2)).values()).backward()
    assert same(resting, buffers(method.networks[strong]))
    assert not same(learning, buffers(method.networks[weak]))
    assert all(g is None for g in gradients(method, strong))
    assert all(g is not None for g in gradients(method, weak))
    sum(method(labelled, unlabelled, progress(*END)).values()).backward()
    assert not same(resting, buffers(method.networks[strong]))
    assert all(g is not None for g in gradients(method, strong))


def test_the_supervised_term_can_be_kept_in_stage_2():
    method, (labelled, unlabelled) = make(strong="flair"), pair()
    terms = method(labelled, unlabelled, progress("supervised", "relearn"))
    assert list(terms) == ["supervised", "relearn"]


def test_the_teacher_is_frozen_in_stage_2():
    method, (labelled, unlabelled) = make(strong="flair", pool=1), pair()
    for score in (0.5, 0.6):
        method.after_validation({"flair": score, "t1ce": 0.1}, progress(*STAGE_1, step=3))
    method(labelled, unlabelled, progress(*STAGE_2, step=6))
    before = copy.deepcopy(method.teacher.state_dict())
    method.after_validation({"flair": 0.99, "t1ce": 0.1}, progress(*STAGE_2, step=7))
    method(labelled, unlabelled, progress(*END, step=9))
    after = method.teacher.state_dict()
    assert all(torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items())


def test_the_log_says_how_far_stage_2_moved_the_weights(caplog):
    """All weights of the weak network times 1.5: they moved by half of their length."""
    method, (labelled, unlabelled) = make(strong="flair"), pair()
    method(labelled, unlabelled, progress(*STAGE_2, step=8))
    with torch.no_grad():
        for p in method.networks[T1CE].parameters():
            p.mul_(1.5)
    with caplog.at_level(logging.INFO):
        method.after_step(progress(*STAGE_2, step=8))
        assert "moved" not in caplog.text
        method(labelled, unlabelled, progress(*STAGE_2, step=9))
        method.after_step(progress(*STAGE_2, step=9))
    assert "Stage 2 moved the weights by (relative distance): flair 0.00e+00, t1ce 5.00e-01." in caplog.text
    assert method.watch()["moved/t1ce"].item() == pytest.approx(0.5)
    assert method.watch()["moved/flair"].item() == 0


# which modality is the stronger


def chosen(scores, step=1, **settings):
    method = make(**settings)
    method.after_validation(dict(zip(tiny_contrastive_mutual.CHANNELS, scores, strict=True)), staged(step, steps=10))
    return method.strong


def test_the_stronger_modality_is_chosen_by_validation_after_the_warm_up(caplog):
    with caplog.at_level(logging.INFO):
        assert chosen((0.4, 0.5)) == T1CE
    assert "The stronger modality is t1ce (validation Dice: flair 0.400, t1ce 0.500)." in caplog.text
    assert chosen((0.5, 0.4)) == FLAIR
    assert chosen((0.4, 0.5), step=0) is None, "before 10 % of the run"
    assert chosen((math.nan, 0.1)) == T1CE
    assert chosen((math.nan, math.nan)) is None


def test_the_choice_is_made_once():
    method = make()
    for scores in ((0.5, 0.4), (0.4, 0.5)):
        method.after_validation(dict(zip(tiny_contrastive_mutual.CHANNELS, scores, strict=True)), progress(step=2))
    assert method.strong == FLAIR


def test_roles_can_be_named_and_swapped():
    assert chosen((0.4, 0.5), strong="flair") == FLAIR
    assert chosen((0.4, 0.5), strong="swapped") == FLAIR
    assert chosen((0.5, 0.4), strong="swapped") == T1CE


def test_without_validation_the_first_modality_is_taken_and_the_log_says_so(caplog):
    method, (labelled, unlabelled) = make(), pair()
    method(labelled, unlabelled, progress(*STAGE_2))
    assert method.strong == FLAIR
    assert "has shown which modality is the stronger: flair is taken. Name it with --strong." in caplog.text
