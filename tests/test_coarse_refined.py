"""Coarse-refined consistency with ranked losses: its terms in closed form, what they move, and its limits."""

from __future__ import annotations

import copy

import pytest
import tiny
import tiny_coarse_refined
import torch
from saying import raises
from torch.nn.functional import normalize

from custom.errors import UserError
from custom.losses import RankedListLoss
from custom.losses.patches import InterPatch, IntraPatch
from custom.methods import CoarseRefined
from custom.methods.batch import Batch
from custom.methods.coarse_refined import PixelHead
from custom.methods.schedule import Progress, TermWeights
from custom.networks import Cascade, UNet
from custom.seeds import derive

TERMS = CoarseRefined.terms


def progress(*wanted, step=3):
    spec = dict.fromkeys(TERMS, 0.0) | dict.fromkeys(wanted or TERMS, 1.0)
    return Progress(step, 10, 1, 1, TermWeights(spec, TERMS))


def batches():
    streams = tiny.trainer("coarse_refined")
    return streams.labelled.draw(), streams.unlabelled.draw()


def method(**settings) -> CoarseRefined:
    return tiny_coarse_refined.method(**settings).eval()  # without dropout, so that a second forward gives the same


def grown(module):
    """Which parameters got a gradient that is not 0."""
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()]


# the terms


def test_supervised_is_the_sum_over_both_networks():
    made, (labelled, unlabelled) = method(), batches()
    term = made(labelled, unlabelled, progress())["supervised"]
    coarse, refined, _ = made.network.features(labelled.image)
    loss = tiny.supervised_loss()
    torch.testing.assert_close(term, loss(coarse, labelled.label) + loss(refined, labelled.label))


@pytest.mark.parametrize("target", ["none", "refined"])
def test_consistency_is_the_mean_squared_distance_on_unlabelled_images(target):
    made, (labelled, unlabelled) = method(target=target), batches()
    term = made(labelled, unlabelled, progress())["consistency"]
    p, q = (z.softmax(dim=1) for z in made.network.features(unlabelled.image)[:2])
    torch.testing.assert_close(term, (p - q).square().sum() / p.numel(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("target", "detach", "coarse", "refined"),
    [("none", False, True, True), ("none", True, True, True), ("refined", False, True, False)],
)
def test_what_consistency_moves(target, detach, coarse, refined):
    made, (labelled, unlabelled) = method(target=target), batches()
    made.network.detach = detach
    made(labelled, unlabelled, progress())["consistency"].backward()
    assert any(grown(made.network.coarse)) is coarse
    assert any(grown(made.network.refined)) is refined
    assert not any(grown(made.head))


def by_hand(made, image):
    """``(B * V, D)`` embeddings of length 1 of all voxels."""
    features = made.network.features(image)[2]
    return normalize(made.head(features.movedim(1, -1).flatten(0, -2)), dim=1)


def test_intra_is_the_mean_over_boundary_patches():
    made, (labelled, unlabelled) = method(), batches()
    term = made(labelled, unlabelled, progress())["intra"]
    gallery = IntraPatch(tile=4, pixels=4)(labelled.label, torch.Generator().manual_seed(derive(0, 3, "intra")))
    everything, start, costs = by_hand(made, labelled.image), 0, []
    for labels in gallery.labels:
        labels = labels[labels >= 0]
        rows = everything[gallery.positions[start : start + len(labels)]]
        start += len(labels)
        costs.append(RankedListLoss()(rows, labels))
    assert len(costs) > 3
    torch.testing.assert_close(term, torch.stack(costs).mean())


def test_inter_is_one_gallery_of_the_mean_embeddings_of_patches():
    made, (labelled, unlabelled) = method(), batches()
    term = made(labelled, unlabelled, progress())["inter"]
    gallery = InterPatch(tile=4)(labelled.label, torch.Generator().manual_seed(derive(0, 3, "inter")))
    owner = gallery.filled.nonzero()[:, 0]
    everything = by_hand(made, labelled.image)
    means = [everything[gallery.positions[owner == g]].mean(dim=0) for g in range(len(gallery.labels))]
    assert len(means) > 3
    torch.testing.assert_close(term, RankedListLoss()(normalize(torch.stack(means), dim=1), gallery.labels))


@pytest.mark.parametrize("term", ["intra", "inter"])
def test_ranked_terms_move_both_networks_and_the_head(term):
    made, (labelled, unlabelled) = method(), batches()
    made(labelled, unlabelled, progress())[term].backward()
    assert any(grown(made.network.coarse))
    assert any(grown(made.network.refined))
    assert any(grown(made.head))
    assert not any(grown(made.network.refined.out)), "the last decoder map lies before the logits"


@pytest.mark.parametrize("term", ["intra", "inter"])
def test_what_is_sampled_follows_from_seed_and_step(term):
    labelled, unlabelled = batches()

    def cost(seed, step):
        made = method(seed=seed)
        made.inter.tile, made.intra.pixels = 2, 1
        return made(labelled, unlabelled, progress(step=step))[term].item()

    assert cost(0, 3) == cost(0, 3)
    assert cost(0, 3) != cost(0, 4)
    assert cost(0, 3) != cost(1, 3)


def test_both_ranked_terms_are_what_they_are_alone():
    """The mode is evaluation, so that BatchNorm has no part in it."""
    made, (labelled, unlabelled) = method(), batches()
    together = made(labelled, unlabelled, progress())
    for term in ("intra", "inter"):
        torch.testing.assert_close(made(labelled, unlabelled, progress(term))[term], together[term])


def test_an_unwanted_term_is_not_computed():
    made, (labelled, _) = method(), batches()
    made.head.forward = made.ranked.forward = made._consistency = None  # a call would fail
    empty = tiny.trainer("coarse_refined").labelled.empty()
    assert list(made(labelled, empty, progress("supervised"))) == ["supervised"]


def test_only_wanted_terms_are_returned():
    made, (labelled, unlabelled) = method(), batches()
    for wanted in (("supervised", "inter"), ("consistency", "intra"), TERMS):
        assert tuple(made(labelled, unlabelled, progress(*wanted))) == wanted


def test_under_autocast_the_terms_are_float32():
    made, (labelled, unlabelled) = method(), batches()
    exact = made(labelled, unlabelled, progress())
    with torch.autocast("cpu", torch.bfloat16):
        terms = made(labelled, unlabelled, progress())
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, exact[name], rtol=0.1, atol=0.02)


# the coarse network alone


def test_the_coarse_network_alone_trains_and_serves():
    made, (labelled, unlabelled) = method(networks="coarse"), batches()
    terms = made(labelled, unlabelled, progress("supervised"))
    expected = tiny.supervised_loss()(made.network.coarse(labelled.image), labelled.label)
    assert list(terms) == ["supervised"]
    torch.testing.assert_close(terms["supervised"], expected)
    terms["supervised"].backward()
    assert any(grown(made.network.coarse))
    assert not any(grown(made.network.refined))
    served = made.serving()
    assert list(served) == ["average", "coarse"]
    assert torch.equal(served["coarse"](labelled.image), made.network.coarse(labelled.image))
    assert torch.equal(served["average"](labelled.image), made.average.network.coarse(labelled.image))
    assert list(method(networks="coarse", serve="refined").serving()) == ["coarse", "average"]
    assert list(made.watch()) == ["foreground/coarse"]


def test_the_coarse_network_alone_refuses_terms_of_the_other_from_the_first_step_on():
    weights = TermWeights({"supervised": 1, "consistency": 0, "intra": {"value": 0.1, "from": 0.5}, "inter": 0}, TERMS)
    found = ("networks is 'coarse'", "['intra'] need the refined network")
    with raises(UserError, *found, "set weights::intra to 0", "networks to 'both'"):
        method(networks="coarse")(*batches(), Progress(0, 10, 1, 1, weights))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"networks": "refined"}, "networks is 'both' or 'coarse', got 'refined'"),
        ({"target": "coarse"}, "target is 'none' or 'refined', got 'coarse'"),
        ({"serve": "coarse"}, r"serve is one of \['average', 'refined'\], got 'coarse'"),
    ],
)
def test_wrong_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        method(**settings)


# state, serving, what is watched


@pytest.mark.parametrize(("serve", "order"), [
    ("average", ["average", "refined", "coarse"]), ("refined", ["refined", "average", "coarse"])
])  # fmt: skip
def test_the_refined_answer_of_the_average_serves_and_those_of_the_networks_stand_beside(serve, order):
    made, (labelled, _) = method(serve=serve), batches()
    served = made.serving()
    assert list(served) == order
    with torch.no_grad():
        for p in made.network.parameters():
            p.add_(0.1)
    coarse, refined, _ = made.network.features(labelled.image)
    assert torch.equal(served["average"](labelled.image), made.average.network.features(labelled.image)[1])
    assert not torch.equal(served["average"](labelled.image), refined)
    assert torch.equal(served["refined"](labelled.image), refined)
    assert torch.equal(served["coarse"](labelled.image), coarse)


def test_no_head_is_served_and_both_files_load_into_a_bare_cascade():
    made = method()
    for network in made.serving().values():
        tiny_coarse_refined.cascade().load_state_dict(network.state_dict(), strict=True)
    assert any(name.startswith("head.") for name in made.state_dict())


def test_a_run_that_starts_from_a_coarse_answer_serves_the_refined_one():
    made = method()
    made.network.load_state_dict(made.network.coarse_view().state_dict())
    made.begin()
    x = torch.randn(1, 1, 16, 16)
    for network in (made.network, made.average.network):
        assert torch.equal(network(x), made.network.features(x)[1])


def test_the_state_makes_another_method_the_same(tmp_path):
    made, (labelled, unlabelled) = tiny_coarse_refined.method().train(), batches()
    made(labelled, unlabelled, progress())  # moves the statistics of BatchNorm, in the head too
    torch.save(made.state_dict(), tmp_path / "state.pt")
    other = tiny_coarse_refined.method()
    for p in other.parameters():
        torch.nn.init.ones_(p)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    a, b = (m.eval()(labelled, unlabelled, progress()) for m in (made, other))
    assert all(torch.equal(a[name], b[name]) for name in TERMS)


def test_what_is_watched_is_measured():
    made, (labelled, unlabelled) = method(), batches()
    made(labelled, unlabelled, progress())
    watched = copy.copy(made.watch())
    gallery = made.intra(labelled.label, torch.Generator().manual_seed(derive(0, 3, "intra")))
    chosen = [z.argmax(dim=1) for z in made.network.features(torch.cat([labelled.image, unlabelled.image]))[:2]]
    assert set(watched) == {
        "disagreement", "foreground/coarse", "foreground/refined", "patches/boundary", "patches/foreground",
        "active_pairs/intra positive", "active_pairs/intra negative",
        "active_pairs/inter positive", "active_pairs/inter negative"}  # fmt: skip
    assert watched["patches/boundary"] == len(gallery.labels)
    assert watched["patches/foreground"] >= len(labelled)
    assert watched["disagreement"].item() == pytest.approx((chosen[0] != chosen[1]).float().mean().item())
    assert watched["foreground/coarse"].item() == pytest.approx((chosen[0] > 0).float().mean().item())
    assert watched["foreground/refined"].item() == pytest.approx((chosen[1] > 0).float().mean().item())
    assert all(0 <= watched[name] <= 1 for name in watched if name.startswith("active_pairs"))
    assert not any(value.requires_grad or value.dim() for value in watched.values())


def test_shares_of_active_pairs_are_those_of_the_ranked_losses():
    made, (labelled, unlabelled) = method(), batches()
    for term in ("intra", "inter"):
        asked = []
        made.ranked.active = lambda e, n, asked=asked: asked.append((e, n)) or (torch.tensor(0.25), torch.tensor(0.75))
        made(labelled, unlabelled, progress(term))
        assert made.watch()[f"active_pairs/{term} positive"] == 0.25
        assert made.watch()[f"active_pairs/{term} negative"] == 0.75
        expected = RankedListLoss()(*asked[0])
        torch.testing.assert_close(expected, made(labelled, unlabelled, progress(term))[term].detach())


# limits


def any_method(dims=2, channels=1, classes=2, norm="batch"):
    torch.manual_seed(0)
    settings = {"widths": (4, 8), "dropout": 0.0, "norm": norm}
    network = Cascade(
        UNet(dims, channels, classes, **settings), UNet(dims, channels + classes, classes, **settings)
    ).train()
    loss = tiny.supervised_loss()
    return CoarseRefined(network, loss, RankedListLoss(), PixelHead(4), IntraPatch(), InterPatch())


@pytest.mark.parametrize(
    ("label", "case"),
    [
        (lambda y: y.fill_(0), "no foreground"),
        (lambda y: y.fill_(1), "foreground alone"),
        (lambda y: y.fill_(0)[..., 5, 5].fill_(1), "one voxel of foreground"),
        (lambda y: y[..., :8].fill_(3), "classes 1 and 2 absent"),
    ],
)
@pytest.mark.parametrize(("dims", "classes"), [(2, 4), (2, 12), (3, 4)])
def test_one_patch_trains_whatever_is_in_it(label, case, dims, classes):
    made = any_method(dims, channels=3, classes=classes)
    y = torch.zeros(1, 1, *[16] * dims, dtype=torch.long)
    label(y)
    x = torch.randn(2, 3, *[16] * dims)
    terms = made(Batch(x[:1], y), Batch(x[1:]), progress())
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values()), case
    trained = [p for p in made.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained), "DDP waits for each"
    if case == "no foreground":
        assert terms["intra"] == terms["inter"] == 0
    if case == "one voxel of foreground":
        assert terms["inter"].requires_grad
        assert made.watch()["patches/foreground"] == 1


def test_one_voxel_in_the_whole_gallery_costs_0():
    """A crop of one patch that is nearly all foreground of another class: BatchNorm could not take one row."""
    made = any_method()
    made.inter = InterPatch(tile=16, share=1.0)
    y = torch.zeros(1, 1, 16, 16, dtype=torch.long)
    y[..., 3, 3] = 1
    terms = made(Batch(torch.randn(1, 1, 16, 16), y), Batch(torch.zeros(0, 1, 16, 16)), progress("supervised", "inter"))
    assert terms["inter"] == 0
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in made.head.parameters())


def test_without_unlabelled_scans_it_trains_supervised(tmp_path):
    trainer = tiny.trainer("coarse_refined", tmp_path, unlabelled=0, epochs=2)
    trainer.run()
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert [name for name in header if name.startswith("term/")] == ["term/supervised", "term/intra", "term/inter"]
