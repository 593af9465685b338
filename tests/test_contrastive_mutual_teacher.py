"""Contrastive mutual learning: the teacher of the second stage, and what is served and shown."""

from __future__ import annotations

import copy
import io
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
    TERMS,
    make,
    maps,
    pair,
    progress,
    same,
    staged,
)
from saying import says
from torch import nn

from custom.losses import AreaSimilarityContrastiveLoss
from custom.methods.best_model_average import BestModelAverage

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
    says(caplog.text, "the teacher's pool is full", "1 of 6 validations", "the teacher is the network of t1ce")
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


# what it serves and shows


def test_each_network_serves_under_the_name_of_its_modality_in_the_order_of_the_task():
    for strong in ("flair", "t1ce"):
        method = make(strong=strong)
        assert list(method.serving()) == ["flair", "t1ce"]
        assert [net.channel.item() for net in method.serving().values()] == [FLAIR, T1CE]


def test_the_averages_serve_and_become_the_teacher():
    method = make(strong="flair", serve="average", ema_decay=0.5)
    method.begin()
    with torch.no_grad():
        for p in method.networks.parameters():
            p.add_(1.0)
    method.after_step(progress(*STAGE_1, step=0))
    with torch.no_grad():
        for p in method.networks.parameters():
            p.add_(1.0)
    method.after_step(progress(*STAGE_1, step=1))
    for network, average in zip(method.networks, method.serving().values(), strict=True):
        for p, q in zip(network.parameters(), average.parameters(), strict=True):
            torch.testing.assert_close(q, p - 0.5)
    assert [net.channel.item() for net in method.serving().values()] == [FLAIR, T1CE]
    method.teacher.copy(method._served[FLAIR])
    theirs = dict(method.averages[FLAIR].network.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in method.teacher.network.named_parameters())


@pytest.mark.parametrize("serve", ["average", "network"])
def test_the_teacher_of_stage_2_follows_what_serves(serve):
    method = make(strong="flair", serve=serve, pool=1)
    served = dict(zip(("network", "average"), (method.networks[FLAIR], method.averages[FLAIR].network), strict=True))
    with torch.no_grad():
        for p in method.averages.parameters():
            p.add_(1.0)
    for score in (0.1, 0.2):
        method.after_validation({"flair": score, "t1ce": 0.0}, staged(50))
    theirs = dict(served[serve].named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in method.teacher.network.named_parameters())


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
    """Epochs 8 and 10 of a stage of 51, as published, are 0.1 and 0.12 of a run whose stage 2 begins at 0.63."""
    made, strong, pool = make(), [], []
    for step in range(20):
        made.after_validation(dict(zip(made.channels, (0.5, 0.6), strict=True)), staged(step, begins=begins))
        strong.append(made.strong)
        pool.append(len(made.teacher.pool))
    assert strong.index(1) == chosen
    assert next(step for step, count in enumerate(pool) if count) == seen
