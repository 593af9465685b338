"""Confidence against accuracy, in sums a reader can do on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from custom.evaluation.calibration import BINS, Calibration
from custom.networks import GatedVNet, OneChannel, UNet
from custom.networks.probabilities import probabilities_of, softmax


def logits_of(*probabilities: tuple[float, ...]) -> torch.Tensor:
    """Voxels in a row with these class probabilities: ``(K, voxels)``."""
    return torch.from_numpy(np.array(probabilities)).log().T


def counted(logits: torch.Tensor, label: list[int]) -> Calibration:
    calibration = Calibration()
    calibration.add(logits, torch.tensor(label))
    return calibration


def test_error_in_closed_form():
    # Two voxels of confidence 0.7 in one bin, one right: |1/2 - 0.7| of 2/3; one of 0.9, right: |1 - 0.9| of 1/3.
    logits = logits_of((0.3, 0.7), (0.3, 0.7), (0.1, 0.9))
    assert counted(logits, [1, 0, 1]).ece == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.1)


def test_a_network_as_right_as_it_is_sure_has_no_error():
    assert counted(logits_of(*[(0.25, 0.75)] * 4), [1, 1, 1, 0]).ece == pytest.approx(0.0)


def test_voxels_are_counted_where_the_network_gives_foreground_more_than_five_percent():
    logits = logits_of((0.96, 0.03, 0.01), (0.3, 0.7, 0.0), (0.94, 0.03, 0.03))
    for missed in (0, 1):  # whatever the label says of the first voxel
        calibration = counted(logits, [missed, 1, 1])
        assert calibration.summary()["voxels"] == 2
        assert calibration.ece == pytest.approx((0.3 + 0.94) / 2)
    assert calibration.summary()["over"] == "voxels where the network gives foreground more than 5 %"


def test_a_network_whose_labels_are_drawn_from_its_probabilities_has_nearly_no_error():
    random = np.random.default_rng(0)
    foreground = random.beta(0.3, 2.0, size=50_000)  # mostly background, as scans are
    label = random.random(50_000) < foreground
    assert (
        counted(torch.from_numpy(np.stack([1 - foreground, foreground])).log(), label.astype(int).tolist()).ece < 0.01
    )


def test_the_classes_are_not_pooled_into_foreground():
    assert counted(logits_of((0.1, 0.6, 0.3)), [2]).ece == pytest.approx(0.6)  # foreground, but of the wrong class


def test_reliability_curve_in_closed_form():
    curve = counted(logits_of((0.3, 0.7), (0.32, 0.68), (0.0, 1.0)), [1, 0, 1]).summary()["bins"]
    assert len(curve) == BINS
    assert [(b["low"], b["high"]) for b in curve] == [(i / 15, (i + 1) / 15) for i in range(15)]
    tenth = curve[10]  # (10/15, 11/15]
    assert (tenth["count"], tenth["accuracy"]) == (2, 0.5)
    assert tenth["confidence"] == pytest.approx(0.69)
    assert curve[14] == {"low": 14 / 15, "high": 1.0, "count": 1, "confidence": 1.0, "accuracy": 1.0}
    assert curve[0] == {"low": 0.0, "high": 1 / 15, "count": 0, "confidence": None, "accuracy": None}


def test_a_bin_holds_its_upper_edge():
    curve = counted(torch.zeros(3, 1), [1]).summary()["bins"]  # confidence 1/3 = 5/15
    assert [i for i, b in enumerate(curve) if b["count"]] == [4]


def test_cases_are_pooled_over_their_voxels():
    logits, label = torch.randn(3, 6, 5, 4, generator=torch.manual_seed(0)), torch.arange(120).reshape(6, 5, 4) % 3
    once, apart = Calibration(), Calibration()
    once.add(logits, label)
    for half in (slice(0, 2), slice(2, 6)):
        apart.add(logits[:, half], label[half])
    assert apart.ece == pytest.approx(once.ece)
    assert apart.summary()["voxels"] == once.summary()["voxels"]


def test_error_equals_a_loop_over_voxels():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.5] * 4, size=300)
    label = random.integers(0, 4, 300)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, wanted in zip(probabilities, label, strict=True):
        if p[1:].sum() > 0.05:
            bins.setdefault(math.ceil(15 * p.max()), []).append((p.max(), p.argmax() == wanted))
    total = sum(len(found) for found in bins.values())
    expected = sum(abs(sum(hit - sure for sure, hit in found)) for found in bins.values()) / total
    assert counted(logits_of(*probabilities), label.tolist()).ece == pytest.approx(expected, abs=1e-6)


def test_sigmoids_are_taken_as_they_are():
    """Maps of their own do not sum to 1: 0.7 for the class and 0.6 for background is a confidence of 0.7, of softmax 0.61."""
    logits = torch.tensor([[0.6], [0.7]]).logit()
    network = GatedVNet(2, 1, 2, widths=(2, 4))
    calibration = Calibration()
    calibration.add(logits, torch.tensor([1]), probabilities_of(network))
    assert calibration.ece == pytest.approx(0.3)
    assert counted(logits, [1]).ece == pytest.approx(1 - (0.7 / 0.3) / (0.7 / 0.3 + 0.6 / 0.4))


@pytest.mark.parametrize("label", [0, 1])
def test_a_background_without_a_map_has_what_the_maps_leave(label):
    """Maps 0.3 and 0.2: the decision is background, by 0.5; a softmax beside the 0 that stands for it would say 0.60."""
    logits = torch.tensor([[0.5], [0.3], [0.2]]).logit()
    calibration = Calibration()
    calibration.add(logits, torch.tensor([label]), probabilities_of(OneChannel(torch.nn.Identity())))
    assert calibration.ece == pytest.approx(0.5)
    assert calibration.summary()["bins"][7]["count"] == 1


def test_independent_maps_whose_labels_are_drawn_from_them_have_nearly_no_error():
    """Each map by itself is as right as it is sure; a softmax of the same logits is not."""
    random = np.random.default_rng(0)
    p = random.dirichlet([3.0, 2.0, 2.0], size=50_000)
    label = (random.random((50_000, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    maps = torch.from_numpy(p[:, 1:].T).clamp(1e-9, 1 - 1e-9).logit()
    logits = torch.cat([torch.zeros_like(maps[:1]), maps])
    own = Calibration()
    own.add(logits, torch.from_numpy(label), probabilities_of(OneChannel(torch.nn.Identity())))
    assert own.ece < 0.01
    assert counted(logits, label.tolist()).ece > 0.03


def test_every_other_network_has_softmax():
    assert probabilities_of(UNet(2, 1, 3, widths=(2, 4), dropout=0.0)) is softmax


def test_nothing_counted_is_no_error_of_zero():
    calibration = counted(logits_of((0.96, 0.04)), [1])
    assert math.isnan(calibration.ece)
    assert calibration.summary() is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and label \(4,\) differ in shape"):
        Calibration().add(torch.zeros(2, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"calibration needs K >= 2 on axis 0, got \(1, 3\)"):
        Calibration().add(torch.zeros(1, 3), torch.zeros(3, dtype=torch.long))
