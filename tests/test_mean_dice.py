"""Mean Dice is one number: in validation while training, in evaluation, in annotation."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from saying import says

from annotate.bundle import Served
from custom.dice import class_dice, mean_dice
from custom.evaluation.case_report import CaseReport
from custom.training.validation import ServingEvaluator

CLASSES = ["background", "a", "b", "c"]
# prediction and label: two classes; one of them absent; one missed; nothing there and nothing found
COHORT = [
    ([1, 1, 2, 0, 0, 0], [1, 1, 2, 2, 0, 0]),
    ([1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]),
    ([3, 0, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0]),
    ([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]),
]
# Over classes of cases it would be (3/4 + 1/3 + 1) / 3, and with an empty case as 1 it would be 0.708.
EXPECTED = ((1 + 2 / 3) / 2 + 1 / 2 + (1 + 0) / 2) / 3


def by_hand() -> float:
    scores = []
    for pred, label in (map(np.array, case) for case in COHORT):
        masks = [(pred == k, label == k) for k in (1, 2, 3)]
        scores.append([class_dice((a & b).sum(), a.sum(), b.sum()) for a, b in masks])
    return mean_dice(scores)


def in_evaluation() -> float:
    report = CaseReport(CLASSES[1:])
    for number, (pred, label) in enumerate(COHORT):
        report.add(str(number), str(number), np.array([pred]), np.array([label]), [1.0, 1.0])
    return float(report.summary()["metrics"]["dice_mean"]["mean"])


def in_validation() -> float:
    """The image of a case holds its prediction."""
    cases = [{"image": torch.tensor([[p]]).float(), "label": torch.tensor([[y]]), "present": [True]} for p, y in COHORT]
    network = torch.nn.Identity()
    method: Any = SimpleNamespace(serving=lambda: {"network": network})
    bank = tiny.bank("validation", 200, len(cases))
    bank.__class__ = type("Drawn", (type(bank),), {"__getitem__": lambda _, i: cases[i]})
    inferer = lambda image, _: torch.stack([-(image[0, 0] - k).abs() for k in range(4)])[None]  # noqa: E731
    evaluator = ServingEvaluator(torch.device("cpu"), bank, method, inferer, CLASSES)
    evaluator.run(1)
    assert evaluator.state.metrics["val_mean_dice"] == evaluator.scores["network"]
    assert evaluator.state.metrics["network/dice_b"] == pytest.approx((2 / 3 + 0) / 2)  # over the cases that have it
    return evaluator.scores["network"]


def in_annotation() -> float:
    class Told(Served):
        def __init__(self) -> None:
            self.classes, self.label_values = CLASSES, [*range(len(CLASSES))]

        def predict(self, image: Any, weights: Any = None) -> Any:
            return torch.tensor([COHORT[int(image)][0]])

        def _label(self, path: str) -> np.ndarray:
            return np.array(COHORT[int(path)][1])

    return Told().dice([{"image": str(i), "label": str(i)} for i in range(len(COHORT))])


@pytest.mark.parametrize("found", [by_hand, in_evaluation, in_validation, in_annotation])
def test_a_class_that_is_absent_is_read_alike_everywhere(found):
    assert found() == pytest.approx(EXPECTED)


def test_a_class_that_the_label_lacks_has_no_dice():
    """What is found all the same is a false alarm, which no overlap measures; what is missed is 0."""
    assert math.isnan(class_dice(0, 5, 0))
    assert class_dice(0, 0, 5) == 0.0
    assert class_dice(2, 3, 5) == 0.5


def test_without_a_structure_there_is_no_mean():
    assert math.isnan(mean_dice([[math.nan, math.nan], [math.nan]]))
    assert math.isnan(mean_dice([]))


def test_the_log_says_once_what_the_number_is(caplog, tmp_path: Path):
    with caplog.at_level(logging.INFO):
        tiny.trainer("supervised", tmp_path, epochs=2, handlers=[]).run()
    (text,) = (text for text in caplog.messages if text.startswith("Validation, mean Dice: "))
    says(text, "over cases", "each case's mean", "classes that its label has")
