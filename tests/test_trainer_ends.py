"""What a run of the trainer keeps and says: terms that are not finite, the best weights, advice."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import shutil

import pytest
import tiny
import torch
from ignite.engine import Events
from monai.handlers import CheckpointLoader, ValidationHandler
from saying import says
from torch import nn

from custom.cohort.errors import CohortError
from custom.training.advice import falling_while_rising
from custom.training.guard import NotFinite
from custom.training.validation import case_dice


def weights_of(module):
    return {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Poisoned(nn.Module):
    """The supervised loss, times ``value`` at one step."""

    def __init__(self, trainer, step, value):
        super().__init__()
        self.loss, self.at, self.value = tiny.supervised_loss(), step, value
        self.now = lambda: trainer.step

    def forward(self, logits, label):
        return self.loss(logits, label) * (self.value if self.now() == self.at else 1.0)


def poison(trainer, step, value=math.nan):
    trainer.method.supervised = Poisoned(trainer, step, value)


@pytest.mark.fault("4", "a term NaN or infinite at one step")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_term_that_is_not_finite_stops_before_any_weight_changes(tmp_path, value):
    trainer = tiny.trainer("mean_teacher", tmp_path, epochs=3, epoch_steps=3)
    poison(trainer, 4, value)
    kept = []
    original = trainer.method.after_step
    trainer.method.after_step = lambda p: (
        original(p),
        kept.append({k: v.clone() for k, v in trainer.method.named_parameters()}),
    )
    with pytest.raises(
        NotFinite, match=rf"supervised is {value} at step 4 \(labelled .*; unlabelled .*\)\. No weight was changed"
    ):
        trainer.run()
    assert equal(dict(trainer.method.named_parameters()), kept[-1])
    assert len(kept) == 4
    assert sorted(p.name for p in tmp_path.glob("last_*")) == ["last_0001.pt"]


@pytest.mark.fault("4", "a flag on the device")
def test_a_gated_step_changes_nothing_and_is_reported_before_a_file_is_written(tmp_path, monkeypatch):
    """What a GPU does: the flag stays on the device and the fused optimiser reads it."""
    trainer = tiny.trainer("supervised", tmp_path, epochs=3, epoch_steps=4, guard_interval=100)
    poison(trainer, 5)
    trainer.state.device = type("Cuda", (), {"type": "cuda"})()
    monkeypatch.setattr("custom.training.trainer.autocast", lambda dtype, device: contextlib.nullcontext())
    kept = []
    trainer.method.after_step = lambda p: kept.append({k: v.clone() for k, v in trainer.method.named_parameters()})
    with pytest.raises(NotFinite, match="a term was not finite within the 100 steps before step"):
        trainer.run()
    assert len(kept) == 8
    assert not equal(kept[3], kept[4])
    assert all(equal(kept[4], later) for later in kept[5:])
    assert sorted(p.name for p in tmp_path.glob("last_*")) == ["last_0001.pt"]


@pytest.mark.fault("4b", "scores nan, .7, nan, .6")
def test_a_nan_score_is_never_the_best_and_is_said_once(tmp_path, caplog):
    trainer = tiny.scripted([math.nan, 0.7, math.nan, 0.6], tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert trainer.best == {"score": 0.7, "epoch": 2}
    assert caplog.text.count("Validation Dice is nan at epoch 1: it never counts as best.") == 1


def test_the_best_weights_serve_and_the_final_ones_stand_beside(tmp_path):
    trainer = tiny.scripted([0.5, 0.7, 0.6], tmp_path)
    nets = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: nets.append(weights_of(trainer.method.average.network)))
    trainer.run()
    models = tmp_path / "bundle/models"
    assert equal(torch.load(models / "model.pt", weights_only=True), nets[1])
    assert equal(torch.load(models / "model_final.pt", weights_only=True), nets[2])


def test_without_validation_the_final_weights_serve_and_the_log_says_so(tmp_path, caplog):
    trainer = tiny.trainer("mean_teacher", tmp_path, validation=0)
    with caplog.at_level(logging.INFO):
        trainer.run()
    assert "There is no validation score to choose by: the final weights serve." in caplog.text
    served = torch.load(tmp_path / "bundle/models/model.pt", weights_only=True)
    assert equal(served, weights_of(trainer.method.teacher.network))


def test_the_end_of_a_run_is_validated_whatever_the_interval(tmp_path):
    trainer = tiny.trainer("supervised", tmp_path, epochs=3)  # no ValidationHandler at all
    trainer.run()
    assert trainer.validator.scored_epoch == 3


def test_weights_loaded_by_a_handler_reach_the_teacher(tmp_path):
    """MONAI Label loads a model through a handler of its own at STARTED."""
    other = tiny.network(seed=5)
    torch.save(other.state_dict(), tmp_path / "model.pt")
    method = tiny.method("mean_teacher")
    loader = CheckpointLoader(str(tmp_path / "model.pt"), {"model": method.student}, map_location="cpu")
    trainer = tiny.trainer(method, epochs=1, epoch_steps=1, handlers=[loader])
    copied = []
    original = method.begin
    method.begin = lambda: (original(), copied.append(weights_of(method.teacher.network)))
    trainer.run()
    assert equal(copied[0], weights_of(other))


class Steep(torch.autograd.Function):
    """Passes its input on; its gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.fault("4", "a gradient NaN")
def test_a_finite_loss_with_a_nan_gradient_writes_no_checkpoint(tmp_path):
    trainer = tiny.trainer("supervised", tmp_path, epochs=3, epoch_steps=2)
    original = trainer.method.forward

    def forward(labelled, unlabelled, progress):
        terms = original(labelled, unlabelled, progress)
        return {k: Steep.apply(v) for k, v in terms.items()} if progress.step == 3 else terms

    trainer.method.forward = forward
    with pytest.raises(NotFinite, match=r"is not finite at the end of epoch 2: a gradient was not"):
        trainer.run()
    assert [p.name for p in tmp_path.glob("last_*")] == ["last_0001.pt"]


@pytest.mark.fault("17", "runs into one folder, one after another")
def test_an_earlier_run_is_moved_aside_not_overwritten(tmp_path):
    for _ in range(3):
        tiny.trainer("supervised", tmp_path, epochs=1).run()
    shutil.rmtree(tmp_path / "earlier/001")
    tiny.trainer("supervised", tmp_path, epochs=1).run()
    assert (tmp_path / "earlier/002/last_0001.pt").exists()
    assert (tmp_path / "earlier/003/bundle/models/model.pt").exists()
    assert (tmp_path / "last_0001.pt").exists()


def test_validation_leaves_the_networks_in_the_mode_they_were_in():
    trainer = tiny.trainer("mean_teacher")
    trainer.method.train()
    trainer.validator.run(1)
    assert trainer.method.student.training
    assert not trainer.method.teacher.network.training


def test_validation_dice_in_closed_form():
    pred = torch.tensor([0, 1, 1, 2, 0])
    label = torch.tensor([0, 1, 0, 0, 3])
    scores = case_dice(pred, label, 5)
    assert scores == pytest.approx([2 / 3, math.nan, 0.0, math.nan], nan_ok=True)  # the label lacks class 2


# what a run says


def test_a_check_judges_the_parts_that_the_method_reads_before_anything_is_touched(tmp_path):
    seen = []

    def check(parts):
        seen.append({part: [entry["patient"] for entry in entries] for part, entries in parts.items()})
        raise CohortError("2 faults")

    for which in ("mean_teacher", "supervised"):
        with pytest.raises(CohortError, match=r"^2 faults$"):
            tiny.trainer(which, tmp_path / which, labelled=1, unlabelled=2, validation=1, check=check).run()
        assert not (tmp_path / which).exists()
    labelled, unlabelled, validation = ["labelled0"], ["unlabelled0", "unlabelled1"], ["validation0"]
    assert seen == [
        {"labelled": labelled, "unlabelled": unlabelled, "validation": validation},
        {"labelled": labelled, "validation": validation},
    ]


class Clock:
    """Stands for the module ``time`` where it is read: it goes on when it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now

    perf_counter = monotonic = time


def test_a_run_says_how_much_of_it_validation_took(tmp_path, caplog, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("ignite.engine.engine.time", clock)
    monkeypatch.setattr("custom.training.trainer.time", clock)
    trainer = tiny.trainer("supervised", tmp_path, epochs=3)
    ValidationHandler(2, trainer.validator).attach(trainer)
    score = trainer.validator.inferer

    def slow(*inputs):
        clock.now += 0.2  # twice 2 scans of 2 networks
        return score(*inputs)

    trainer.validator.inferer = slow
    with caplog.at_level(logging.INFO):
        trainer.run()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["validation_seconds"] != "" for row in rows] == [False, True, True]
    assert [float(row["validation_seconds"]) for row in rows[1:]] == pytest.approx([0.8, 0.8])
    assert [float(row["seconds"]) for row in rows] == pytest.approx([0, 0.8, 0.8])  # nothing else takes time here
    assert "All epochs took 2 s, of it validation 2 s (100 %)" in caplog.text


def advised(rows):
    """The advice on a table of (Dice of the student, weight of the term)."""
    table = [{"epoch": i, "val/student/dice_mean": dice, "weight/consistency": weight}
             for i, (dice, weight) in enumerate(rows, 1)]  # fmt: skip
    return falling_while_rising(table, ["student"], ["consistency"])


@pytest.mark.parametrize(
    ("rows", "harms"),
    [
        ([(0.80, 0.1), (0.77, 0.2)], True),
        ([(0.80, 0.1), (0.78, 0.2)], False),  # 2 points are noise
        ([(0.80, 0.1), (0.70, 0.1)], False),  # the weight did not rise
        ([(0.80, 0.0), (0.70, 0.5)], True),  # it began
        ([(0.80, 0.1), (0.70, 0.2), (0.81, 0.3)], False),  # it came back
        ([(0.80, 0.1), (math.nan, 0.2)], False),
        ([(math.nan, 0.0), (0.80, 0.1), (0.70, 0.2)], True),
        ([(math.nan, 0.1)], False),
        ([(0.80, 0.1)], False),
    ],
)
def test_a_fall_of_3_points_while_a_weight_rises_is_harm(rows, harms):
    assert (advised(rows) is not None) == harms


def test_advice_is_given_once_with_both_epochs_and_the_term(tmp_path, caplog):
    tiny.Scripted.script = [0.6, 0.8, 0.5, 0.4]
    trainer = tiny.trainer("mean_teacher", tmp_path, epochs=4, epoch_steps=1, evaluator=tiny.Scripted)
    ValidationHandler(1, trainer.validator).attach(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    (text,) = (text for text in caplog.messages if "Validation" in text)
    scores = ("student is 0.500 at epoch 3", "0.800 at epoch 2")
    says(text, *scores, "consistency rose from 0.006 to 0.029", "lower weights::consistency", "later (`from`)")


def test_validation_changes_no_network_and_draws_no_dropout():
    """BatchNorm's statistics must not learn from validation scans, nor scores depend on chance."""
    trained = tiny.trainer("mean_teacher", epochs=1)
    trained.run()
    validator = trained.validator
    assert validator is not None
    tensors = {**dict(trained.method.named_parameters()), **dict(trained.method.named_buffers())}
    before = {name: value.clone() for name, value in tensors.items()}
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        validator.run(1)
        found.append(dict(validator.scores))
    assert found[0] == found[1]
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())
    assert trained.method.training
