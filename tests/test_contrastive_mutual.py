"""Two modalities teach each other, then the stronger one re-teaches the weaker: terms, stages, teacher, missing scans."""

from __future__ import annotations

import copy
import io
import logging
import math

import pytest
import tiny
import tiny_contrastive_mutual
import torch
import yaml
from conftest import ROOT
from torch import nn

from custom.losses import AreaSimilarityContrastiveLoss
from custom.losses.bce_dice import BCEDiceLoss
from custom.methods import ContrastiveMutual
from custom.methods.batch import Batch
from custom.methods.best_model_average import BestModelAverage
from custom.methods.contrastive_mutual import ModalityError
from custom.methods.schedule import Progress, TermWeights
from custom.networks import UNet

TERMS = ContrastiveMutual.terms
FLAIR, T1CE = 0, 1
STAGE_1 = ("supervised", "contrastive", "consistency")
STAGE_2 = ("relearn",)
END = ("relearn", "relearn_strong")


def make(**settings):
    return tiny_contrastive_mutual.method(**settings).train()


def progress(*wanted, step=0, steps=10):
    weights = TermWeights({name: float(name in (wanted or TERMS)) for name in TERMS}, TERMS)
    return Progress(step, steps, 1, 1, weights)


def staged(step, steps=100, begins=0.63):
    """Where a run stands whose stage 2 begins at that fraction of it."""
    return Progress(step, steps, 1, 1, TermWeights({**dict.fromkeys(TERMS, 1.0), "relearn": {"value": 1, "from": begins},
                                                    "relearn_strong": 0}, TERMS))  # fmt: skip


def batch(patches=3, classes=2, present=None, labelled=False, seed=0, dims=2):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(patches, 2, *[8] * dims, generator=generator)
    there = torch.ones(patches, 2, dtype=torch.bool) if present is None else torch.tensor(present, dtype=torch.bool)
    label = torch.randint(classes, (patches, 1, *[8] * dims), generator=generator) if labelled else None
    return Batch(image * there.reshape(patches, 2, *[1] * dims), label, present=there)


def pair(**settings):
    return batch(labelled=True, seed=1, **settings), batch(seed=2, **settings)


def maps(method, m, *batches):
    """Probabilities of each batch, from one forward over all of them."""
    logits = method.networks[m](torch.cat([b.image[:, m : m + 1] for b in batches]))[:, 1:]
    return logits.sigmoid().split([len(b) for b in batches])


def dice_loss(p, y, eps=1e-6):
    return 1 - (2 * (p * y).sum() + eps) / ((p * p).sum() + (y * y).sum() + eps)


def fit(p, y):
    cross_entropy = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return 10 * cross_entropy + 7 * dice_loss(p, y)


def gradients(method, m):
    return [p.grad for p in method.networks[m].parameters()]


def buffers(module):
    return {name: b.clone() for name, b in module.named_buffers()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


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
    """Without dropout, noise or passes there is one pseudo-label: the strong network's own probabilities."""
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
    assert "has told which modality is the stronger: flair is taken. Name it with --strong." in caplog.text


# the teacher


def line(value, buffer=0.0):
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Dropout(0.5), nn.BatchNorm1d(1))
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(value)
        network[2].running_mean.fill_(buffer)
    return network


def test_the_teacher_in_closed_form():
    """A pool of .70 to .75; .80 gives rho = .70 / .80 = .875, then .711 against .71 gives the bound .99."""
    teacher = BestModelAverage(line(0.0))
    for score in (0.70, 0.71, 0.72, 0.73, 0.74, 0.75):
        teacher.see(score, line(5.0))
        assert teacher.network[0].weight.tolist() == [[0.0, 0.0]], "it waits for a full pool"
    teacher.see(0.9, line(8.0))
    assert teacher.network[0].weight.tolist() == [[8.0, 8.0]], "copied"
    assert max(teacher.pool) == 0.75, "the score of the copy does not enter the pool"
    teacher.see(0.80, line(0.0))
    torch.testing.assert_close(teacher.network[0].weight, torch.full((1, 2), 7.0))
    assert sorted(teacher.pool) == [0.71, 0.72, 0.73, 0.74, 0.75, 0.80]
    teacher.see(0.711, line(0.0))
    torch.testing.assert_close(teacher.network[0].weight, torch.full((1, 2), 0.99 * 7.0))
    teacher.see(0.711, line(0.0))
    torch.testing.assert_close(teacher.network[0].weight, torch.full((1, 2), 0.99 * 7.0))
    assert sorted(teacher.pool) == [0.711, 0.72, 0.73, 0.74, 0.75, 0.80], "no better than the least: nothing happens"


def test_with_batch_statistics_a_forward_pass_leaves_no_trace_in_the_teacher():
    teacher = BestModelAverage(line(1.0), norm="batch")
    teacher.copy(line(1.0, buffer=9.0))
    before = copy.deepcopy(teacher.state_dict())
    teacher.network[1].p = 0.0
    out = teacher(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    # (3, 7) normalised is (-1, 1), times 1 plus 1
    torch.testing.assert_close(out, torch.tensor([[0.0], [2.0]]), atol=1e-3, rtol=0)
    assert not any("running" in name for name in before)
    assert same(*[{k: v for k, v in s.items() if isinstance(v, torch.Tensor)} for s in (before, teacher.state_dict())])


def test_with_averaged_statistics_they_follow_as_the_weights_do():
    teacher = BestModelAverage(line(0.0), size=1, norm="averaged")
    teacher.see(0.4, line(0.0))
    teacher.see(0.5, line(1.0, buffer=8.0))
    assert teacher.network[2].running_mean.item() == 8.0
    teacher.see(0.5, line(1.0, buffer=0.0))  # rho = .4 / .5
    assert teacher.network[2].running_mean.item() == pytest.approx(0.8 * 8.0)
    teacher(torch.rand(4, 2))
    assert teacher.network[2].running_mean.item() == pytest.approx(0.8 * 8.0)


@pytest.mark.parametrize("norm", ["batch", "averaged"])
def test_the_dropout_of_the_teacher_is_on_whatever_its_owner_does(norm):
    method = make(teacher_norm=norm).eval()
    modes = {type(m).__name__: m.training for m in method.teacher.modules()}
    assert modes["Dropout"]
    assert modes["BatchNorm2d"] == (norm == "batch")


def test_validations_fill_the_pool_from_12_percent_of_the_run_on():
    method, step = make(strong="t1ce"), 10
    for score in (0.1, 0.2, 0.3):
        method.after_validation({"flair": 0.9, "t1ce": score}, staged(step))
        step += 1
    assert method.teacher.pool == [0.3], "of the strong modality; .10 and .11 of the run were too early"
    method.after_validation({"flair": 0.9, "t1ce": math.nan}, staged(20))
    assert method.teacher.pool == [0.3]


def test_the_teacher_follows_the_network_of_the_strong_modality():
    method = make(strong="t1ce", pool=1)
    for score in (0.5, 0.6):
        method.after_validation({"flair": 0.9, "t1ce": score}, progress(step=3))
    for mine, its in zip(method.teacher.network.parameters(), method.networks[T1CE].parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_pool_that_is_not_full_at_the_switch_is_said_and_the_network_of_then_teaches(caplog):
    method, (labelled, unlabelled) = make(strong="t1ce"), pair()
    method.after_validation({"flair": 0.5, "t1ce": 0.5}, progress(step=3))
    method(labelled, unlabelled, progress(*STAGE_2))
    assert "the teacher's pool is full (1 of 6 validations, and one more): the teacher is the network of t1ce as it is " \
        "now" in caplog.text  # fmt: skip
    for mine, its in zip(method.teacher.network.parameters(), method.networks[T1CE].parameters(), strict=True):
        assert torch.equal(mine, its)
    assert method.teacher.network.channel.item() == T1CE


def test_a_teacher_is_not_trained():
    method = make()
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    assert trained == {id(p) for p in method.networks.parameters()}


def test_stages_pool_and_choice_are_part_of_a_state_of_plain_types():
    method, (labelled, unlabelled) = make(pool=1), pair()
    for score in (0.5, 0.6):
        method.after_validation({"flair": 0.4, "t1ce": score}, progress(step=3))
    method(labelled, unlabelled, progress(*STAGE_2, step=7))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    again = make(pool=1)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.strong, again.switched, again.teacher.pool, again.teacher.started) == (T1CE, True, [0.5], True)
    assert torch.equal(again.weights_at_switch, method.weights_at_switch)
    torch.manual_seed(3)
    a = method(labelled, unlabelled, progress(*END, step=9))
    torch.manual_seed(3)
    b = again(labelled, unlabelled, progress(*END, step=9))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


# missing modalities


def test_supervision_is_by_the_patches_that_have_the_modality():
    method = make()
    labelled = batch(4, labelled=True, present=[[1, 1], [1, 0], [0, 1], [1, 0]])
    reference = copy.deepcopy(method)
    found = method(labelled, Batch(torch.zeros(0, 2, 8, 8)), progress("supervised"))["supervised"]
    y, expected = labelled.label.float(), 0.0
    for m, rows in ((FLAIR, [0, 1, 3]), (T1CE, [0, 2])):
        p = reference.networks[m](labelled.image[rows, m : m + 1])[:, 1:].sigmoid()
        expected = expected + fit(p, y[rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_compares_modalities_takes_the_pairs_that_are_complete():
    present = [[1, 1], [1, 0], [1, 1], [0, 1]]
    method = make(strong="t1ce", noise=0.0, passes=1)
    labelled, unlabelled = batch(labelled=True), batch(4, present=present)
    method.teacher.forward = lambda x: torch.cat([torch.zeros_like(x), 5 * x], dim=1)  # every pixel by itself
    complete = Batch(unlabelled.image[[0, 2]])
    reference = copy.deepcopy(method)
    terms = method(labelled, unlabelled, progress("contrastive", "consistency", "relearn"))
    assert method.watch()["pairs"].item() == 0.5
    expected = reference(labelled, complete, progress("contrastive", "consistency", "relearn"))
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_the_strong_modality_re_learns_from_every_patch_that_has_it():
    present = [[1, 1], [1, 0], [0, 1]]
    method, unlabelled = make(strong="t1ce", noise=0.0, passes=1), batch(3, present=present)
    method.teacher.forward = lambda x: torch.cat([torch.zeros_like(x), 5 * x], dim=1)
    reference = copy.deepcopy(method)
    terms = method(batch(labelled=True), unlabelled, progress(*END))
    for name, m, rows in (("relearn", FLAIR, [0]), ("relearn_strong", T1CE, [0, 2])):
        p = reference.networks[m](unlabelled.image[rows, m : m + 1])[:, 1:].sigmoid()
        pseudo = (5 * unlabelled.image[rows, T1CE : T1CE + 1]).sigmoid()
        contrast = AreaSimilarityContrastiveLoss()(pseudo, p) if len(rows) > 1 else 0.0  # one image has no negatives
        torch.testing.assert_close(terms[name], 0.1 * contrast + 0.9 * fit(p, pseudo), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("present", [[[1, 0], [1, 0]], [[1, 1], [1, 0]]])
def test_fewer_than_two_pairs_have_no_contrast_and_the_run_goes_on(present):
    method, unlabelled = make(), batch(2, present=present)
    terms = method(batch(labelled=True), unlabelled, progress(*STAGE_1))
    assert terms["contrastive"].item() == 0
    assert (terms["consistency"].item() == 0) == (present[0] == [1, 0])
    sum(terms.values()).backward()


@pytest.mark.parametrize("wanted", [("contrastive",), ("consistency",), ("relearn",), END])
def test_a_batch_without_any_pair_costs_nothing_and_can_be_back_propagated(wanted):
    method, unlabelled = make(strong="flair"), batch(2, present=[[0, 1], [0, 1]])
    terms = method(batch(labelled=True), unlabelled, progress(*wanted))
    assert all(term.item() == 0 for term in terms.values())
    sum(terms.values()).backward()


def test_the_strong_modality_re_learns_where_no_patch_has_the_weak_one():
    method, unlabelled = make(strong="t1ce"), batch(2, present=[[0, 1], [0, 1]])
    terms = method(batch(labelled=True), unlabelled, progress(*END))
    assert terms["relearn"].item() == 0
    assert terms["relearn_strong"].item() > 0
    sum(terms.values()).backward()


def test_a_network_whose_modality_no_patch_has_is_not_run():
    method = make()
    before = buffers(method.networks[T1CE])
    labelled = batch(2, labelled=True, present=[[1, 0], [1, 0]])
    method(labelled, Batch(torch.zeros(0, 2, 8, 8)), progress("supervised"))["supervised"].backward()
    assert same(before, buffers(method.networks[T1CE]))
    assert all(g is None for g in gradients(method, T1CE))


def test_training_from_scans_that_lack_a_modality_goes_to_its_end():
    """Every second scan of each part lacks one of the two."""
    trainer = tiny.trainer("contrastive_mutual")
    for stream in (trainer.labelled, trainer.unlabelled):
        for number, entry in enumerate(stream.bank.data):
            if number % 2:
                entry["image"] = {"flair": entry["image"]["flair"]}
    trainer.run()
    assert trainer.step == trainer.steps
    assert trainer.state.metrics["watch/pairs"] < 1


# limits


def test_one_patch_a_batch_is_refused_for_the_contrast_alone():
    method, labelled = make(strong="flair"), batch(1, labelled=True)
    with pytest.raises(ModalityError, match=r"batch of 1 patch, expected at least 2\. Raise --unlabelled_batch"):
        method(labelled, batch(1), progress(*STAGE_1))
    terms = method(labelled, batch(1), progress("supervised", "consistency", *END))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()


def test_a_labelled_batch_without_foreground_and_classes_that_never_occur_are_learnt_from():
    method, unlabelled = make(classes=12, strong="flair"), batch()
    labelled = Batch(torch.rand(2, 2, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.long))
    terms = method(labelled, unlabelled, progress(*TERMS))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert all(g.isfinite().all() for m in (FLAIR, T1CE) for g in gradients(method, m))


def test_without_unlabelled_scans_both_modalities_train_on_the_labelled_ones_to_the_end():
    trainer = tiny.trainer("contrastive_mutual", unlabelled=0)
    trainer.run()
    assert trainer.step == trainer.steps
    assert trainer.state.metrics["term/supervised"] > 0


@pytest.mark.parametrize("channels", [["image"], ["red", "green", "blue"]])
def test_a_task_of_other_than_two_modalities_is_refused_and_tasks_that_fit_are_named(channels):
    nets = [tiny_contrastive_mutual.network(0, i) for i in range(3)]
    with pytest.raises(ModalityError) as error:
        ContrastiveMutual(*nets, channels, BCEDiceLoss(), AreaSimilarityContrastiveLoss())
    text = str(error.value)
    assert f"found {len(channels)} ({', '.join(channels)}), expected 2" in text
    tasks = {path: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "custom/tasks").glob("*.yaml"))}
    for path, task in tasks.items():
        assert (f"scripts/tasks/{path.name}" in text) == (len(task["channels"]) == 2), path


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"strong": "t1c"}, r"strong: found 't1c', expected one of .*'t1ce'\] \(did you mean 't1ce'\?\)"),
        ({"alpha": [0.1]}, r"alpha is two numbers in \[0, 1\], one a modality, got \[0.1\]"),
        ({"alpha": [0.1, 2]}, "alpha is two numbers"),
        ({"pool": 0}, "the pool holds at least one score, got 0"),
        ({"teacher_norm": "running"}, r"teacher_norm is one of \['batch', 'averaged'\], got 'running'"),
    ],
)
def test_wrong_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        make(**settings)


def test_networks_of_different_shapes_are_refused():
    nets = [tiny_contrastive_mutual.network(0, i) for i in range(2)] + [UNet(2, 1, 1, widths=(4, 16), dropout=0.0)]
    with pytest.raises(ValueError, match="all three need one shape"):
        ContrastiveMutual(*nets, ["a", "b"], BCEDiceLoss(), AreaSimilarityContrastiveLoss())


# what it serves and shows


def test_each_network_serves_under_the_name_of_its_modality_in_the_order_of_the_task():
    for strong in ("flair", "t1ce"):
        method = make(strong=strong)
        assert list(method.serving()) == ["flair", "t1ce"]
        assert [net.channel.item() for net in method.serving().values()] == [FLAIR, T1CE]


def test_each_file_fits_the_definition_of_the_first_network():
    method, image = make().eval(), torch.rand(1, 2, 8, 8)
    definition = tiny_contrastive_mutual.network(0, 7).eval()
    for network in method.serving().values():
        definition.load_state_dict(network.state_dict())
        assert torch.equal(definition(image), network(image))


def test_weights_to_start_from_do_not_change_which_modality_a_network_reads():
    method = make()
    method.networks[FLAIR].load_state_dict(method.networks[T1CE].state_dict())
    method.begin()
    assert [net.channel.item() for net in method.networks] == [FLAIR, T1CE]


def test_what_is_watched_is_measured():
    method, (labelled, unlabelled) = make(strong="flair"), pair()
    method(labelled, unlabelled, progress(*STAGE_1))
    watched = method.watch()
    assert set(watched) == {"pairs", "similarity/positive", "similarity/negative", "contrastive/plateau"}
    u1, u2 = (maps(method, m, labelled, unlabelled)[1] for m in (0, 1))
    s = AreaSimilarityContrastiveLoss().similarities(u1, u2)
    counterparts = [s[i, (i + 3) % 6].item() for i in range(6)]
    rest = [s[i, k].item() for i in range(6) for k in range(6) if k not in (i, (i + 3) % 6)]
    assert watched["similarity/positive"].item() == pytest.approx(sum(counterparts) / 6, abs=1e-5)
    assert watched["similarity/negative"].item() == pytest.approx(sum(rest) / 24, abs=1e-5)
    assert watched["contrastive/plateau"].item() == pytest.approx(math.log(5))
    method(labelled, unlabelled, progress(*STAGE_2))
    assert set(method.watch()) == {"pairs", "pseudo_foreground", "moved/flair", "moved/t1ce"}
    assert all(not value.requires_grad for value in {**watched, **method.watch()}.values())


def test_half_precision_forward_passes_give_terms_in_single():
    method, (labelled, unlabelled) = make(strong="flair"), pair()
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(labelled, unlabelled, progress(*TERMS))
    assert {term.dtype for term in terms.values()} == {torch.float32}


@pytest.mark.parametrize(("begins", "chosen", "seen"), [(0.63, 10, 12), (0.315, 5, 6)])
def test_choice_and_teacher_follow_the_window_of_the_second_stage(begins, chosen, seen):
    """As published, epochs 8 and 10 of a stage of 51: at 0.1 and 0.12 of a run whose stage 2 begins at 0.63."""
    made, strong, pool = make(), [], []
    for step in range(20):
        made.after_validation(dict(zip(made.channels, (0.5, 0.6), strict=True)), staged(step, begins=begins))
        strong.append(made.strong)
        pool.append(len(made.teacher.pool))
    assert strong.index(1) == chosen
    assert next(step for step, count in enumerate(pool) if count) == seen
