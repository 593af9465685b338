"""Logits on the way back to their image, by custom/inference/invert.py: the shape of a mask, not that of the network's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized, Spacingd

from custom.inference.invert import InvertLogitsd


def disk(*shape: int) -> torch.Tensor:
    """``(1, *shape)``, the distance to the edge of a ball in the middle, in parts of the whole: above 0 inside."""
    grid = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in shape], indexing="ij"))
    return torch.from_numpy(0.33 - np.linalg.norm(grid, axis=0))[None].float()


def there_and_back(
    mode: str, shape: tuple[int, ...], small: tuple[int, ...], how: type = InvertLogitsd
) -> torch.Tensor:
    before = Compose([Resized("image", small, mode=mode)])
    data = before({"image": MetaTensor(torch.rand(1, *shape), meta={"spatial_shape": shape})})
    image = data["image"]
    found = how("pred", before, "image", nearest_interp=False)({**data, "pred": MetaTensor(disk(*small))})
    assert found["image"] is image
    assert [operation["class"] for operation in image.applied_operations] == ["Resize"]
    return found["pred"]


@pytest.mark.fault("33", "a picture and a volume shrunk by area or by nearest for the network")
@pytest.mark.parametrize("mode", ["area", "nearest", "nearest-exact"])
@pytest.mark.parametrize(("shape", "small"), [((160, 240), (20, 24)), ((60, 72, 48), (20, 24, 16))])
def test_a_mask_is_enlarged_smoothly_and_not_in_blocks(mode, shape, small):
    found, expected = (logits[0] > 0 for logits in (there_and_back(mode, shape, small), disk(*shape)))
    blocks = there_and_back(mode, shape, small, Invertd)[0] > 0
    wrong, wrong_in_blocks = ((mask != expected).sum().item() / expected.sum().item() for mask in (found, blocks))
    assert wrong < min(0.03, wrong_in_blocks / 3)


def test_what_is_not_resized_in_blocks_is_monais_to_the_bit():
    assert torch.equal(*(there_and_back("bilinear", (50, 60), (20, 30), how) for how in (InvertLogitsd, Invertd)))
    before = Compose([Spacingd("image", (2.0, 2.0, 2.0), mode="bilinear")])
    data = before({"image": MetaTensor(torch.rand(1, 11, 12, 13), meta={"spatial_shape": (11, 12, 13)})})
    pred = MetaTensor(torch.rand(1, *data["image"].shape[1:]))
    assert torch.equal(*(how("pred", before, "image", nearest_interp=False)({**data, "pred": pred.clone()})["pred"]
                         for how in (InvertLogitsd, Invertd)))  # fmt: skip


@pytest.mark.parametrize("bundle", sorted(ROOT.glob("bundles/*")), ids=lambda path: path.name)
def test_every_bundle_interpolates_logits_in_inference_and_in_evaluation(bundle):
    for name in ("inference", "evaluate"):
        text = str(yaml.safe_load((bundle / f"configs/{name}.yaml").read_text()))
        inverts = {"inference": "label_map.LabelMapd", "evaluate": "invert.InvertLogitsd"}[name]
        assert f"'scripts.inference.{inverts}'" in text
        assert "'Invertd'" not in text


@pytest.mark.parametrize("task", ["hc18", "kvasir"])
def test_a_label_of_a_picture_lies_where_its_image_does(task):
    """The first pixel of each block of a large picture is half a pixel off the block's middle, which no validation sees."""
    steps = yaml.safe_load((ROOT / f"custom/tasks/{task}.yaml").read_text())["preprocessing"]["transforms"]
    mode = next(step["mode"] for step in steps if step["_target_"] == "Resized")
    inside = (disk(310, 250) > 0).float()
    small = Resized(["image", "label"], (31, 25), mode=mode)({"image": inside, "label": inside})
    for axis in (1, 2):
        places = [
            float((part.sum(dim=3 - axis)[0] * torch.arange(part.shape[axis])).sum() / part.sum())
            for part in (small["image"], small["label"])
        ]
        assert places[0] == pytest.approx(places[1], abs=0.1)
