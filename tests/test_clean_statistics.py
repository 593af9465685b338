"""Normalisation statistics: a teacher's own, and those of clean labelled patches for whatever validates or serves."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
import yaml
from conftest import BUNDLES
from torch import nn

from custom.methods import MeanTeacher, MovingAverage
from custom.methods.batch import Batch, StrongView
from custom.methods.schedule import Progress
from custom.stream.augment import Augmentation, Flip, Gamma
from custom.stream.mixing import CutMix, Mix
from custom.stream.stream import Stream
from custom.training.statistics import CleanStatistics


def lagging() -> tuple[MovingAverage, nn.Module]:
    """An average of weights whose running statistics are those of another network."""
    network = tiny.network()
    average = MovingAverage(network, decay=0.9, statistics="own")
    with torch.no_grad():
        for p in average.network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return average, network


def stream(batch: int = 4, **settings) -> Stream:
    return Stream(tiny.bank("labelled", 0, 3), batch, (16, 16), name="statistics", rank=0, **settings)


def norms(network: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for b in m.buffers()]


# the teacher's own


def test_a_teacher_teaches_as_a_copy_of_it_in_batch_mode_without_dropout_does():
    average, _ = lagging()
    reference = copy.deepcopy(average.network)
    for module in reference.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
    x = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(average.teach(x), reference(x), rtol=0, atol=0)
    assert not any(m.training for m in average.network.modules()), "evaluation mode again"
    for mine, its in zip(norms(average.network), norms(reference), strict=True):
        assert torch.equal(mine, its), "its running statistics moved"


@pytest.mark.parametrize("taught", [True, False])
def test_its_statistics_are_copied_from_the_network_in_a_step_in_which_it_does_not_teach(taught):
    average, network = lagging()
    average.teach(torch.randn(4, 1, 16, 16))
    if not taught:
        average.follow(network)  # the step in which it did
    before = norms(average.network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(7.0)
    average.follow(network)
    for mine, was, its in zip(norms(average.network), before, norms(network), strict=True):
        assert torch.equal(mine, was if taught else its)


@pytest.mark.parametrize(("state", "taught"), [({"updates": 3, "taught": 0}, False), ({"updates": 3}, True)])
def test_whether_it_has_taught_is_part_of_its_state_and_true_of_earlier_ones(state, taught):
    average, network = lagging()
    average.set_extra_state(state)
    assert average.taught is taught
    assert average.get_extra_state() == {"updates": 3, "taught": int(taught), "teaching": 0}
    average.teach(torch.randn(4, 1, 16, 16))
    assert average.get_extra_state() == {"updates": 3, "taught": 1, "teaching": 1}
    average.copy(network)
    assert average.get_extra_state() == {"updates": 0, "taught": 0, "teaching": 0}


def test_by_batch_it_answers_as_while_training_and_no_statistics_move():
    average, _ = lagging()
    reference = copy.deepcopy(average.network)
    for module in reference.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
    before, x = norms(average.network), torch.randn(4, 1, 16, 16)
    with average.by_batch():
        found = average(x)
    torch.testing.assert_close(found, reference(x), rtol=0, atol=0)
    assert not torch.allclose(found, average(x)), "by its running statistics again"
    with pytest.raises(RuntimeError), average.by_batch():
        average(torch.randn(4, 2, 16, 16))
    assert all(
        m.track_running_stats and not m.training for m in average.network.modules() if isinstance(m, nn.BatchNorm2d)
    )
    assert all(torch.equal(mine, was) for mine, was in zip(norms(average.network), before, strict=True))


def test_unknown_statistics_are_refused():
    with pytest.raises(ValueError, match=r"own.*copied.*'mine'"):
        MovingAverage(tiny.network(), statistics="mine")


# of clean labelled patches


def test_within_it_statistics_are_the_mean_over_the_batches_and_behind_it_as_before():
    network = tiny.network().train()
    before = norms(network)
    first = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    inputs: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    with CleanStatistics(stream(), batches=3).applied({"network": network}):
        expected = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
        torch.testing.assert_close(first.running_mean, expected)
        assert not torch.equal(first.running_mean, before[0])
    hook.remove()
    assert len(inputs) == 3
    assert first.momentum == 0.1
    assert network.training
    for mine, was in zip(norms(network), before, strict=True):
        assert torch.equal(mine, was)


class First(nn.Module):
    """A part of a network, as the coarse answer of a cascade is."""

    def __init__(self, whole: nn.Sequential) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole[1](self.whole[0](x))


@pytest.mark.parametrize("order", [("whole", "part"), ("part", "whole")])
def test_networks_that_share_layers_each_carry_what_they_would_alone(order):
    whole = nn.Sequential(*(layer for _ in range(2) for layer in (nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))).train()
    networks = {"whole": whole, "part": First(whole)}
    before = norms(whole)
    with CleanStatistics(stream(), batches=3).applied({"whole": whole}):
        alone = norms(whole)
    found = CleanStatistics(stream(), batches=3)
    for _ in range(2):  # estimated, and those of before
        with found.applied({name: networks[name] for name in order}):
            assert all(map(torch.equal, norms(whole), alone)), "of the layers that the part does not reach too"
    with CleanStatistics(stream(), batches=3).applied({"part": networks["part"]}):
        now = norms(whole)
    assert all(map(torch.equal, now[:3], alone[:3]))
    assert all(map(torch.equal, now[3:], before[3:])), "a layer that no patch reaches keeps what it had"


def test_the_same_at_every_call_and_after_other_draws():
    network, found = tiny.network(), []
    for _ in range(2):
        with CleanStatistics(stream(), batches=2).applied({"network": network}):
            found.append(norms(network))
        torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weights_that_changed_are_estimated_anew_when_told_so():
    network, statistics = tiny.network(), CleanStatistics(stream(), batches=2)
    with statistics.applied({"network": network}):
        first = norms(network)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    with statistics.applied({"network": network}):
        assert torch.equal(norms(network)[0], first[0]), "kept while nothing was said"
    statistics.forget()
    with statistics.applied({"network": network}):
        assert not torch.equal(norms(network)[0], first[0])


def test_no_batches_leave_everything_as_it_is():
    network = tiny.network()
    before = norms(network)
    with CleanStatistics(stream(), batches=0).applied({"network": network}):
        assert all(torch.equal(a, b) for a, b in zip(norms(network), before, strict=True))


def train(batches: int, folder) -> dict:
    torch.manual_seed(0)
    trainer = tiny.trainer("mean_teacher", folder)
    trainer.statistics = trainer.validator.statistics = CleanStatistics(stream(), batches)
    trainer.run()
    return trainer.state_dict()["method"]


def test_the_training_does_not_notice_and_what_serves_has_them(tmp_path):
    with_them, without = train(2, tmp_path / "a"), train(0, tmp_path / "b")
    for name, value in without.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, with_them[name]), name
    served, trained = (torch.load(tmp_path / f"{run}/bundle/models/model_final.pt", weights_only=True) for run in "ab")
    differ = [name for name in served if not torch.equal(served[name], trained[name])]
    assert differ
    assert all("running" in name or "num_batches" in name for name in differ)


def test_a_run_with_mixing_serves_what_a_clean_forward_says(tmp_path):
    """The file's own statistics, in evaluation mode, are the means over clean batches of the weights that it holds."""
    method = tiny.method("mean_teacher")
    trainer = tiny.trainer(type(method)(**arguments(method), view="strong"), tmp_path)
    trainer.statistics = trainer.validator.statistics = CleanStatistics(stream(), batches=2)
    trainer.run()
    served = copy.deepcopy(trainer.method.teacher.network)
    served.load_state_dict(torch.load(tmp_path / "bundle/models/model_final.pt", weights_only=True))
    first = next(m for m in served.modules() if isinstance(m, nn.BatchNorm2d))
    clean = stream()
    clean.start(0)
    means = [served.down[0][0](clean.draw().image).mean(dim=(0, 2, 3)) for _ in range(2)]
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(dim=0))
    trained = trainer.method.teacher.network.state_dict()
    assert any(not torch.equal(value, trained[name]) for name, value in served.state_dict().items())


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_statistics_read_labelled_training_scans_alone(bundle):
    train = yaml.safe_load((bundle / "configs/train.yaml").read_text())["train"]
    assert train["statistics"]["stream"]["bank"] == "@train::dataset"
    assert train["dataset"]["data"] == "$@data['labelled']"
    assert "augmentation" not in train["statistics"]["stream"]


# the strong view


def test_the_strong_view_has_the_box_and_targets_follow_it():
    drawn = Stream(tiny.bank("unlabelled", 100, 3), 4, (16, 16), Augmentation([Flip()], [Gamma(0.5, 2, prob=0.0)]), name="u",
                   mixing=CutMix(prob=1.0)).draw(strong_views=2)  # fmt: skip
    for view in drawn.strong:  # without intensities a strong view is the mixed image
        assert torch.equal(view.image, view.mixed(drawn.image))
        assert not torch.equal(view.image, drawn.image)
    assert not torch.equal(drawn.strong[0].image, drawn.strong[1].image), "a box each"
    plain = Stream(tiny.bank("unlabelled", 100, 3), 4, (16, 16), [Flip()], name="u").draw()
    assert plain.strong_view().mixed(plain.image) is plain.image


@pytest.mark.parametrize("name", ["mean_teacher", "low_confidence"])
def test_the_student_sees_the_strong_view_the_teacher_the_weak_view_and_targets_are_mixed(name):
    method = tiny.method(name)
    method = type(method)(**arguments(method), view="strong")
    assert method.strong_views == 1
    torch.manual_seed(1)
    labelled = Batch(torch.rand(2, 1, 16, 16), label=torch.ones(2, 1, 16, 16).long())
    mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    mask[:, :, :8] = True
    image = torch.rand(2, 1, 16, 16)
    unlabelled = Batch(image, strong=(StrongView(Mix(mask)(image) ** 2, Mix(mask)),))
    seen: dict[str, torch.Tensor] = {}
    method.student.down[0].register_forward_pre_hook(lambda _, x: seen.update(student=x[0]))
    method.teacher.network.register_forward_hook(lambda _, x, y: seen.update(teacher=x[0], logits=y))
    method.consistency.register_forward_pre_hook(lambda _, x: seen.update(target=x[1]))
    method(labelled, unlabelled, Progress(0, 10, 1, 1))
    assert torch.equal(seen["student"], torch.cat([labelled.image, unlabelled.strong[0].image]))
    assert torch.equal(seen["teacher"], torch.cat([labelled.image, image])), "weak, both halves"
    assert torch.equal(seen["target"], Mix(mask)(seen["logits"][2:]))


def test_an_unknown_view_is_refused():
    with pytest.raises(ValueError, match=r"view is one of .*'weak'"):
        MeanTeacher(**arguments(tiny.method("mean_teacher")), view="weak")


def test_an_unknown_way_to_normalise_is_refused():
    with pytest.raises(ValueError, match=r"normalised is one of .*'alone'"):
        MeanTeacher(**arguments(tiny.method("mean_teacher")), normalised="alone")


def arguments(method) -> dict:
    common = {"network": method.student, "supervised": method.supervised, "consistency": method.consistency}
    if hasattr(method, "separation"):
        common |= {"separation": method.separation, "classes": 2, "channels": 4, "dimensions": 2}
    return common


def test_patches_that_come_one_by_one_are_taken_in_pairs():
    network, first = tiny.network().train(), []
    network.down[0][0].register_forward_pre_hook(lambda _, x: first.append(len(x[0])))
    with CleanStatistics(stream(batch=1), batches=5).applied({"network": network}):
        assert first == [2, 2]  # the fifth has no partner
        assert network.down[0][1].running_mean.abs().sum() > 0


def test_of_a_single_patch_nothing_is_estimated_and_the_statistics_stay():
    network = tiny.network().train()
    network(torch.randn(4, 1, 16, 16))
    before = norms(network)
    with CleanStatistics(stream(batch=1), batches=1).applied({"network": network}):
        assert all(torch.equal(mine, was) for mine, was in zip(norms(network), before, strict=True))
