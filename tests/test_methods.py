"""The methods, and the mistakes that other programs make with a moving average."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
import yaml
from conftest import ROOT
from torch import nn

from custom.losses import ConsistencyLoss
from custom.methods import CrossPseudoSupervision, MeanTeacher, MovingAverage, Supervised
from custom.methods.batch import Batch
from custom.methods.schedule import Progress, TermWeights


def filled(value: float, buffer: float = 0.0) -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(value)
        network[1].running_mean.fill_(buffer)
    return network


def progress(step=0, **weights):
    spec = {"supervised": 1.0, "consistency": 1.0, **weights}
    return Progress(step, 10, 1, 1, TermWeights(spec, ("supervised", "consistency")))


# the moving average


def test_the_moving_average_in_closed_form():
    average = MovingAverage(filled(0.0), decay=0.9)
    average.follow(filled(8.0))  # t = 0: a = min(1 - 1/1, .9) = 0 copies
    assert average.network[0].weight.tolist() == [[8.0, 8.0]]
    average.follow(filled(4.0))  # t = 1: a = 1/2
    assert average.network[0].weight.tolist() == [[6.0, 6.0]]
    average.follow(filled(0.0))  # t = 2: a = 2/3
    torch.testing.assert_close(average.network[0].weight, torch.full((1, 2), 4.0))
    for _ in range(20):
        average.follow(filled(4.0))
    before = average.network[0].weight.clone()
    average.follow(filled(14.0))  # from t = 9 on a = 0.9
    torch.testing.assert_close(average.network[0].weight, 0.9 * before + 0.1 * 14.0)


def test_the_teacher_does_not_go_to_zero():
    """The out-of-place update whose result is dropped leaves decay * teacher only."""
    average = MovingAverage(filled(5.0), decay=0.99)
    for _ in range(50):
        average.follow(filled(5.0))
    torch.testing.assert_close(average.network[0].weight, torch.full((1, 2), 5.0))


def test_buffers_follow_by_value_and_stay_apart():
    student, average = filled(1.0, buffer=3.0), MovingAverage(filled(1.0), decay=0.99)
    average.follow(student)
    assert average.network[1].running_mean.item() == 3.0
    student[1].running_mean.fill_(7.0)
    assert average.network[1].running_mean.item() == 3.0


def test_the_teacher_stays_in_evaluation_mode_and_its_forward_moves_no_statistics():
    method = tiny.method("mean_teacher").train()
    assert method.student.training
    assert not any(m.training for m in method.teacher.modules())
    before = copy.deepcopy(method.teacher.state_dict())
    method.teacher(torch.randn(4, 1, 16, 16))
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, method.teacher.state_dict()[name]), name


def test_the_count_of_updates_is_part_of_the_state():
    average = MovingAverage(filled(0.0), decay=0.99)
    for _ in range(3):
        average.follow(filled(1.0))
    again = MovingAverage(filled(0.0), decay=0.99)
    again.load_state_dict(average.state_dict())
    assert again.updates == 3


def test_the_teacher_is_in_the_state_of_the_method():
    names = tiny.method("mean_teacher").state_dict()
    assert any(name.startswith("teacher.network.") and name.endswith("running_var") for name in names)
    assert any(name.startswith("average.network.") for name in tiny.method("supervised").state_dict())


def test_a_teacher_is_not_trained():
    method = tiny.method("mean_teacher")
    assert {id(p) for p in method.parameters() if p.requires_grad} == {id(p) for p in method.student.parameters()}


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay is in \[0, 1\)"):
        MovingAverage(filled(0.0), decay=decay)


# the methods


def without_dropout(method):
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return method.train()


class Supervising(Progress):
    """Progress that wants the supervised term alone."""

    def wants(self, term):
        return term == "supervised"


def batches():
    streams = tiny.trainer("mean_teacher")
    return streams.labelled.draw(), streams.unlabelled.draw()


def test_supervised_costs_the_labelled_batch_alone():
    method = Supervised(tiny.network(), tiny.supervised_loss()).eval()
    labelled, unlabelled = batches()
    terms = method(labelled, unlabelled, Progress(0, 1, 1, 1))
    assert list(terms) == ["supervised"]
    expected = tiny.supervised_loss()(method.network(labelled.image), labelled.label)
    torch.testing.assert_close(terms["supervised"], expected)


def test_mean_teacher_in_closed_form_without_noise():
    method = MeanTeacher(tiny.network(), tiny.supervised_loss(), ConsistencyLoss(), noise=0.0).eval()
    with torch.no_grad():
        for p in method.teacher.network.parameters():
            p.add_(0.05)
    labelled, unlabelled = batches()
    terms = method(labelled, unlabelled, progress())
    p = method.student(unlabelled.image).softmax(1)
    q = method.teacher.network(unlabelled.image).softmax(1)
    torch.testing.assert_close(terms["consistency"], ((p - q) ** 2).mean())
    supervised = tiny.supervised_loss()(method.student(labelled.image), labelled.label)
    torch.testing.assert_close(terms["supervised"], supervised)


MIXING = (
    "mean_teacher",
    "low_confidence",
    "ua_mt",
    "cps",
    "coarse_refined",
)  # show a network both halves, one of them strong


@pytest.mark.parametrize("name", MIXING)
def test_batch_norm_divides_labelled_patches_by_both_halves_or_by_their_own(name):
    methods = {normalised: without_dropout(tiny.method(name)) for normalised in ("together", "apart")}
    for normalised, method in methods.items():
        method.normalised = normalised
    labelled, unlabelled = batches()
    unlabelled = Batch(3 * unlabelled.image)
    alone = methods["together"](labelled, Batch(unlabelled.image[:0]), Supervising(0, 1, 1, 1))["supervised"]
    found = {way: method(labelled, unlabelled, Supervising(0, 1, 1, 1)) for way, method in methods.items()}
    torch.testing.assert_close(found["apart"]["supervised"], alone)
    assert not torch.allclose(found["together"]["supervised"], alone)


@pytest.mark.parametrize(
    "build",
    [
        lambda **way: MeanTeacher(tiny.network(), tiny.supervised_loss(), ConsistencyLoss(), **way),
        lambda **way: CrossPseudoSupervision(tiny.network(0), tiny.network(1), tiny.supervised_loss(), **way),
        tiny.of("coarse_refined").method,
        tiny.of("ua_mt").method,
    ],
)
def test_a_way_to_normalise_that_there_is_not_is_refused(build):
    with pytest.raises(ValueError, match=r"normalised is one of \['together', 'apart'\], got 'each'"):
        build(normalised="each")


@pytest.mark.parametrize("normalised", ["together", "apart"])
def test_the_term_of_unlabelled_patches_is_of_what_its_call_answers(normalised):
    method = without_dropout(tiny.method("mean_teacher"))
    method.normalised, method.noise = normalised, 0.0
    labelled, unlabelled = batches()
    unlabelled = Batch(3 * unlabelled.image)
    twin = copy.deepcopy(method.student)
    both = [labelled.image, unlabelled.image]
    ways = {"apart": [twin(image) for image in both], "together": twin(torch.cat(both)).split([len(i) for i in both])}
    with torch.no_grad():
        target = method.teacher(unlabelled.image)
    terms = method(labelled, unlabelled, Progress(0, 1, 1, 1))
    torch.testing.assert_close(terms["consistency"], method.consistency(ways[normalised][1], target))


def test_the_noise_of_the_teachers_input_is_clipped_at_two_sigma():
    noise = tiny.method("mean_teacher")._perturb(torch.zeros(200, 200))
    assert noise.abs().max().item() == pytest.approx(0.2)
    assert noise.std().item() == pytest.approx(
        0.1 * 0.9205**0.5, rel=0.03
    )  # N(0, 1) clipped at 2 has the variance .9205


def test_an_unwanted_term_is_not_computed():
    method = tiny.method("mean_teacher")
    method.teacher.forward = None  # type: ignore[assignment]  # a call would fail
    labelled, _ = batches()
    terms = method(labelled, tiny.trainer("mean_teacher").labelled.empty(), progress(consistency=0))
    assert list(terms) == ["supervised"]


def test_without_its_term_mean_teacher_computes_what_supervised_does():
    labelled, _ = batches()
    empty = Batch(torch.zeros(0, 1, 16, 16))
    one = Supervised(tiny.network(), tiny.supervised_loss()).train()
    two = MeanTeacher(tiny.network(), tiny.supervised_loss(), ConsistencyLoss()).train()
    torch.manual_seed(1)
    a = one(labelled, empty, Progress(0, 1, 1, 1))["supervised"]
    torch.manual_seed(1)
    b = two(labelled, empty, progress(consistency=0))["supervised"]
    assert torch.equal(a, b)


def test_the_moving_average_serves_and_the_network_stands_beside():
    assert list(tiny.method("mean_teacher").serving()) == ["teacher", "student"]
    assert list(tiny.method("supervised").serving()) == ["average", "network"]


AVERAGED = {
    "supervised": "network",
    "unimatch": "network",
    "urpc": "network",
    "cps": "first",
}  # whom the average follows


@pytest.mark.parametrize(("name", "network"), AVERAGED.items())
def test_without_a_teacher_the_moving_average_serves_what_is_trained_stands_beside(name, network):
    trainer = tiny.trainer(name, epochs=1)
    served = trainer.method.serving()
    assert list(served) == ["average", network, *(["second"] if name == "cps" else [])]
    average, followed = served["average"], served[network]
    trained = {id(p) for p in trainer.method.parameters() if p.requires_grad}
    assert not trained & {id(p) for p in average.parameters()}
    assert {id(p) for p in followed.parameters()} <= trained
    before = copy.deepcopy(followed)
    trainer.run()  # three steps of a = 0, 1/2, 2/3: the mean of three networks
    assert not torch.equal(average.out.weight, followed.out.weight)
    assert not torch.equal(average.out.weight, before.out.weight)
    again = tiny.method(name)
    again.load_state_dict(trainer.method.state_dict())
    assert torch.equal(again.serving()["average"].out.weight, average.out.weight)
    assert again.average.updates == 3


@pytest.mark.parametrize("name", ["unimatch", "urpc", "cps"])
def test_the_moving_average_teaches_nobody(name):
    methods = [without_dropout(tiny.method(name)) for _ in range(2)]
    with torch.no_grad():
        for p in methods[1].average.parameters():
            p.fill_(float("nan"))
    labelled, unlabelled = batches()
    found = []
    for method in methods:
        torch.manual_seed(5)
        found.append(method(labelled, unlabelled, Progress(0, 1, 1, 1)))
    assert list(found[0]) == list(methods[0].terms)
    assert all(torch.equal(found[0][term], found[1][term]) for term in methods[0].terms)


@pytest.mark.parametrize(("name", "network"), [item for item in AVERAGED.items() if item[0] != "supervised"])
def test_the_network_serves_where_it_is_asked_to(name, network):
    method = tiny.of(name).method(serve=network)
    served = method.serving()
    assert list(served) == [network, "average", *(["second"] if name == "cps" else [])]
    assert served["average"] is method.average.network
    with pytest.raises(ValueError, match=rf"serve is one of \['average', '{network}'\], got 'teacher'"):
        tiny.of(name).method(serve="teacher")


@pytest.mark.parametrize(("name", "network"), [item for item in AVERAGED.items() if item[0] != "supervised"])
def test_the_bundle_serves_the_average_and_as_published_the_network(name, network):
    configs = [yaml.safe_load((ROOT / f"bundles/{name}/configs/{f}.yaml").read_text()) for f in ("train", "published")]
    assert [config["serve"] for config in configs] == ["average", network]


def test_begin_copies_weights_that_were_loaded_later():
    method = tiny.method("mean_teacher")
    method.student.load_state_dict(tiny.network(seed=9).state_dict())
    method.begin()
    assert torch.equal(method.teacher.network.out.weight, method.student.out.weight)


def test_what_is_watched_is_measured():
    method = tiny.method("mean_teacher")
    method(*batches(), progress())
    watched = method.watch()
    assert set(watched) == {"teacher_confidence", "disagreement", "teacher_foreground"}
    assert 0.5 <= watched["teacher_confidence"] <= 1
    assert all(not value.requires_grad for value in watched.values())
