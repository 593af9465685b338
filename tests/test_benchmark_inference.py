"""The side-by-side of predictors: what nnU-Net's is given is the bundle's own network, windows and scans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.inference import nnunet
from custom.networks import UNet


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """What is prepared for the 2D phantom, with a planner that is not run; and the words that it was called with."""
    called = []
    monkeypatch.setattr(nnunet.nnunet, "command", lambda words, log, around: called.append((list(words), around)))
    return nnunet.prepare("2d", "mean_teacher", Path("/venv/bin/python"), tmp_path / "made", 1), called


def test_nnunet_gets_the_bundle_s_network_windows_and_grid(prepared, tmp_path):
    spec, [(words, around)] = prepared
    assert words[0] == "/venv/bin/nnUNetv2_plan_and_preprocess"
    assert words[words.index("-c") + 1] == spec["configuration"] == "2d"
    raw = Path(around["nnUNet_raw"]) / "Dataset001_peers"
    assert len(list((raw / "labelsTr").iterdir())) == json.loads((raw / "dataset.json").read_text())["numTraining"] == 3
    assert (spec["patch"], spec["spacing"], spec["overlap"]) == ([112, 112], [1.5, 1.5], 0.25)
    network = UNet(2, 1, 4, (16, 32, 64, 128), 0.0).eval()
    weights = Path(__file__).parents[1] / "bundles/mean_teacher/models/model.pt"
    network.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(torch.jit.load(spec["network"])(image), network(image))


def test_scans_are_linked_under_nnunet_s_names(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/p1.nii.gz").write_bytes(b"scan")
    [link] = nnunet.named(tmp_path / "images", tmp_path / "named").iterdir()
    assert (link.name, link.read_bytes()) == ("p1_0000.nii.gz", b"scan")
