"""Cases of one window go through a network together in validation; the scores are those of one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn

from custom.stream.bank import Bank
from custom.training.validation import ServingEvaluator, together

WINDOWS = SlidingWindowInferer(roi_size=(16, 16), sw_batch_size=3)


def drawn(case: dict[str, Any]) -> dict[str, Tensor]:
    """tiny's picture, cut to as many columns as its label's path says."""
    return {key: value[..., : int(case["label"])] for key, value in tiny.draw(case).items()}


def bank(widths: list[int], transform: Any = drawn, slices: bool = False, lacking: int | None = None) -> Bank:
    channels = ("image",) if lacking is None else ("a", "b")
    images = [{name: str(i) for name in channels if not (i == lacking and name == "b")} for i in range(len(widths))]
    data = [
        {"patient": f"p{width}{i}", "image": image if lacking is not None else str(i), "label": str(width)}
        for i, (width, image) in enumerate(zip(widths, images, strict=True))
    ]
    return Bank(data, transform, slices=slices, channels=channels, name="validation")


def test_neighbours_of_one_shape_go_together_up_to_a_batch_of_windows():
    assert together(bank([16] * 5 + [12] * 2 + [16]), range(8), WINDOWS) == [[0, 1, 2], [3, 4], [5, 6], [7]]


def test_of_a_rank_every_other_case():
    assert together(bank([16] * 8), range(1, 8, 2), WINDOWS) == [[1, 3, 5], [7]]


def test_a_case_of_several_windows_stands_alone():
    smaller = SlidingWindowInferer(roi_size=(16, 14), sw_batch_size=3)
    assert together(bank([14, 14, 16, 16, 14]), range(5), smaller) == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize("roi", [16, (-1, -1), (16, 0)])
def test_a_window_may_be_one_number_or_as_long_as_the_case(roi):
    inferer = SlidingWindowInferer(roi_size=roi, sw_batch_size=3)
    assert together(bank([16] * 3), range(3), inferer) == [[0, 1, 2]]


def test_a_window_of_other_axes_takes_them_one_by_one():
    assert together(bank([16] * 2), range(2), SlidingWindowInferer(roi_size=(16,) * 3, sw_batch_size=3)) == [[0], [1]]


def test_a_case_that_lacks_a_modality_does_not_go_with_one_that_has_it():
    def two(case: dict[str, Any]) -> dict[str, Tensor]:
        found = tiny.draw({**case, "image": case["image"][0]})
        return {**found, "image": found["image"].repeat(2, 1, 1)[: len(case["image"])]}

    assert together(bank([16] * 3, two, lacking=1), range(3), WINDOWS) == [[0], [1], [2]]


def test_volumes_of_slices_stand_alone():
    def volume(case: dict[str, Any]) -> dict[str, Tensor]:
        return {key: value[..., None].repeat(1, 1, 1, 2) for key, value in tiny.draw(case).items()}

    assert together(bank([16] * 3, volume, slices=True), range(3), WINDOWS) == [[0], [1], [2]]


def test_an_inferer_without_windows_takes_them_one_by_one():
    assert together(bank([16] * 3), range(3), SimpleInferer()) == [[0], [1], [2]]


@pytest.mark.parametrize("widths", [[16] * 7, [16, 16, 12, 12, 16, 12, 12]])
def test_scores_are_those_of_one_case_after_the_other(widths):
    seen: list[int] = []

    class Counting(nn.Module):
        """What is bright, by far not all of it; keeps the size of each batch."""

        def forward(self, image: Tensor) -> Tensor:
            seen.append(len(image))
            return torch.cat([0.6 - image, image - 0.6], dim=1)

    network = Counting()
    method: Any = type("Served", (), {"serving": lambda self: {"network": network}})()
    scores = []
    for batch in (1, 3):
        inferer = SlidingWindowInferer(roi_size=(16, 16), sw_batch_size=batch)
        evaluator = ServingEvaluator(torch.device("cpu"), bank(widths), method, inferer, tiny.CLASSES)
        evaluator.run(1)
        scores.append(evaluator.scores["network"])
        assert len(evaluator._rows) == len(widths)
    assert seen == [1] * 7 + ([3, 3, 1] if len(set(widths)) == 1 else [2, 2, 1, 2])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert 0 < scores[0] < 1
