"""The strong, mixed view in the methods of the papers: who sees it, and where its targets come from."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from contrastive_batches import batch, fit, make, progress
from test_peers import batches
from test_peers import progress as of

from custom.methods import CoarseRefined, MovingAverage
from custom.methods.batch import Batch, StrongView
from custom.stream.mixing import Mix


def coarse_refined(view: str) -> CoarseRefined:
    method = tiny.method("coarse_refined")
    names = ("network", "supervised", "ranked", "head", "intra", "inter")
    return CoarseRefined(**{name: getattr(method, name) for name in names}, view=view).eval()


def moved(average: MovingAverage) -> MovingAverage:
    """An average of other weights than the network's, as it is within a run."""
    with torch.no_grad():
        for p in average.network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return average


def taught(average: MovingAverage, *batches: Batch) -> torch.Tensor:
    """The logits of a copy by the statistics of these patches, dropout off; of the last batch."""
    copied = copy.deepcopy(average)
    return copied.teach(torch.cat([batch.image for batch in batches]))[-len(batches[-1]) :]


def test_both_answers_on_the_strong_view_follow_the_average_s_refined_one_of_the_weak_view():
    method = coarse_refined("strong")
    labelled, unlabelled = batches(strong=1)
    view = unlabelled.strong[0]
    q = view.mixed(taught(moved(method.average), labelled, unlabelled).softmax(1))
    term = method(labelled, unlabelled, of(method, consistency=1.0))["consistency"]
    coarse, refined, _ = method.network.features(view.image)
    expected = sum(((z.softmax(1) - q) ** 2).sum(1).mean() for z in (coarse, refined)) / 2
    torch.testing.assert_close(term, expected)


def test_the_target_of_the_strong_view_has_no_gradient():
    method = coarse_refined("strong")
    labelled, unlabelled = batches(strong=1)
    grads = []
    for scale in (1.0, 0.0):  # the weak view's own path: cut, the gradient is the same
        method.zero_grad()
        image = unlabelled.image.clone().requires_grad_()
        method(labelled, Batch(image, strong=unlabelled.strong), of(method, consistency=1.0))["consistency"].backward()
        assert image.grad is None, scale
        grads.append([p.grad.clone() for p in method.network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_what_the_average_says_of_the_weak_view_is_learnt_on_the_strong_view():
    method = tiny.method("task_affinity").eval()
    labelled, unlabelled = batches(strong=1)
    logits = taught(moved(method.average), labelled, unlabelled)
    seen = []
    method.network.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    term = method(labelled, unlabelled, of(method, pseudo=1.0))["pseudo"]
    view = unlabelled.strong[0]
    assert torch.equal(seen[-1], view.image)
    distance = method.network(view.image).sigmoid() - view.mixed(logits.sigmoid())
    torch.testing.assert_close(term, distance.square().sum(1).mean())
    assert method.watch()["pseudo_foreground"] == (logits.argmax(1) > 0).float().mean()


def test_each_modality_follows_the_average_of_the_other_on_its_strong_view():
    """The last patch lacks a modality: no network is asked about it, and no box shows it."""
    method = make(view="strong").eval()
    labelled = batch(labelled=True, present=[[1, 1], [1, 0], [1, 1]], seed=1)
    unlabelled = batch(patches=4, present=[[1, 1], [1, 1], [1, 1], [1, 0]], seed=2)
    mask = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    mask[1:3, :, :4] = True
    view = StrongView(Mix(mask)(unlabelled.image) ** 2, Mix(mask))
    unlabelled.strong = (view,)
    weak = []
    for m, average in enumerate(method.averages):
        there = labelled.image[labelled.present[:, m], m : m + 1]
        images = torch.cat([there, unlabelled.image[:3, m : m + 1]])
        logits = copy.deepcopy(moved(average)).teach(images)[len(there) :, 1:]
        weak.append(torch.cat([logits.sigmoid(), torch.zeros_like(logits[:1])]))
    ours = [net(view.image[:3, m : m + 1])[:, 1:].sigmoid() for m, net in enumerate(method.networks)]
    term = method(labelled, unlabelled, progress("consistency"))["consistency"]
    expected = sum(fit(ours[m], view.mixed(weak[1 - m])[:3]) for m in (0, 1)) / 2
    torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-4)


def test_networks_are_not_run_on_weak_views_that_no_term_needs():
    method, seen = make(view="strong"), []
    unlabelled = batch(seed=2)
    unlabelled.strong = (StrongView(unlabelled.image + 1),)
    for network in method.networks:
        network.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    method(batch(labelled=True, seed=1), unlabelled, progress("consistency"))
    assert [torch.equal(x, unlabelled.image[:, m : m + 1] + 1) for m, x in enumerate(seen)] == [True, True]


def test_without_a_pair_there_is_nothing_to_follow():
    method = make(view="strong")
    unlabelled = batch(present=[[1, 0], [0, 1], [1, 0]], seed=2)
    unlabelled.strong = (StrongView(unlabelled.image),)
    term = method(batch(labelled=True, seed=1), unlabelled, progress("consistency"))["consistency"]
    term.backward()
    assert term.item() == 0


def test_unknown_views_are_refused():
    with pytest.raises(ValueError, match="view is 'strong' or 'weak', got 'hard'"):
        coarse_refined("hard")


@pytest.mark.parametrize(
    ("name", "changed", "views"),
    [
        ("task_affinity", {}, 1),
        ("task_affinity", {"pseudo": 0.0}, 0),
        ("task_affinity", {"pseudo": {"value": 1.0, "from": 0.9}}, 1),  # so that a window moves no random number
        ("unimatch", {}, 2),
        ("unimatch", {"feature": 0.0}, 2),
        ("unimatch", {"strong": 0.0}, 0),
    ],
)
def test_strong_views_are_drawn_in_a_run_in_which_a_term_reads_them(name, changed, views):
    trainer = tiny.trainer(name, weights={**tiny.weights(name), **changed})
    _, unlabelled = trainer._draw()
    assert len(unlabelled) == 2
    assert len(unlabelled.strong) == views
    assert set(trainer.method(*trainer._draw(), trainer.progress())) == set(trainer._wanted_terms(trainer.progress()))
