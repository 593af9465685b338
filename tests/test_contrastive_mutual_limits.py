"""Contrastive mutual learning where patches lack a modality, and at other limits."""

from __future__ import annotations

import copy

import pytest
import tiny
import tiny_contrastive_mutual
import torch
import yaml
from conftest import ROOT
from contrastive_batches import (
    END,
    FLAIR,
    STAGE_1,
    T1CE,
    TERMS,
    batch,
    buffers,
    fit,
    gradients,
    make,
    progress,
    same,
)

from custom.losses import AreaSimilarityContrastiveLoss
from custom.losses.bce_dice import BCEDiceLoss
from custom.methods import ContrastiveMutual
from custom.methods.batch import Batch
from custom.methods.contrastive_mutual import ModalityError
from custom.networks import UNet

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
        ({"view": "hard"}, r"view is one of \['strong', 'weak'\], got 'hard'"),
        ({"contrast": "some"}, r"contrast is one of \['objects', 'all'\], got 'some'"),
        ({"serve": "flair"}, r"serve is one of \['average', 'network'\], got 'flair'"),
        ({"ema_decay": 1.0}, r"decay is in \[0, 1\), got 1.0"),
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
