"""The method of low confidence: its terms against the formulas, its prototypes alone and over ranks, its limits."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
import torch.distributed as dist
from torch.nn.functional import cosine_similarity

from custom import distributed
from custom.losses import ClassSeparationLoss, LowConfidenceConsistencyLoss
from custom.methods import LowConfidence, Supervised
from custom.methods.batch import Batch
from custom.methods.low_confidence import Prototypes
from custom.methods.schedule import Progress, TermWeights
from custom.networks import UNet

TERMS = ("supervised", "consistency", "separation")


def progress(step=0, **weights):
    return Progress(step, 10, 1, 1, TermWeights({**dict.fromkeys(TERMS, 1.0), **weights}, TERMS))


def make(classes=3, size=(4, 8), threshold=0.6, keep="low", confidence="student", dims=2, channels=1, **settings):
    """Few classes, and a last layer that makes some pixels sure and others not."""
    torch.manual_seed(0)
    network = UNet(dims, channels, classes, widths=size, dropout=0.0)
    with torch.no_grad():
        network.out.weight.mul_(6)
    consistency = LowConfidenceConsistencyLoss(threshold, keep, confidence)
    separation = ClassSeparationLoss(settings.pop("push", False), max_pixels=settings.pop("max_pixels", None))
    return LowConfidence(
        network, tiny.supervised_loss(), consistency, separation,
        classes=classes, channels=size[0], dimensions=dims, **{"noise": 0.0, **settings},
    )  # fmt: skip


def batches(classes=3, labelled=2, unlabelled=2, spatial=(16, 16), channels=1):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(labelled + unlabelled, channels, *spatial, generator=generator)
    label = torch.randint(0, classes, (labelled, 1, *spatial), generator=generator)
    return Batch(image[:labelled], label), Batch(image[labelled:])


def moved_teacher(method):
    """So that student and teacher differ, and the teacher too is sure of some pixels only."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in method.teacher.network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return method


# the terms


@pytest.mark.parametrize("confidence", ["student", "teacher", "lesser"])
@pytest.mark.parametrize("keep", ["low", "high", "all"])
def test_the_terms_are_the_formulas(confidence, keep):
    method = moved_teacher(make(confidence=confidence, keep=keep, separation_keep=keep))
    labelled, unlabelled = batches()
    terms = method(labelled, unlabelled, progress())
    assert list(terms) == list(TERMS)

    both = torch.cat([labelled.image, unlabelled.image])
    z, maps = method.student.features(both)
    p, q = z.softmax(1), method.teacher.network(both).softmax(1)
    sure = {"student": p.amax(1), "teacher": q.amax(1), "lesser": torch.minimum(p.amax(1), q.amax(1))}[confidence]
    mask = {"low": sure < 0.6, "high": sure >= 0.6, "all": sure > 0}[keep]
    assert mask[2:].any()
    assert keep == "all" or not mask[2:].all()
    torch.testing.assert_close(terms["supervised"], tiny.supervised_loss()(z[:2], labelled.label))
    torch.testing.assert_close(terms["consistency"], (p - q).square().mean(1)[2:][mask[2:]].mean())

    h = method.projection(maps["d1"]).movedim(1, -1)
    label = labelled.label[:, 0]
    classes = torch.cat([label, p[2:].argmax(1)])  # labels where there are any
    means = {c: h[:2][(label == c) & (p[:2].argmax(1) == c)].mean(0) for c in (1, 2)}  # of this very step
    expected = [1 - cosine_similarity(h[mask & (classes == c)], means[c][None]).mean() for c in (1, 2)]
    torch.testing.assert_close(terms["separation"], torch.stack(expected).mean())


def test_consistency_and_separation_choose_their_pixels_apart():
    def terms(**settings):
        return moved_teacher(make(**settings))(*batches(), progress())

    one, other = terms(keep="low", separation_keep="all"), terms(keep="low", separation_keep="low")
    assert torch.equal(one["consistency"], other["consistency"])
    assert not torch.equal(one["separation"], other["separation"])


def test_the_teacher_sees_noise_and_the_student_does_not():
    seen = {}
    method = make(noise=0.1).eval()
    method.teacher.network.register_forward_pre_hook(lambda _, x: seen.update(teacher=x[0]))
    method.student.down[0].register_forward_pre_hook(lambda _, x: seen.update(student=x[0]))
    labelled, unlabelled = batches()
    method(labelled, unlabelled, progress())
    assert torch.equal(seen["student"], torch.cat([labelled.image, unlabelled.image]))
    distance = (seen["teacher"] - unlabelled.image).abs().max().item()
    assert 0.15 < distance <= 0.2 + 1e-6


@pytest.mark.parametrize("normalised", ["apart", "together"])
def test_the_projection_normalises_the_halves_as_the_student_does(normalised):
    method = make(normalised=normalised).train()
    labelled, unlabelled = batches()
    unlabelled = Batch(3 * unlabelled.image)
    seen = []
    method.projection.register_forward_hook(lambda _, x, y: seen.append((x[0].detach(), y.detach())))
    method(labelled, unlabelled, progress())
    assert [len(x) for x, _ in seen] == ([2, 2] if normalised == "apart" else [4])
    twin = copy.deepcopy(method.projection)
    alone = twin(
        method.student.features(labelled.image)[1]["d1"]
    )  # of the labelled patches, as training normalises them
    assert torch.allclose(seen[0][1][:2], alone, atol=1e-6) == (normalised == "apart")
    assert torch.allclose(method.prototypes.values, prototypes(method, alone, labelled), atol=1e-6) == (
        normalised == "apart"
    )


def prototypes(method, features, labelled):
    """The means of the first step, of a method without dropout."""
    found = Prototypes(3)
    found.update(features, labelled.label[:, 0], method.student(labelled.image).argmax(1))
    return found.values


def test_separation_trains_network_and_projection_and_no_prototype():
    method = make()
    method(*batches(), progress())["separation"].backward()
    for part in (method.student.down, method.projection):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in method.student.out.parameters()), "it reads maps, not logits"
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not method.prototypes.values.requires_grad


def test_consistency_gives_the_teacher_no_gradient():
    method = moved_teacher(make())
    method(*batches(), progress())["consistency"].backward()
    assert method.student.out.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())


def test_the_pixels_of_a_step_are_drawn_by_seed_and_step():
    def separation(step, seed=0):
        method = make(max_pixels=10, seed=seed).eval()
        return method(*batches(), progress(step))["separation"].item()

    assert separation(4) == separation(4)
    assert separation(4) != separation(5)
    assert separation(4) != separation(4, seed=1)


def test_without_its_terms_it_computes_what_supervised_does():
    labelled, unlabelled = batches()[0], Batch(torch.zeros(0, 1, 16, 16))
    method = make()
    method.projection.forward = method.teacher.forward = None  # a call would fail
    terms = method(labelled, unlabelled, progress(consistency=0, separation=0))
    assert list(terms) == ["supervised"]
    expected = Supervised(make().student, tiny.supervised_loss())(labelled, unlabelled, Progress(0, 1, 1, 1))
    assert torch.equal(terms["supervised"], expected["supervised"])
    assert method.watch() == {}


def test_separation_alone_asks_the_teacher_for_nothing():
    method = make()
    method.teacher.forward = None
    assert list(method(*batches(), progress(supervised=0, consistency=0))) == ["separation"]


# the prototypes

X, Y = torch.zeros(32), torch.zeros(32)
X[0], Y[1] = 1, 1


def update(prototypes, *pixels):
    """Each pixel is (representation, label, prediction)."""
    h, label, predicted = zip(*pixels, strict=True)
    prototypes.update(torch.stack(h, 1)[None], torch.tensor([label]), torch.tensor([predicted]))


def test_prototypes_in_closed_form():
    prototypes = Prototypes(3, decay=0.9)
    update(prototypes, (X, 1, 1), (3 * X, 1, 1), (9 * Y, 1, 2), (9 * Y, 2, 1), (9 * Y, 0, 0))
    assert torch.equal(prototypes.values, torch.stack([0 * X, 2 * X, 0 * X]))  # the first mean, of what is right
    assert prototypes.seen.tolist() == [0, 1, 0]
    update(prototypes, (Y, 1, 1), (4 * Y, 2, 2))
    torch.testing.assert_close(prototypes.values, torch.stack([0 * X, 1.8 * X + 0.1 * Y, 4 * Y]))
    update(prototypes, (X, 1, 0))  # nothing right: nothing moves
    torch.testing.assert_close(prototypes.values, torch.stack([0 * X, 1.8 * X + 0.1 * Y, 4 * Y]))
    assert prototypes.seen.tolist() == [0, 1, 1]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_of_prototypes_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"prototype_decay is in \[0, 1\), got"):
        Prototypes(3, decay)


def test_the_mean_of_a_class_is_taken_in_single_precision_under_autocast():
    """256 pixels of 1.001: in bfloat16 their mean is 1."""
    prototypes = Prototypes(2)
    with torch.autocast("cpu", torch.bfloat16):
        prototypes.update(torch.full((1, 32, 256), 1.001), *torch.ones(2, 1, 256, dtype=torch.long))
    torch.testing.assert_close(prototypes.values[1], torch.full((32,), 1.001))


def averaged(monkeypatch, *ranks):
    """What ``average_buffers`` does to the modules of several ranks, without processes."""
    monkeypatch.setattr(distributed, "active", lambda: True)
    monkeypatch.setattr(distributed, "world_size", lambda: len(ranks))
    before = [[b.clone() for b in module.buffers()] for module in ranks]
    for module in ranks:
        sums = iter([torch.stack(buffers).sum(0) for buffers in zip(*before, strict=True)])
        monkeypatch.setattr(dist, "all_reduce", lambda buffer, sums=sums: buffer.copy_(next(sums)))
        distributed.average_buffers(module)


def test_averaged_over_ranks_a_class_is_the_mean_of_those_that_met_it(monkeypatch):
    one, two = Prototypes(4, decay=0.9), Prototypes(4, decay=0.9)
    update(one, (2 * X, 1, 1), (6 * X, 2, 2))
    update(two, (6 * X, 1, 1))
    averaged(monkeypatch, one, two)
    assert one.seen.tolist() == two.seen.tolist() == [0, 1, 0.5, 0]
    for rank in (one, two):
        update(rank, (14 * X, 1, 1), (16 * X, 2, 2))
        # class 1: .9 (2 + 6) / 2 + 1.4; class 2: .9 * 6 + 1.6, not .9 * 3 + 1.6, and not 16 on rank two
        torch.testing.assert_close(rank.values[:, 0], torch.tensor([0, 5.0, 7.0, 0]))
        assert rank.seen.tolist() == [0, 1, 1, 0]


def test_a_class_that_one_rank_met_counts_on_all_and_stays_when_none_meets_it(monkeypatch):
    one, two = Prototypes(3), Prototypes(3)
    update(one, (6 * X, 2, 2))
    for _ in range(2):
        averaged(monkeypatch, one, two)
        assert torch.equal(one.values, two.values)
        h, classes = X.reshape(1, 32, 1), torch.tensor([[2]])
        assert ClassSeparationLoss()(h + Y[None, :, None], classes, classes > 0, two.values).item() > 0
        for rank in (one, two):
            update(rank, (Y, 1, 0))
            torch.testing.assert_close(rank.values[2], 6 * X)


def test_state_round_trips_and_holds_plain_tensors(tmp_path):
    method = make()
    method(*batches(), progress())
    method.after_step(progress())
    torch.save(method.state_dict(), tmp_path / "state.pt")
    again = make()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.prototypes.values, method.prototypes.values)
    assert again.prototypes.values[1].any()
    assert torch.equal(again.prototypes.seen, method.prototypes.seen)
    assert again.teacher.updates == 1
    a, b = (m.eval()(*batches(), progress(1))["separation"] for m in (method, again))
    assert torch.equal(a, b)


# serving and watching


def test_one_serves_the_other_stands_beside_and_no_head_goes_along():
    method = make()
    assert list(method.serving()) == ["teacher", "student"]
    assert list(make(serve="student").serving()) == ["student", "teacher"]
    with pytest.raises(ValueError, match=r"serve is one of .*'both'"):
        make(serve="both")
    for network in method.serving().values():
        make().student.load_state_dict(network.state_dict(), strict=True)


def test_the_optimiser_trains_student_and_projection():
    method = make()
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    assert trained == {id(p) for part in (method.student, method.projection) for p in part.parameters()}


def test_what_is_watched_is_measured():
    method = moved_teacher(make()).eval()
    labelled, unlabelled = batches()
    with torch.no_grad():  # every class is predicted somewhere, here surely and there not
        method.student.out.weight.mul_(20)
        method.student.out.bias.sub_(method.student(unlabelled.image).mean((0, 2, 3)))
    method(labelled, unlabelled, progress())
    watched = method.watch()
    assert set(watched) == {
        "low confidence/all pixels", "low confidence/foreground", "teacher_confidence", "disagreement", "teacher_foreground",
        "distance/labelled pixels to prototype", "distance/between prototypes", "prototypes_seen",
    }  # fmt: skip
    assert all(value.shape == () and not value.requires_grad for value in watched.values())
    p, q = (network(unlabelled.image).softmax(1) for network in (method.student, method.teacher.network))
    low, foreground = p.amax(1) < 0.6, p.argmax(1) > 0
    assert 0 < low[foreground].float().mean() < 1
    assert low[~foreground].any()
    assert watched["low confidence/all pixels"] == low.float().mean()
    assert watched["low confidence/foreground"].item() == pytest.approx(low[foreground].float().mean().item())
    assert watched["disagreement"] == (p.argmax(1) != q.argmax(1)).float().mean()
    assert watched["prototypes_seen"] == 2
    one, two = method.prototypes.values[1:]
    assert watched["distance/between prototypes"].item() == pytest.approx(
        1 - cosine_similarity(one, two, 0).item(), abs=1e-5
    )
    h, label = method.projection(method.student.features(labelled.image)[1]["d1"]), labelled.label[:, 0]
    cosines = [cosine_similarity(h.movedim(1, -1)[label == c], v[None]) for c, v in ((1, one), (2, two))]
    expected = 1 - torch.cat(cosines).mean().item()
    assert watched["distance/labelled pixels to prototype"].item() == pytest.approx(expected, abs=1e-5)


def test_fewer_than_two_prototypes_have_no_distance():
    prototypes = Prototypes(3)
    assert prototypes.spread().item() == 0
    assert prototypes.distance(X.reshape(1, 32, 1), torch.tensor([[1]])).item() == 0
    update(prototypes, (X, 1, 1))
    assert prototypes.spread().item() == 0


# limits


@pytest.mark.parametrize("confidence", ["student", "lesser"])
def test_an_empty_unlabelled_batch_leaves_the_labelled_half(confidence):
    method = make(confidence=confidence)
    terms = method(*batches(unlabelled=0), progress())
    assert terms["consistency"].item() == 0
    assert terms["separation"].item() > 0
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in method.watch().values())


@pytest.mark.parametrize("confidence", ["student", "lesser"])
@pytest.mark.parametrize("dims", [2, 3])
def test_one_patch_a_stream_twelve_classes_two_channels(dims, confidence):
    method = make(classes=12, dims=dims, channels=2, confidence=confidence, max_pixels=20, push=True)
    terms = method(*batches(12, 1, 1, (8,) * dims, channels=2), progress())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_without_any_foreground_separation_waits():
    method = make()
    labelled, unlabelled = batches()
    labelled.label.zero_()
    terms = method(labelled, unlabelled, progress())
    assert terms["separation"].item() == 0
    sum(terms.values()).backward()
    assert not method.prototypes.values.any()
    assert method.projection[0].conv.weight.grad is not None, "DDP wants every parameter used"


def test_a_class_absent_from_all_labels_gets_no_prototype_and_adds_nothing():
    method = make()
    labelled, unlabelled = batches()
    labelled.label[labelled.label == 2] = 0
    terms = method(labelled, unlabelled, progress())
    assert terms["separation"].item() > 0
    assert method.prototypes.seen.tolist() == [0, 1, 0]
    assert method.watch()["prototypes_seen"] == 1


def test_an_unknown_choice_of_pixels_is_refused():
    with pytest.raises(ValueError, match=r"separation_keep is one of \['low', 'high', 'all'\], got 'most'"):
        make(separation_keep="most")


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_it_trains_under_autocast(amp):
    trainer = tiny.trainer("low_confidence", epochs=2, amp=amp)
    trainer.run()
    assert trainer.method.prototypes.values.dtype == torch.float32
    assert trainer.method.prototypes.values.isfinite().all()


def test_without_unlabelled_scans_it_trains_supervised(caplog):
    trainer = tiny.trainer("low_confidence", epochs=1, unlabelled=0)
    trainer.run()
    assert "training is supervised, without consistency, separation" in caplog.text
    assert not trainer.method.prototypes.seen.any()
