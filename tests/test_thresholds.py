"""Where a network of one modality is cut: chosen on validation, carried by what is written, never by what trains."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from ignite.engine import Events
from monai.handlers import ValidationHandler
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from custom.methods import Method
from custom.networks import OneChannel
from custom.stream.bank import Bank
from custom.training.trainer import DualStreamTrainer
from custom.training.validation import ServingEvaluator

THRESHOLDS = (0.5, 0.3, 0.2, 0.1)


class AsSure(nn.Module):
    """The map of the bright class: its sigmoid is the image."""

    def forward(self, image: Tensor) -> Tensor:
        return image.logit(eps=1e-6)


class Two(Method):
    """Two networks, of which the second reads all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one = OneChannel(AsSure())
        self.all = nn.Sequential(OneChannel(AsSure()))

    def serving(self) -> dict[str, nn.Module]:
        return {"one": self.one, "all": self.all}


def validated(*scans: Sequence[float], thresholds: Sequence[float] = THRESHOLDS) -> ServingEvaluator:
    """Scans of 4 voxels, the first two of which are bright, by what a network says of each voxel."""

    def seen(case: dict[str, Any]) -> dict[str, Tensor]:
        return {"image": torch.tensor(scans[int(case["image"])])[None, None], "label": torch.tensor([[[1, 1, 0, 0]]])}

    bank = Bank([{"patient": str(i), "image": str(i), "label": "drawn"} for i in range(len(scans))], seen)
    classes = ["background", "bright"]
    return ServingEvaluator(torch.device("cpu"), bank, Two(), SimpleInferer(), classes, thresholds=thresholds)


def test_the_threshold_with_the_highest_mean_over_cases_is_chosen():
    evaluator = validated([0.25, 0.25, 0.15, 0.0], [0.4, 0.15, 0.0, 0.0])
    evaluator.run()
    at = {0.5: (0, 0), 0.3: (0, 2 / 3), 0.2: (1, 2 / 3), 0.1: (4 / 5, 1)}
    best = max(at, key=lambda t: sum(at[t]))
    assert best == 0.1
    assert evaluator.chosen == {"one": best}
    assert evaluator.scores["one"] == pytest.approx(sum(at[best]) / 2)
    assert evaluator.state.metrics["one/dice_bright"] == evaluator.scores["one"]


def test_of_equal_thresholds_the_first_is_chosen():
    evaluator = validated([0.9, 0.9, 0.0, 0.0])
    evaluator.run()
    assert (evaluator.chosen, evaluator.scores["one"]) == ({"one": 0.5}, 1.0)


def test_other_networks_are_cut_at_one_half():
    evaluator = validated([0.25, 0.25, 0.0, 0.0])
    evaluator.run()
    assert evaluator.scores == {"one": 1.0, "all": 0.0}


def test_one_threshold_chooses_nothing_and_no_validation_changes_a_network():
    evaluator = validated([0.25, 0.25, 0.0, 0.0], thresholds=[0.5])
    evaluator.run()
    assert (evaluator.chosen, evaluator.scores["one"]) == ({}, 0.0)
    evaluator = validated([0.25, 0.25, 0.0, 0.0])
    evaluator.run()
    assert float(evaluator.method.one.threshold) == 0.5


@pytest.mark.parametrize("thresholds", [[], [0.0], [0.5, 1.0], [-0.1]])
def test_thresholds_that_are_no_probabilities_are_refused(thresholds):
    with pytest.raises(ValueError, match="probabilities between 0 and 1, got"):
        validated([0.5, 0.5, 0.0, 0.0], thresholds=thresholds)


# a run


class Scripted(ServingEvaluator):
    """Chooses these thresholds, one an epoch, with these scores."""

    def run(self, global_epoch: int = 1) -> None:
        self.chosen = {"flair": 0.5, "t1ce": (0.2, 0.1, 0.3)[global_epoch - 1]}
        self.scores = dict.fromkeys(self.method.serving(), (0.1, 0.3, 0.2)[global_epoch - 1])
        self.state.metrics, self.scored_epoch = {}, global_epoch


def scripted(folder: Path, **settings: Any) -> DualStreamTrainer:
    trainer = tiny.trainer("contrastive_mutual", folder, epoch_steps=1, evaluator=Scripted, **settings)
    ValidationHandler(1, trainer.validator).attach(trainer)
    return trainer


def written(folder: Path) -> dict[str, float]:
    """The threshold in each file of weights."""
    files = sorted((folder / "bundle/models").glob("*.pt"))
    return {f.stem: round(float(torch.load(f, weights_only=True)["threshold"]), 6) for f in files}


EXPECTED = {"model": 0.5, "model_final": 0.5, "t1ce": 0.1, "t1ce_final": 0.3}


def test_what_is_written_carries_the_threshold_of_its_epoch_and_what_trains_does_not(tmp_path):
    trainer = scripted(tmp_path)
    seen = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(_thresholds(trainer.method)))
    trainer.run()
    assert written(tmp_path) == EXPECTED
    assert set().union(*seen, _thresholds(trainer.method)) == {0.5}
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["watch/threshold/t1ce"]) for row in rows] == [0.2, 0.1, 0.3]


def test_a_run_resumed_at_its_end_writes_the_threshold_that_was_chosen(tmp_path):
    scripted(tmp_path).run()
    (tmp_path / "bundle/models/t1ce_final.pt").unlink()
    scripted(tmp_path, resume=True).run()
    assert written(tmp_path) == EXPECTED


def _thresholds(method: Method) -> set[float]:
    return {float(module.threshold) for module in method.modules() if isinstance(module, OneChannel)}
