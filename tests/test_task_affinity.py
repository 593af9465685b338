"""Task affinity: its terms are the formula, its masks the guides, its gradient goes where it should; and its limits."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from tiny_task_affinity import WEIGHTS, method, network, supervised_loss
from torch.nn.functional import interpolate, one_hot

from custom.errors import UserError
from custom.losses import TaskAffinityLoss
from custom.methods import TaskAffinity
from custom.methods.batch import Batch
from custom.methods.schedule import Progress, TermWeights
from custom.networks import GatedVNet

LEVELS = 3


def progress(**weights) -> Progress:
    return Progress(0, 10, 1, 1, TermWeights({**WEIGHTS, "pseudo": 0, **weights}, TaskAffinity.terms))


def batch(
    patches: int = 2, classes: int = 2, channels: int = 1, side: int = 8, dims: int = 2, labelled: bool = True
) -> Batch:
    grid = [side] * dims
    generator = torch.Generator().manual_seed(patches + 10 * classes + 100 * labelled)
    image = torch.rand(patches, channels, *grid, generator=generator)
    label = torch.randint(classes, (patches, 1, *grid), generator=generator)
    return Batch(image, label if labelled else None)


def pair(**settings) -> tuple[Batch, Batch]:
    return batch(**settings), batch(**settings, labelled=False)


def small(**settings) -> TaskAffinity:
    return method(widths=(4, 6, 8), dropout=0.0, **settings)


def in_full(made: TaskAffinity, labelled: Batch, unlabelled: Batch) -> dict[str, torch.Tensor]:
    """The paper's terms, written out; no dropout."""
    logits, maps = made.network.features(torch.cat([labelled.image, unlabelled.image]))
    half = len(labelled)
    classes, axes = logits.shape[1], range(2, logits.ndim)
    hard = one_hot(labelled.label[:, 0], classes).permute(0, -1, *[a - 1 for a in axes]).float()
    p = logits.sigmoid()

    def distance(features):
        m_l, m_u = (interpolate(m, size=features.shape[2:], mode="nearest") for m in (hard, p[half:]))
        vectors = []
        for m, f in ((m_l, features[:half]), (m_u, features[half:])):
            sums = (m[:, :, None] * f[:, None]).sum(dim=[a + 1 for a in axes])  # (B, K, C)
            vectors.append(sums / (m.sum(dim=[0, *axes]) + 1e-6)[None, :, None])
        return (vectors[1] - vectors[0]).square().mean()

    over, s = [0, *axes], 1e-5
    overlap, size = (p[:half] * hard).sum(over), p[:half].square().sum(over) + hard.square().sum(over)
    return {
        "supervised": (1 - (2 * overlap + s) / (size + s)).sum(),
        "structure": sum(distance(maps[f"s{j}"]) for j in range(1, LEVELS)),
        "context": sum(distance(maps[f"x{j}"]) for j in range(1, LEVELS + 1)),
    }


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 12])
def test_the_terms_are_the_formula(dims, classes):
    torch.manual_seed(0)
    net = GatedVNet(dims, 1, classes, widths=(4, 6, 8), dropout=0.0)
    made = TaskAffinity(net, supervised_loss(), TaskAffinityLoss()).train()
    labelled, unlabelled = pair(classes=classes, dims=dims)
    found, expected = made(labelled, unlabelled, progress()), in_full(made, labelled, unlabelled)
    assert list(found) == ["supervised", "structure", "context"]
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
        assert found[name] > 0


def test_dice_in_numbers():
    """Two voxels, two classes; logits 0 are p = 1/2 in both channels, the label has a voxel of each class: for each
    class 2 * 1/2 over (1/4 + 1/4) + 1 is 2/3, so the loss is 1/3 + 1/3."""
    loss = supervised_loss()(torch.zeros(1, 2, 1, 2), torch.tensor([[[[0, 1]]]]))
    assert loss.item() == pytest.approx(2 / 3, abs=1e-4)


def test_dice_is_pooled_over_the_labelled_half():
    """Patch 1 lacks the foreground: alone its Dice would be lost; pooled, only the sums of both count."""
    logits, label = torch.zeros(2, 2, 1, 2), torch.tensor([[[[1, 1]]], [[[0, 0]]]])
    # a class: overlap 1, p^2 over four voxels 1, y^2 2: 1 - 2/3
    assert supervised_loss()(logits, label).item() == pytest.approx(2 / 3, abs=1e-4)


# where the gradient goes


def unlabelled_logit_gradient(made: TaskAffinity, term: str) -> torch.Tensor:
    """The gradient of one term with respect to the weights of the last convolution, which only the masks can reach."""
    weights = dict.fromkeys(TaskAffinity.terms, 0.0) | {term: 1.0}
    terms = made(*pair(), progress(**weights))
    return torch.autograd.grad(terms[term], made.network.out.weight, allow_unused=True)[0]


@pytest.mark.parametrize("term", ["structure", "context"])
def test_gradient_flows_through_the_unlabelled_masks(term):
    assert unlabelled_logit_gradient(small(), term).abs().sum() > 0


@pytest.mark.parametrize("term", ["structure", "context"])
def test_detached_masks_give_no_gradient_and_the_same_value(term):
    assert unlabelled_logit_gradient(small(detach_masks=True), term) is None
    values = [small(detach_masks=d)(*pair(), progress())[term] for d in (False, True)]
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("half", [0, 1])
def test_gradient_flows_through_the_features_of_both_halves(half):
    made, halves = small(detach_masks=True).eval(), pair()
    halves[half].image.requires_grad_()
    made(*halves, progress())["context"].backward()
    assert halves[half].image.grad.abs().sum() > 0


def test_the_masks_of_a_grid_are_made_once(monkeypatch):
    made, sizes = small(), []

    def counted(*args, **kwargs):
        sizes.append(tuple(kwargs["size"]))
        return interpolate(*args, **kwargs)

    monkeypatch.setattr("custom.methods.task_affinity.interpolate", counted)
    made(*pair(), progress())
    assert sorted(sizes) == sorted([(8, 8), (4, 4), (2, 2)] * 2)  # labelled and unlabelled, not once a map


# terms that are not wanted, and batches


@pytest.mark.parametrize("term", ["structure", "context"])
def test_a_term_without_weight_is_left_out(term):
    assert set(small()(*pair(), progress(**{term: 0}))) == set(TaskAffinity.terms) - {term, "pseudo"}


def test_supervised_alone_takes_an_empty_unlabelled_batch():
    made, labelled = small(), batch()
    terms = made(labelled, Batch(torch.zeros(0, 1, 8, 8)), progress(structure=0, context=0))
    assert list(terms) == ["supervised"]
    torch.testing.assert_close(terms["supervised"], supervised_loss()(made.network(labelled.image), labelled.label))


@pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 1), (1, 4), (2, 0)])
def test_halves_of_unequal_number_are_refused_with_the_settings_to_change(labelled, unlabelled):
    text = (
        f"{labelled} labelled and {unlabelled} unlabelled patches in a step: .* Set labelled_batch and unlabelled_batch"
    )
    with pytest.raises(UserError, match=text):
        small()(batch(labelled), batch(unlabelled, labelled=False), progress())


def test_a_trainer_refuses_unequal_streams_before_any_weight_changes():
    trainer = tiny.trainer("task_affinity")
    trainer.unlabelled.batch = 3
    before = copy.deepcopy(trainer.method.state_dict())
    with pytest.raises(UserError, match="2 labelled and 3 unlabelled patches"):
        trainer.run()
    torch.testing.assert_close(trainer.method.state_dict(), before, rtol=0, atol=0)


def test_no_unlabelled_scans_at_all_trains_supervised(tmp_path):
    trainer = tiny.trainer("task_affinity", tmp_path, epochs=1, unlabelled=0)
    trainer.run()
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert "term/supervised" in header
    assert "term/context" not in header


@pytest.mark.parametrize("pooling", ["batch", "image"])
@pytest.mark.parametrize("skip_absent", [False, True])
def test_halves_of_one_patch_without_any_foreground_train(pooling, skip_absent):
    made = small(affinity=TaskAffinityLoss(pooling, skip_absent), norm="instance")
    labelled, unlabelled = pair(patches=1)
    labelled.label.zero_()
    torch.stack(list(made(labelled, unlabelled, progress()).values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())
    assert made.watch()["labelled_without_foreground"] == 1


def test_a_class_that_no_label_has_draws_its_features_to_0_unless_it_is_skipped():
    labelled, unlabelled = pair()
    labelled.label.zero_()
    published, skipping = (
        small(affinity=TaskAffinityLoss(skip_absent=skip))(labelled, unlabelled, progress())["context"]
        for skip in (False, True)
    )
    logits, maps = small().network.features(torch.cat([labelled.image, unlabelled.image]))
    cost_of_the_absent = 0.0
    for j in range(1, LEVELS + 1):
        features = maps[f"x{j}"][2:]
        mask = interpolate(logits[2:].sigmoid(), size=features.shape[2:], mode="nearest")[:, 1:]
        vectors = (mask * features).sum(dim=(2, 3)) / (mask.sum() + 1e-6)
        cost_of_the_absent = cost_of_the_absent + vectors.square().mean()
    torch.testing.assert_close(published, (skipping + cost_of_the_absent) / 2)  # the mean over two classes


def test_twelve_classes_and_three_channels_train():
    made = method(classes=12, channels=3)
    terms = made(*pair(classes=12, channels=3, side=16), progress())
    torch.stack(list(terms.values())).sum().backward()
    assert made.network.out.weight.grad.abs().sum() > 0


def test_under_autocast_logits_and_masks_are_single_precision():
    made, seen = small(), []
    made.supervised.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    made.affinity.register_forward_pre_hook(lambda module, given: seen.extend([given[1].dtype, given[3].dtype]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = made(*pair(), progress())
    assert len(seen) == 1 + 2 * (LEVELS + LEVELS - 1)
    assert set(seen) == {term.dtype for term in terms.values()} == {torch.float32}
    assert all(term.isfinite() for term in terms.values())


# what serves, what is kept, what is watched


@pytest.mark.parametrize(("serve", "order"), [("average", ["average", "network"]), ("network", ["network", "average"])])
def test_one_network_is_trained_and_its_average_serves(serve, order):
    made = TaskAffinity(network(widths=(4, 6, 8)), supervised_loss(), TaskAffinityLoss(), serve=serve)
    assert list(made.serving()) == order
    assert {id(p) for p in made.parameters() if p.requires_grad} == {id(p) for p in made.network.parameters()}
    for served in made.serving().values():
        network(widths=(4, 6, 8)).load_state_dict(served.state_dict(), strict=True)


def test_its_state_can_be_read_back(tmp_path):
    made, other = small(), small()
    made(*pair(), progress())
    torch.save(made.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(other.state_dict(), made.state_dict(), rtol=0, atol=0)


def test_what_is_watched_is_measured():
    made, (labelled, unlabelled) = small().train(), pair()
    labelled.label[1] = 0
    terms = made(labelled, unlabelled, progress())
    watched = made.watch()
    assert set(watched) == {
        "gate/scale 2", "gate/scale 1", "labelled_without_foreground", "unlabelled_foreground",
        "structure/s2", "structure/s1", "context/x1", "context/x2", "context/x3"}  # fmt: skip
    assert watched["labelled_without_foreground"] == 0.5
    assert not any(value.requires_grad for value in watched.values())
    for term in ("structure", "context"):
        parts = [value for name, value in watched.items() if name.startswith(f"{term}/")]
        torch.testing.assert_close(torch.stack(parts).sum(), terms[term].detach())
    logits, maps = made.network.features(torch.cat([labelled.image, unlabelled.image]))
    torch.testing.assert_close(watched["gate/scale 1"], maps["g1"].detach().mean())
    torch.testing.assert_close(watched["unlabelled_foreground"], (logits[2:].argmax(dim=1) > 0).float().mean())


def test_without_its_terms_the_gates_are_still_watched():
    made = small()
    made(batch(), Batch(torch.zeros(0, 1, 8, 8)), progress(structure=0, context=0))
    assert set(made.watch()) == {"gate/scale 2", "gate/scale 1", "labelled_without_foreground"}
