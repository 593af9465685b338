"""The promises of custom/report/validation_picture.py and pictures.py: the worst, the median and the best case are drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from monai.inferers import SimpleInferer
from PIL import Image
from torch import Tensor, nn

from custom.report.pictures import Pictures
from custom.report.validation_picture import _image, validation_picture, worst_median_best
from custom.training.trainer import DualStreamTrainer
from custom.training.validation import ServingEvaluator

NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([0.5, 0.9, 0.1, 0.7, 0.3], {"worst": 2, "median": 0, "best": 1}),
        ([0.5, 0.9, 0.1, 0.7], {"worst": 2, "median": 0, "best": 1}),  # of an even number the lower of the two
        ([0.5, NAN, 0.1, 0.7], {"worst": 2, "median": 0, "best": 3}),
        ([0.5, 0.1], {"worst": 1, "best": 0}),
        ([NAN, 0.4], {"only case": 1}),
        ([NAN, NAN], {}),
        ([], {}),
    ],
)
def test_up_to_three_cases_by_their_dice(scores, chosen):
    assert worst_median_best(scores) == chosen


class Threshold(nn.Module):
    """Logits that call bright what is brighter than a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.level.expand_as(image), image], dim=1)


def evaluator(cases: int) -> ServingEvaluator:
    data = tiny.bank("validation", 200, cases)
    return ServingEvaluator(torch.device("cpu"), data, tiny.method("supervised"), SimpleInferer(), tiny.CLASSES)


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is drawn, instead of drawing it: a picture as wide as the title is long."""
    drawn: list[dict[str, Any]] = []

    def draw(image: Any, label: Any, predictions: dict[str, Any], png: Path, title: str, *rest: Any) -> None:
        (pred,) = predictions.values()
        dice = float(2 * (pred & label).sum() / (pred.sum() + label.sum()))
        drawn.append({"title": title, "names": list(predictions), "rest": rest, "dice": dice})
        Image.new("RGB", (len(title), 10)).save(png)

    monkeypatch.setattr("custom.report.validation_picture.case_pictures", draw)
    return drawn


def test_three_cases_are_drawn_one_below_the_other_on_white(tmp_path, titles):
    assert validation_picture(evaluator(5), Threshold(0.6), tmp_path / "x.png", "teacher")
    assert [t["title"].split(":")[0] for t in titles] == ["worst", "median", "best"]
    worst, median, best = (t["dice"] for t in titles)
    assert worst < median < best
    assert titles[0]["names"] == ["teacher"]
    assert titles[0]["rest"] == (["bright"], None), "pixels of unknown size are square"
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert picture.shape == (30, max(len(t["title"]) for t in titles), 3)
    assert picture[-1, -1].tolist() == [255, 255, 255], "'best' is shorter than 'median'"


def test_without_cases_nothing_is_drawn(tmp_path):
    assert not validation_picture(evaluator(0), Threshold(0.6), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_photograph_scaled_to_one_is_drawn_in_colour():
    photo = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1).expand(3, 2, 2)
    assert _image(photo)[:, 0, 0].tolist() == [0, 128, 255]
    assert _image(photo[2:]).max() == 1, "grey stays as it is"


def test_a_run_ends_with_the_picture_of_the_weights_that_serve(tmp_path, titles):
    """The best weights are those of the first epoch; what is in memory at the end is of the last."""
    trainer: DualStreamTrainer = tiny.trainer("supervised", tmp_path, epochs=2)
    trainer.run()
    output = trainer.output
    assert output is not None
    Pictures(output, trainer.validator).attach(trainer)
    name, network = next(iter(trainer.method.serving().items()))
    state = {k: v + 1 if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(state, output.models / "model.pt")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    seen = []
    trainer.validator.inferer = lambda image, net: seen.append(net.state_dict()) or net(image)  # type: ignore
    output.finish(trainer.method.serving(), trainer.best)
    assert all(torch.equal(v, state[k]) for k, v in seen[0].items())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items()), "the last weights are as they were"
    assert (tmp_path / "validation.png").exists()
    assert name in titles[0]["names"]


@pytest.mark.parametrize("error", [RuntimeError("out of ink"), ImportError("no matplotlib")])
def test_a_picture_that_cannot_be_drawn_ends_no_run(tmp_path, caplog, monkeypatch, error):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("custom.report.pictures.learning_curves", fail)
    trainer = tiny.trainer("supervised", tmp_path, epochs=1)
    assert trainer.output is not None
    Pictures(trainer.output, trainer.validator).attach(trainer)
    with caplog.at_level("INFO", logger="custom.report.pictures"):
        trainer.run()
    (record,) = [r for r in caplog.records if r.name == "custom.report.pictures"]
    assert str(error) in record.getMessage()
    assert record.levelname == ("INFO" if isinstance(error, ImportError) else "WARNING")
    assert (tmp_path / "bundle/models/model_final.pt").exists()
