"""The trainer, with methods that use what the two bundles do not."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest
import tiny
import torch
from ignite.engine import Events
from monai.handlers import ValidationHandler
from saying import raises, says
from torch import nn

from custom.methods import Method
from custom.methods.schedule import PolyDecay
from custom.training import precision


def weights_of(module):
    return {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Toy(Method):
    """Two networks, each with a term of its own, a window, a pool fed by validation, a branch that rests."""

    terms: ClassVar = ("first", "second", "unlabelled")
    unlabelled_terms: ClassVar = ("unlabelled",)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = tiny.network(1), tiny.network(2)
        self.register_buffer("pool", torch.zeros(3))
        self.seen: list[tuple] = []
        self.steps: list[int] = []
        self.loss = tiny.supervised_loss()

    def forward(self, labelled, unlabelled, progress):
        self.seen.append((progress.step, progress.epoch, len(labelled), len(unlabelled)))
        made = {
            "first": lambda: self.loss(self.one(labelled.image), labelled.label),
            "second": lambda: self.loss(self.two(labelled.image), labelled.label),
            "unlabelled": lambda: (self.one(unlabelled.image) - self.two(unlabelled.image)).square().mean(),
        }
        return {name: make() for name, make in made.items() if progress.wants(name)}

    def after_step(self, progress):
        self.steps.append(progress.step)

    def after_validation(self, scores, progress):
        self.pool = torch.cat([self.pool[1:], torch.tensor([scores["two"]])])

    def serving(self):
        return {"one": self.one, "two": self.two}

    def watch(self):
        return {"norm": self.one.out.weight.detach().norm()}


ALL = {"first": 1.0, "second": 1.0, "unlabelled": 1.0}


def test_two_networks_are_served_scored_and_written(tmp_path):
    trainer = tiny.trainer(Toy(), tmp_path, epochs=2, weights=ALL)
    trainer.run()
    assert set(trainer.validator.scores) == {"one", "two"}
    assert sorted(p.name for p in (tmp_path / "bundle/models").glob("*.pt")) == [
        "model.pt", "model_final.pt", "two.pt", "two_final.pt"]  # fmt: skip
    loaded = torch.load(tmp_path / "bundle/models/two_final.pt", weights_only=True)
    assert equal(loaded, weights_of(trainer.method.two))


def test_a_term_lives_in_its_window_and_its_stream_is_drawn_there_only():
    toy = Toy()
    tiny.trainer(
        toy, epochs=4, epoch_steps=5, weights={**ALL, "unlabelled": {"value": 1, "from": 0.5, "to": 0.75}}
    ).run()
    assert [step for step, _, _, unlabelled in toy.seen if unlabelled] == list(range(10, 15))
    assert [step for step, *_ in toy.seen] == list(range(20))
    assert [epoch for _, epoch, *_ in toy.seen] == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5


def test_short_epochs_draw_every_item_before_any_is_drawn_again():
    """Four epochs of 6 patches of 12 items: each item once in the first two, and once in the others."""
    trainer = tiny.trainer("mean_teacher", epochs=4, epoch_steps=3, unlabelled=12, labelled=12, validation=1)
    seen = {"labelled": [], "unlabelled": []}
    for name, cases in seen.items():
        stream = getattr(trainer, name)
        stream.draw = _kept(stream.draw, cases)
    trainer.run()
    for cases in seen.values():
        assert len(cases) == 24
        assert len(set(cases[:12])) == len(set(cases[12:])) == 12


def _kept(draw, cases):
    def kept(*args):
        batch = draw(*args)
        cases.extend(batch.cases)
        return batch

    return kept


def test_a_branch_without_gradient_is_not_stepped_decay_included():
    toy = Toy()
    before = weights_of(toy.two)
    trainer = tiny.trainer(toy, epochs=2, epoch_steps=4,
                           weights={"first": 1, "second": {"value": 1, "from": 0.5}, "unlabelled": 0})  # fmt: skip
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.5
    states = []
    toy.after_step = lambda progress: states.append(weights_of(toy.two))  # type: ignore[method-assign]
    trainer.run()
    assert all(equal(state, before) for state in states[:4])
    assert not equal(states[4], before)


def test_after_validation_gets_every_score_and_its_pool_is_state(tmp_path):
    trainer = tiny.trainer(Toy(), tmp_path, epochs=3, weights=ALL)
    scored = []
    original = trainer.method.after_validation
    trainer.method.after_validation = lambda scores, progress: (
        scored.append(scores["two"]),
        original(scores, progress),
    )
    trainer.validator.run(0)
    ValidationHandler(1, trainer.validator).attach(trainer)
    trainer.run()
    assert trainer.method.pool.tolist() == pytest.approx(scored)
    saved = torch.load(tmp_path / "last_0003.pt", weights_only=True)["state"]["method"]["pool"]
    assert torch.equal(saved, trainer.method.pool)


def test_what_is_watched_and_every_term_reach_the_table(tmp_path):
    tiny.trainer(Toy(), tmp_path, epochs=2, weights=ALL).run()
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    for column in ("epoch", "step", "learning_rate", "term/first", "term/unlabelled", "weight/second", "watch/norm",
                   "val/one/dice_mean", "val/two/dice_bright"):  # fmt: skip
        assert column in header.split(",")
    assert len(rows) == 2


def test_a_method_that_leaves_out_a_wanted_term_is_told():
    toy = Toy()
    toy.forward = lambda *_: {"first": toy.one.out.weight.sum()}  # type: ignore[method-assign]
    with pytest.raises(
        ValueError, match=r"Toy returned the terms \['first'\], wanted at step 0 are \['first', 'second'"
    ):
        tiny.trainer(toy, weights=ALL).run()


def test_without_any_weight_there_is_nothing_to_train():
    with raises(ValueError, "no term has a weight", "from 0 to 1 of the run", "nothing to train"):
        tiny.trainer(Toy(), weights=dict.fromkeys(ALL, 0))


def test_without_unlabelled_scans_training_is_supervised_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        trainer = tiny.trainer("mean_teacher", unlabelled=0)
    assert "There are no unlabelled scans: training is supervised, without consistency." in caplog.text
    trainer.run()
    reference = tiny.trainer("supervised")
    reference.run()
    assert equal(weights_of(trainer.method.student), weights_of(reference.method.network))


def test_weights_and_the_learning_rate_follow_the_step(tmp_path):
    rates = []
    trainer = tiny.trainer("supervised", epochs=2, epoch_steps=2, lr=0.1, lr_schedule=PolyDecay(0.9))
    trainer.method.after_step = lambda progress: rates.append(trainer.optimizer.param_groups[0]["lr"])
    trainer.run()
    assert rates == pytest.approx([0.1 * (1 - t / 4) ** 0.9 for t in range(4)])


# accumulation, clipping, precision


def constant_batches(trainer):
    """The labelled stream gives one and the same batch, without random augmentation."""
    batch = trainer.labelled.draw()
    trainer.labelled.draw = lambda strong=False: batch
    for module in trainer.method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def test_accumulating_equal_batches_is_one_step_on_one_of_them():
    """BatchNorm's statistics move twice, so parameters alone are compared."""
    one, two = (tiny.trainer("supervised", epochs=1, epoch_steps=2, accumulate=a) for a in (1, 2))
    for trainer in (one, two):
        constant_batches(trainer)
        trainer.run()
    assert two.step == one.step == 2
    assert two.state.iteration == 4
    for a, b in zip(one.method.network.parameters(), two.method.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_short_last_window_is_divided_by_its_own_size():
    """5 iterations by 2: windows of 2, 2 and 1. A gradient of 1 a batch must arrive as 1 in each of the 3 steps."""

    class Linear(Method):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, labelled, unlabelled, progress):
            return {"supervised": self.weight}

        def serving(self):
            return {"one": nn.Identity()}

    trainer = tiny.trainer(Linear(), epochs=1, epoch_steps=3, epoch_length=5, accumulate=2, lr=1.0, optimizer="plain",
                           weights={"supervised": 1.0}, validation=0)  # fmt: skip
    trainer.optimizer.param_groups[0].update(momentum=0, nesterov=False, weight_decay=0)
    trainer.run()
    assert trainer.step == 3
    assert trainer.method.weight.item() == -3.0


def test_an_epoch_length_that_contradicts_the_steps_is_refused():
    with pytest.raises(
        ValueError, match="epoch_length 7 with accumulate 2 makes 4 optimiser steps an epoch, epoch_steps says 3"
    ):
        tiny.trainer("supervised", epoch_steps=3, epoch_length=7, accumulate=2)


def test_clipping_bounds_the_gradient():
    trainer = tiny.trainer("supervised", epochs=1, epoch_steps=1, clip=0.01)
    trainer.run()
    norm = torch.stack([p.grad.norm() for p in trainer.method.network.parameters()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains(amp):
    trainer = tiny.trainer("mean_teacher", epochs=8, epoch_steps=5, amp=amp, lr=0.1)
    losses = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: losses.append(float(trainer.state.output["supervised"]))
    )
    trainer.run()
    assert (trainer.scaler is not None) == (amp == "fp16")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.fault("4", "a gradient infinite under fp16")
def test_an_infinite_gradient_is_the_scalers_to_skip_and_is_counted():
    trainer = tiny.trainer("supervised", epochs=1, epoch_steps=4, amp="fp16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # overflows in the first steps
    before = weights_of(trainer.method.network.out)
    after = []
    trainer.method.after_step = lambda progress: after.append(progress.step)
    states = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: states.append(weights_of(trainer.method.network.out)))
    trainer.run()
    assert equal(states[0], before)
    assert trainer.skipped_steps >= 1
    assert len(after) == 4 - trainer.skipped_steps


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, None)])
def test_auto_takes_bf16_on_a_cpu_only_where_it_has_the_units(monkeypatch, units, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: units)
    assert precision.autocast_dtype("auto", torch.device("cpu")) is expected


@pytest.mark.parametrize(
    ("version", "dimensions", "dtype", "device", "said"),
    [
        (91002, 3, torch.bfloat16, "cuda", "cuDNN 9.10 computes 3D convolutions in bf16"),
        (8902, 3, torch.float16, "cuda", "cuDNN 8.9 computes 3D convolutions in fp16"),
        (91500, 3, torch.bfloat16, "cuda", ""),
        (91002, 2, torch.bfloat16, "cuda", ""),
        (91002, 3, None, "cuda", ""),
        (91002, 3, torch.bfloat16, "cpu", ""),
    ],
)
def test_an_old_cudnn_is_named_where_it_makes_a_3d_training_slow(
    monkeypatch, caplog, version, dimensions, dtype, device, said
):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1) if dimensions == 2 else torch.nn.Conv3d(1, 1, 1))
    precision.warn_of_slow_convolutions(network, dtype, torch.device(device))
    if said:
        says(caplog.text, said, "up to four times slower", "--amp off")
    assert bool(caplog.text) is bool(said)


def test_a_misspelt_precision_is_named():
    with pytest.raises(ValueError, match=r"amp is one of .* got 'bf61' \(did you mean 'bf16'\?\)"):
        precision.autocast_dtype("bf61", torch.device("cpu"))
