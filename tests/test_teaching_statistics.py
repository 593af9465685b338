"""Whose normalisation statistics an average of weights has while it teaches, and once it teaches no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch
from contrastive_batches import batch, buffers, make, progress, same
from ignite.engine import Events
from test_resume import assert_same_state

from custom.losses import ConsistencyLoss
from custom.methods import MeanTeacher, Method, MovingAverage
from custom.methods.batch import StrongView
from custom.training.trainer import DualStreamTrainer

WINDOW = {"value": 0.5, "to": 0.5}  # of a run of 6 steps: it teaches in the first three
EARLY = {
    "mean_teacher": {"supervised": 1.0, "consistency": WINDOW},
    "low_confidence": {"supervised": 1.0, "consistency": WINDOW, "separation": 0.1},
    "coarse_refined": {"supervised": 1.0, "consistency": WINDOW, "intra": 0.0, "inter": 0.0},
    "task_affinity": {"supervised": 1.0, "structure": 0.0, "context": 0.1, "pseudo": WINDOW},
    "bcp": {"supervised": 1.0, "inward": WINDOW, "outward": WINDOW},
    "contrastive_mutual": {"supervised": 1.0, "contrastive": 0.0, "consistency": WINDOW, "relearn": {"value": 1.0, "from": 0.5},
                           "relearn_strong": 0.0},
}  # fmt: skip


def strong(name: str) -> Method:
    """The small method, learning on the strong view; its average teaches with statistics of its own."""
    if name == "mean_teacher":
        return MeanTeacher(tiny.network(), tiny.supervised_loss(), ConsistencyLoss(), view="strong")
    if name == "contrastive_mutual":
        return make(view="strong", follow="stronger", strong="flair")
    views = {"low_confidence": {"view": "strong"}, "coarse_refined": {"view": "strong"}}
    return tiny.of(name).method(**views.get(name, {}))


@pytest.fixture
def begun(monkeypatch) -> Callable[..., DualStreamTrainer]:
    """``begun(name, folder)``: a run of six steps, an epoch each, of the method on the strong view."""
    monkeypatch.setattr(tiny, "method", strong)
    return lambda name, folder=None, **settings: tiny.trainer(
        name, folder, epochs=6, epoch_steps=1, weights=EARLY[name], **settings
    )


def averages(method: Method) -> list[tuple[MovingAverage, torch.nn.Module]]:
    """Each average and the network that it follows."""
    if hasattr(method, "averages"):
        return list(zip(method.averages, method.networks, strict=True))
    return [(method.teacher, method.student) if hasattr(method, "teacher") else (method.average, method.network)]


@pytest.mark.parametrize("name", EARLY)
def test_after_the_last_step_in_which_it_teaches_its_statistics_are_the_networks(name, begun):
    run, found = begun(name), []
    run.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: found.append([same(buffers(average.network), buffers(net)) for average, net in averages(run.method)]),
    )
    run.run()
    # of two networks the stronger one's average teaches both, the other one's nobody
    teaching = [False, True] if name == "contrastive_mutual" else [False]
    assert found == [teaching] * 3 + [[True] * len(teaching)] * 3


def test_a_run_resumed_after_it_taught_is_bit_for_bit_the_one_that_was_not_interrupted(begun, tmp_path):
    straight = begun("mean_teacher", tmp_path / "straight")
    straight.run()
    for epoch in (2, 3, 4):  # while it teaches, at the last step of it, after it
        short = begun("mean_teacher", tmp_path / str(epoch))
        short.add_event_handler(Events.EPOCH_COMPLETED(once=epoch), short.terminate)
        short.run()
        resumed = begun("mean_teacher", tmp_path / str(epoch), resume=True)
        resumed.run()
        assert_same_state(resumed.state_dict(), straight.state_dict())


def test_any_iteration_of_a_step_counts():
    average = MovingAverage(tiny.network(), statistics="own")
    average.teach(torch.randn(4, 1, 16, 16))
    with torch.no_grad():
        average(torch.randn(4, 1, 16, 16))  # an iteration that asks it nothing
    average.follow(tiny.network(1))
    assert average.taught


def test_an_average_that_stands_by_keeps_its_statistics_and_gets_none_by_that():
    average, network = MovingAverage(tiny.network(), statistics="own"), tiny.network(1).train()
    network(torch.randn(4, 1, 16, 16))
    average.stand_by()
    average.follow(network)
    assert same(buffers(average.network), buffers(network)), "it has not taught yet"
    average.teach(torch.randn(4, 1, 16, 16))
    mine = buffers(average.network)
    for _ in range(2):
        average.stand_by()
        average.follow(network)
    assert same(buffers(average.network), mine)
    average.follow(network)
    assert same(buffers(average.network), buffers(network))


@pytest.mark.parametrize(("strong", "keep"), [("flair", [True, False]), ("auto", [True, True])])
def test_a_batch_without_a_pair_does_not_take_the_statistics_of_the_averages_that_teach(strong, keep):
    method, at = make(view="strong", follow="stronger", strong=strong), progress("consistency")
    labelled, unlabelled = batch(labelled=True, seed=1), batch(seed=2)
    unlabelled.strong = (StrongView(unlabelled.image + 1),)
    method(labelled, unlabelled, at)
    method.after_step(at)
    before = [buffers(average.network) for average in method.averages]
    alone = batch(present=[[1, 0], [0, 1], [1, 0]], seed=3)
    alone.strong = (StrongView(alone.image),)
    for network in method.networks:  # they have moved on
        network(torch.randn(4, 2, 8, 8))
    method(labelled, alone, at)
    method.after_step(at)
    after = [buffers(average.network) for average in method.averages]
    assert [same(a, b) for a, b in zip(before, after, strict=True)] == keep
