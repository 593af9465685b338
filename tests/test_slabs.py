"""Logits slab by slab, by custom/inference/slabs.py, slab_resampling.py and label_map.py: what MONAI makes of the whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.transforms import Compose, LoadImaged, Orientationd, Resized, Spacingd
from torch import Tensor, nn

from custom.cohort.reader import ScanReader
from custom.inference.confidence import Confidence, confidence
from custom.inference.label_map import LabelMapd, in_slabs
from custom.inference.saving import SavePredictiond
from custom.inference.slabs import LogitSlabs, slab_axis
from custom.networks import UNet

CLASSES = 3


def network(dimensions: int) -> nn.Module:
    torch.manual_seed(0)
    return UNet(dimensions, 1, CLASSES, widths=(4, 8), norm="instance", dropout=0.0).train()  # as a config leaves it


def whole(inferer: SlidingWindowInferer, image: Tensor, net: nn.Module) -> Tensor:
    training = net.training
    with torch.no_grad():
        logits = inferer(image, net.eval())[0]
    net.train(training)
    return logits


SHAPES = [(50, 20, 24), (10, 40, 24), (40, 9, 10), (7, 9, 10), (16, 16, 12), (33, 16, 12)]


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", SHAPES)
def test_slabs_are_the_stock_inferers_logits_to_the_bit_along_the_first_axis(shape, mode):
    net, image = network(3), torch.rand(1, 1, *shape)
    inferer = SlidingWindowInferer((16, 16, 12), sw_batch_size=3, overlap=0.25, mode=mode)
    expected = whole(inferer, image, net)
    for axis in range(3):
        slabs = list(LogitSlabs(image, net, inferer, axis).slabs())
        assert max(slab.shape[1 + axis] for slab in slabs) <= inferer.roi_size[axis]
        found = torch.cat(slabs, 1 + axis)
        if axis == 0:
            assert torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert net.training


@pytest.mark.parametrize("shape", [(50, 40, 9), (10, 40, 5), (60, 20, 1)])
def test_slabs_of_a_2d_network_are_its_slices(shape):
    net, image = network(2), torch.rand(1, 1, *shape)
    inferer = SliceInferer(roi_size=[16, 16], spatial_dim=2, sw_batch_size=3, overlap=0.25, mode="gaussian")
    slabs = LogitSlabs(image, net, inferer, axis=2)
    parts = list(slabs.slabs())
    assert [part.shape[3] for part in parts] == [1] * shape[2]
    torch.testing.assert_close(torch.cat(parts, 3), whole(inferer, image, net), rtol=0, atol=1e-5)


def test_pictures_and_several_channels():
    net = nn.Conv2d(3, CLASSES, 3, padding=1)
    inferer, image = (
        SlidingWindowInferer((12, 12), sw_batch_size=2, overlap=0.5, mode="gaussian"),
        torch.rand(1, 3, 30, 41),
    )
    found = torch.cat(list(LogitSlabs(image, net, inferer, 0).slabs()), 1)
    assert torch.equal(found, whole(inferer, image, net))


def test_the_axis_is_that_of_the_thinnest_slab():
    assert slab_axis((32, 32, 16), (512, 512, 40)) == 0
    assert slab_axis((256, 256, 1), (512, 512, 40)) == 2
    assert slab_axis((32, 32, 32), (64, 64, 64)) == 0


# back to the image's own grid


class Waves(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.sin(7 * k + (3 + k) * image) for k in range(4)], dim=1)


AFFINES = {
    "straight": np.diag([1.3, 0.7, 2, 1]),
    "mirrored": np.diag([-1.3, 0.7, -2, 1]),
    "other order": np.array([[0, 0, -2, 5], [1.3, 0, 0, 1], [0, 0.7, 0, 3], [0, 0, 0, 1.0]]),
    "tilted gantry": np.array([[1.3, 0, 0, 5], [0, 0.7, 0.4, 1], [0, 0, 2, 3], [0, 0, 0, 1.0]]),
    "the task's own": np.diag([1.0, 1, 1, 1]),
}


def read(tmp_path: Any, affine: np.ndarray, *steps: Any, shape: tuple[int, ...] = (23, 31, 27)) -> tuple[Compose, dict]:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "p1.nii.gz")
    load = LoadImaged("image", reader=ScanReader, ensure_channel_first=True)
    turn = Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    before = Compose([load, turn, *steps])
    return before, before({"image": str(tmp_path / "p1.nii.gz")})


@pytest.mark.parametrize("spacing_mm", [[1.0, 1.0, 1.0], [1.5, 1.5, -1], [0.5, 0.5, 0.9]], ids=str)
@pytest.mark.parametrize("name", AFFINES)
def test_a_label_map_of_slabs_is_that_of_the_whole(tmp_path, name, spacing_mm):
    before, data = read(tmp_path, AFFINES[name], Spacingd("image", pixdim=spacing_mm, mode="bilinear"))
    inferer = SlidingWindowInferer((12, 12, 12), sw_batch_size=4, overlap=0.25, mode="gaussian")
    to_map = LabelMapd(before, [0, 1, 2, 300])
    logits = inferer(data["image"].as_tensor()[None], Waves())[0]
    expected = to_map({**data, "pred": MetaTensor(logits)})["pred"]
    assert in_slabs(data["image"])
    for axis in range(3):
        found = to_map({**data, "pred": LogitSlabs(data["image"][None], Waves(), inferer, axis)})["pred"]
        assert torch.equal(found.as_tensor().float(), expected.as_tensor().float())
        torch.testing.assert_close(torch.as_tensor(found.affine), torch.as_tensor(expected.affine))
        assert found.meta["filename_or_obj"] == expected.meta["filename_or_obj"]


def test_what_cannot_be_undone_slab_by_slab(tmp_path):
    resize = Resized("image", (10, 10, 10), mode="area")
    _, data = read(tmp_path, AFFINES["straight"], resize)
    assert not in_slabs(data["image"])
    _, data = read(
        tmp_path, AFFINES["straight"], Spacingd("image", pixdim=(1, 1, 1)), Spacingd("image", pixdim=(2, 2, 2))
    )
    assert not in_slabs(data["image"])


def test_confidence_of_slabs_is_that_of_the_whole():
    image = MetaTensor(torch.rand(1, 30, 20, 20), meta={"filename_or_obj": "p1.nii.gz"})
    inferer = SlidingWindowInferer((12, 12, 12), sw_batch_size=4, overlap=0.25, mode="gaussian")
    slabs = LogitSlabs(image[None], Waves(), inferer)
    made = SimpleNamespace(saving=SavePredictiond("/nowhere", [0, 1]), kept=[], noted={})
    handler = Confidence("/nowhere", Waves(), made)
    state = type("State", (), {"batch": {"image": [image]}, "output": {"pred": [slabs]}})
    handler(type("Engine", (), {"state": state}))  # type: ignore[arg-type]
    list(slabs.slabs())
    expected = confidence(inferer(image.as_tensor()[None], Waves())[0])
    assert handler.found == {"p1": pytest.approx(expected, abs=1e-5)}
    assert made.noted == {Path("/nowhere/p1_pred.nii.gz"): {"confidence": handler.found["p1"]}}
