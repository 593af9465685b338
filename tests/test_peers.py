"""UA-MT, CPS, URPC, UniMatch and BCP: who sees what, who teaches whom."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import tiny
import torch
from torch import Tensor, nn

from custom.losses import MaskedDiceCELoss, PyramidConsistencyLoss, UncertaintyConsistencyLoss
from custom.methods import (
    BidirectionalCopyPaste,
    CrossPseudoSupervision,
    Method,
    PyramidConsistency,
    UniMatch,
)
from custom.methods.batch import Batch, StrongView
from custom.methods.bcp import largest_components
from custom.methods.halves import UnequalBatches
from custom.methods.schedule import Progress, TermWeights
from custom.stream.mixing import Mix, Paste
from custom.training.trainer import DualStreamTrainer


def progress(method: Method, step: int = 5, **weights: float) -> Progress:
    """Step 5 of 10; all terms, or those that are given."""
    spec = dict.fromkeys(method.terms, 0.0) | weights if weights else dict.fromkeys(method.terms, 1.0)
    return Progress(step, 10, 1, 1, TermWeights(spec, method.terms))


def batches(strong: int = 0) -> tuple[Batch, Batch]:
    torch.manual_seed(3)
    labelled = Batch(torch.rand(2, 1, 16, 16), label=torch.randint(0, 2, (2, 1, 16, 16)))
    image = torch.rand(2, 1, 16, 16)
    views = []
    for number in range(strong):
        mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
        mask[:, :, : 8 + number] = True
        views.append(StrongView(Mix(mask)(image) ** (2 + number), Mix(mask)))
    return labelled, Batch(image, strong=tuple(views))


def watched(network: nn.Module) -> list[Tensor]:
    """Every image that the network sees from now on."""
    seen: list[Tensor] = []
    network.down[0].register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    return seen


def balanced(network: nn.Module, image: Tensor) -> nn.Module:
    """The same network, which calls some of the pixels of the images each class, surely and not."""
    with torch.no_grad():
        network.out.weight.mul_(20)
        network.out.bias.sub_(network(image).mean((0, 2, 3)))
    classes = network(image).argmax(1)
    assert 0 < classes.float().mean() < 1
    return network


# UA-MT


def plain_ua_mt(**settings) -> nn.Module:
    """UA-MT without noise and dropout, so that all passes are one; the teacher's weights differ from the student's."""
    method = tiny.of("ua_mt").method(noise=0.0, passes=3, **settings).eval()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for p in method.teacher.network.parameters():
            p.add_(0.05)
    return method


@pytest.mark.parametrize("teacher_norm", ["batch", "copied"])
def test_ua_mt_without_noise_and_dropout_is_the_loss_of_student_and_teacher(teacher_norm):
    method = plain_ua_mt(teacher_norm=teacher_norm)
    labelled, unlabelled = batches()
    terms = method(labelled, unlabelled, progress(method))
    twin = copy.deepcopy(method.teacher.network)
    for module in twin.modules():
        module.training = isinstance(module, nn.BatchNorm2d) and teacher_norm == "batch"
    q = twin(unlabelled.image).softmax(dim=1)
    share = 0.75 + 0.25 * torch.tensor(-5 * 0.5**2).exp().item()  # half of the run is done
    expected, sure = UncertaintyConsistencyLoss()(method.student(unlabelled.image), q, share)
    torch.testing.assert_close(terms["consistency"], expected)
    assert method.watch()["sure"] == sure.float().mean()


def test_ua_mt_with_strong_views_follows_the_mean_answer_to_the_weak_view_mixed():
    method = plain_ua_mt(view="strong", normalised="apart")
    labelled, unlabelled = batches(strong=1)
    view = unlabelled.strong[0]
    terms = method(labelled, unlabelled, progress(method))
    with method.teacher.by_batch():
        q = view.mixed(method.teacher(unlabelled.image).softmax(dim=1))
    share = 0.75 + 0.25 * torch.tensor(-5 * 0.5**2).exp().item()
    expected, sure = UncertaintyConsistencyLoss()(method.student(view.image), q, share)
    torch.testing.assert_close(terms["consistency"], expected)
    assert method.watch()["sure"] == sure.float().mean()


@pytest.mark.parametrize("teacher_norm", ["batch", "copied"])
def test_the_passes_differ_by_dropout_and_by_noise_and_leave_the_teacher_as_it_was(teacher_norm):
    method = tiny.of("ua_mt").method(teacher_norm=teacher_norm).train()
    dropout = [m for m in method.teacher.network.modules() if isinstance(m, nn.Dropout)]
    before, seen = copy.deepcopy(method.teacher.state_dict()), watched(method.teacher.network)
    modes: list[bool] = []
    dropout[0].register_forward_pre_hook(lambda m, _: modes.append(m.training))
    method(*batches(), progress(method))
    assert modes == [True, True]
    assert not torch.equal(*seen)
    assert not any(m.training for m in method.teacher.modules())
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, method.teacher.state_dict()[name]), name


def test_ua_mt_needs_a_pass_and_a_known_way_to_normalise():
    with pytest.raises(ValueError, match="passes is a number >= 1, got 0"):
        tiny.of("ua_mt").method(passes=0)
    with pytest.raises(ValueError, match=r"teacher_norm is one of \['batch', 'copied'\], got 'own'"):
        tiny.of("ua_mt").method(teacher_norm="own")


# CPS


def test_each_network_learns_the_other_s_classes():
    method = tiny.method("cps").eval()
    labelled, unlabelled = batches()
    for network in method.networks:
        balanced(network, unlabelled.image)
    one, two = (net(unlabelled.image) for net in method.networks)
    terms = method(labelled, unlabelled, progress(method))
    ce = nn.functional.cross_entropy
    torch.testing.assert_close(terms["cross"], ce(one, two.argmax(1)) + ce(two, one.argmax(1)))
    supervised = sum(tiny.supervised_loss()(net(labelled.image), labelled.label) for net in method.networks)
    torch.testing.assert_close(terms["supervised"], supervised)


def test_with_strong_views_the_classes_are_those_of_the_weak_view_mixed():
    method = CrossPseudoSupervision(tiny.network(0), tiny.network(1), tiny.supervised_loss(), view="strong").eval()
    labelled, unlabelled = batches(strong=1)
    assert method.strong_views == 1
    for network in method.networks:
        balanced(network, unlabelled.image)
    view = unlabelled.strong[0]
    y = [view.mixed(net(unlabelled.image).argmax(1)) for net in method.networks]
    z = [net(view.image) for net in method.networks]
    terms = method(labelled, unlabelled, progress(method))
    ce = nn.functional.cross_entropy
    torch.testing.assert_close(terms["cross"], ce(z[0], y[1]) + ce(z[1], y[0]))


def test_cps_refuses_networks_that_start_alike_and_unknown_views():
    with pytest.raises(ValueError, match="start from the same weights"):
        CrossPseudoSupervision(tiny.network(0), tiny.network(0), tiny.supervised_loss())
    with pytest.raises(ValueError, match=r"view is one of .*'noise'"):
        CrossPseudoSupervision(tiny.network(0), tiny.network(1), tiny.supervised_loss(), view="noise")


# URPC


def test_every_scale_is_supervised_and_the_finest_is_the_network_s_own():
    method = tiny.method("urpc").eval()
    labelled, unlabelled = batches()
    answers = method._answers(unlabelled.image)
    assert len(answers) == 2
    torch.testing.assert_close(answers[0], method.network(unlabelled.image))
    terms = method(labelled, unlabelled, progress(method))
    torch.testing.assert_close(terms["pyramid"], PyramidConsistencyLoss()(answers))
    losses = [tiny.supervised_loss()(z, labelled.label) for z in method._answers(labelled.image)]
    torch.testing.assert_close(terms["supervised"], torch.stack(losses).mean())


def test_a_coarse_answer_comes_from_its_own_map_and_no_head_is_served():
    method = tiny.method("urpc").eval()
    _, maps = method.network.features(batches()[1].image)
    expected = nn.functional.interpolate(method.heads[0](maps["e2"]), size=(16, 16), mode="bilinear")
    torch.testing.assert_close(method._answers(batches()[1].image)[1], expected)
    assert not any("heads" in name for name in method.serving()["network"].state_dict())


def test_urpc_needs_two_scales():
    make = partial(PyramidConsistency, tiny.network(), tiny.supervised_loss(), PyramidConsistencyLoss())
    with pytest.raises(ValueError, match="scales 1 of a network with 2: at least two"):
        make((4, 8), 2, scales=1)
    assert make((4, 8, 16, 32, 64), 2).maps == ["d2", "d3", "d4"]
    assert make((4, 8, 16, 32), 2).maps == ["d2", "d3", "e4"]


# UniMatch


def unimatch(**settings) -> UniMatch:
    return UniMatch(tiny.network(), tiny.supervised_loss(), MaskedDiceCELoss(), **settings).eval()


def test_unimatch_without_perturbation_in_closed_form():
    method = unimatch(threshold=0.6, channel_dropout=0.0)
    labelled, unlabelled = batches(strong=2)
    balanced(method.network, unlabelled.image)
    terms = method(labelled, unlabelled, progress(method))
    confidence, y = method.network(unlabelled.image).softmax(1).max(1)
    sure, m = confidence >= 0.6, MaskedDiceCELoss()
    assert 0 < sure.float().mean() < 1
    torch.testing.assert_close(terms["feature"], m(method.network(unlabelled.image), y, sure))
    views = [m(method.network(v.image), v.mixed(y), v.mixed(sure)) for v in unlabelled.strong]
    torch.testing.assert_close(terms["strong"], (views[0] + views[1]) / 2)
    torch.testing.assert_close(
        terms["supervised"], tiny.supervised_loss()(method.network(labelled.image), labelled.label)
    )
    assert not torch.equal(unlabelled.strong[0].image, unlabelled.strong[1].image)


def test_the_feature_view_loses_whole_channels_of_the_unlabelled_maps_alone():
    method, got = unimatch(channel_dropout=0.5), []
    decode = method.network.decode
    method.network.decode = lambda maps: (got.extend(maps), decode(maps))[1]
    method(*batches(strong=2), progress(method, feature=1.0))
    for m in got:
        _, weak, lost = m.split(2)
        empty = lost.flatten(2).abs().sum(-1) == 0
        assert empty.any()
        assert not empty.all()
        torch.testing.assert_close(lost[~empty], 2 * weak[~empty])
    assert len(got) == 2


def without_dropout(method: Method) -> Method:
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return method.train()


@pytest.mark.parametrize(("normalised", "calls"), [("apart", [4, 2]), ("together", [6])])
def test_the_decoder_normalises_maps_that_lost_channels_by_themselves_or_with_the_others(normalised, calls):
    method, got = without_dropout(unimatch(normalised=normalised)), []
    decode = method.network.decode
    method.network.decode = lambda maps: (got.append(len(maps[0])), decode(maps))[1]
    labelled, unlabelled = batches(strong=2)
    found = method(labelled, unlabelled, progress(method, supervised=1.0, feature=1.0))
    assert got == calls
    alone = method(labelled, unlabelled, progress(method, supervised=1.0))["supervised"]
    assert torch.allclose(found["supervised"], alone) == (normalised == "apart")  # no statistics of what lost channels
    assert got == [*calls, 4]


def test_a_feature_view_apart_in_closed_form():
    method = without_dropout(unimatch(normalised="apart", threshold=0.5, channel_dropout=0.5))
    labelled, unlabelled = batches(strong=2)
    twin = copy.deepcopy(method.network)
    maps = twin.encode(torch.cat([labelled.image, unlabelled.image]))
    confidence, y = twin.decode(maps)[2:].softmax(1).max(1)
    torch.manual_seed(7)
    z = twin.decode([torch.feature_dropout(m[2:], 0.5, True) for m in maps])
    torch.manual_seed(7)
    found = method(labelled, unlabelled, progress(method, feature=1.0))["feature"]
    torch.testing.assert_close(found, MaskedDiceCELoss()(z, y, confidence >= 0.5))


def test_pseudo_labels_carry_no_gradient_and_unsure_pixels_teach_nothing():
    method = unimatch(threshold=1.0)
    terms = method(*batches(strong=2), progress(method, strong=1.0, feature=1.0))
    sum(terms.values()).backward()
    assert all(term.item() == 0 for term in terms.values())
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in method.parameters())


@pytest.mark.parametrize("wrong", [{"threshold": 1.2}, {"channel_dropout": 1.0}, {"normalised": "each"}])
def test_unimatch_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        unimatch(**wrong)


# BCP


def fixed(box: Tensor) -> BidirectionalCopyPaste:
    return BidirectionalCopyPaste(tiny.network(), MaskedDiceCELoss(0.5, 0.5), lambda patch, generator: box).eval()


BOX = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
BOX[:, :, 4:12, 2:13] = True


def test_labelled_images_are_pasted_into_each_other_in_the_first_stage():
    method = fixed(BOX)
    seen = watched(method.student)
    labelled, unlabelled = batches()
    terms = method(labelled, unlabelled, progress(method, supervised=1.0))
    expected = torch.where(
        BOX, labelled.image.flip(0), labelled.image
    )  # two in a batch: each one's neighbour is the other
    assert torch.equal(seen[0], expected)
    label = torch.where(BOX, labelled.label.flip(0), labelled.label)[:, 0]
    loss = MaskedDiceCELoss(0.5, 0.5)(method.student(expected), label, torch.ones_like(label).bool())
    torch.testing.assert_close(terms["supervised"], loss)


def test_inward_and_outward_in_closed_form():
    method = fixed(BOX)
    labelled, unlabelled = batches()
    terms = method(labelled, unlabelled, progress(method, inward=1.0, outward=1.0))
    teacher = copy.deepcopy(method.teacher)
    pseudo = largest_components(teacher.teach(torch.cat([labelled.image, unlabelled.image]))[2:].argmax(1))
    loss, inside = MaskedDiceCELoss(0.5, 0.5), BOX[:, 0].expand(2, 16, 16)
    z = method.student(torch.where(BOX, labelled.image, unlabelled.image))
    expected = loss(z, labelled.label[:, 0], inside) + 0.5 * loss(z, pseudo, ~inside)
    torch.testing.assert_close(terms["inward"], expected)
    z = method.student(torch.where(BOX, unlabelled.image, labelled.image.flip(0)))
    expected = loss(z, labelled.label.flip(0)[:, 0], ~inside) + 0.5 * loss(z, pseudo, inside)
    torch.testing.assert_close(terms["outward"], expected)


def test_cases_of_different_modalities_are_not_pasted():
    method = BidirectionalCopyPaste(tiny.network(channels=2), MaskedDiceCELoss(0.5, 0.5), lambda *_: BOX).eval()
    seen = watched(method.student)
    both, one = torch.tensor([True, True]), torch.tensor([True, False])
    labelled = Batch(torch.rand(2, 2, 16, 16), torch.ones(2, 1, 16, 16).long(), present=torch.stack([both, both]))
    unlabelled = Batch(torch.rand(2, 2, 16, 16), present=torch.stack([both, one]))
    method(labelled, unlabelled, progress(method, inward=1.0))
    assert torch.equal(seen[0][0], torch.where(BOX[0], labelled.image[0], unlabelled.image[0]))
    assert torch.equal(seen[0][1], unlabelled.image[1])


def test_the_box_is_a_function_of_seed_and_step():
    drawn = []
    for seed, step in ((0, 5), (0, 5), (0, 6), (1, 5)):
        method = BidirectionalCopyPaste(tiny.network(), MaskedDiceCELoss(0.5, 0.5), Paste(), seed=seed).eval()
        seen = watched(method.student)
        method(*batches(), progress(method, step, supervised=1.0))
        drawn.append(seen[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_of_each_class_the_largest_component_of_each_image_stays():
    image = torch.tensor([[1, 0, 0, 2], [0, 1, 0, 2], [0, 1, 2, 0]])  # corners do not touch
    assert largest_components(image[None])[0].tolist() == [[0, 0, 0, 2], [0, 1, 0, 2], [0, 1, 0, 0]]
    assert largest_components(torch.zeros(1, 3, 3, 3).long()).sum() == 0
    volume = torch.zeros(1, 2, 3, 3).long()
    volume[0, :, 0, 0], volume[0, 0, 2, 2] = 1, 1
    assert largest_components(volume).sum() == 2


@pytest.mark.parametrize("largest", [True, False])
def test_islands_of_the_teacher_s_classes_teach_only_where_they_are_wanted(largest):
    method = BidirectionalCopyPaste(tiny.network(), MaskedDiceCELoss(), Paste(), largest=largest)
    labelled, unlabelled = batches()
    balanced(method.teacher.network, torch.cat([labelled.image, unlabelled.image]))
    method(labelled, unlabelled, progress(method, inward=1.0))
    assert (method.watch()["islands_removed"] > 0) == largest


def test_bcp_needs_as_many_unlabelled_as_labelled_patches():
    method = tiny.method("bcp")
    labelled, unlabelled = batches()
    with pytest.raises(
        UnequalBatches, match=r"2 labelled and 1 unlabelled patches.*Set labelled_batch and unlabelled_batch"
    ):
        method(labelled, Batch(unlabelled.image[:1]), progress(method, inward=1.0))


@pytest.mark.parametrize("patch", [(12, 18), (12, 9, 6)])
def test_the_pasted_box_has_two_thirds_of_each_side(patch):
    assert not Paste(0.0)(patch, torch.Generator()).any()
    mask = Paste(2 / 3)(patch, torch.Generator().manual_seed(0))
    assert mask.shape == (1, 1, *patch)
    where = mask[0, 0].nonzero()
    assert (where.amax(0) - where.amin(0) + 1).tolist() == [2 * side // 3 for side in patch]
    assert mask.sum() == len(where)
    with pytest.raises(ValueError, match="side is a share"):
        Paste(1.0)


@pytest.mark.parametrize(("name", "late"), [("bcp", "inward"), ("task_affinity", "context")])
def test_terms_that_take_patches_in_pairs_say_so_before_the_first_step(name, late):
    method = tiny.method(name)
    weights = {**dict.fromkeys(method.terms, 0.0), "supervised": 1.0, late: {"value": 0.5, "from": 0.9}}
    trainer = tiny.trainer(name, weights=weights)
    trainer.unlabelled.batch = 3
    with pytest.raises(
        UnequalBatches, match=rf"^2 labelled and 3 unlabelled patches in a step: {late} take them in pairs"
    ):
        DualStreamTrainer(
            device="cpu", max_epochs=1, epoch_steps=3, method=method, optimizer=trainer.optimizer, weights=weights, seed=0,
            labelled=trainer.labelled, unlabelled=trainer.unlabelled, validator=trainer.validator, output=None,
        )  # fmt: skip
