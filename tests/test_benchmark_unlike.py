"""Distances in the encoder's features: closed forms, the coarsest map, and a run that is not finished."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.unlike import Coarsest, SeenScan, distances, scans
from custom.errors import UserError
from custom.networks import UNet


def scan(patient, *features):
    return SeenScan(patient, np.array(features, float), 0.9, 0.8)


def test_the_nearest_labelled_scan_is_of_another_patient():
    labelled = [scan("a", 1, 0), scan("a", 0.9, 0.1), scan("b", 0, 1)]
    known, far = distances("cosine", labelled, [scan("c", 2, 0), scan("d", 1, 1)])
    np.testing.assert_allclose(far, [0, 1 - 1 / (math.sqrt(2) * math.hypot(0.9, 0.1))], atol=1e-12)
    assert known[0] == pytest.approx(1)  # to b: a's own second scan is nearer and does not count
    _, far = distances("Euclid", [scan("a", 0, 0), scan("b", 2, 0)], [scan("c", 4, 0)])
    spread = np.std([0, 2, 4])
    np.testing.assert_allclose(far, [math.sqrt((2 / spread) ** 2 / 2)], rtol=1e-5)


def test_the_coarsest_map_is_averaged_over_all_windows_of_a_scan():
    torch.manual_seed(0)
    network = UNet(2, 1, 2, widths=[4, 8, 6], dropout=[0.0] * 3, norm="batch").eval()
    coarsest, windows = Coarsest(network), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        wanted = network.features(windows)[1]["e3"].mean((0, 2, 3))
        network(windows[:2])
        network(windows[2:])
    np.testing.assert_allclose(coarsest.take(), wanted.numpy(), atol=1e-6)
    with torch.no_grad():
        network(windows[:1])
    assert coarsest.take().shape == (6,)


def test_a_run_that_is_not_finished_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no bundle/models/model\.pt\. Give the output_dir of a finished run"):
        scans(tmp_path)
