"""Scores are of the image's own grid: a perfect network scores 1 there, whatever grid it works on."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, Spacingd
from torch import nn

from custom.cohort import references
from custom.scoring import ReportHandler, evaluate_models


class Perfect(nn.Module):
    """Reads the class off the image, whose values are the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -self.sharpness * (image - torch.arange(3.0).reshape(1, 3, 1, 1, 1)).abs()


def write_cases(folder: Path) -> list[dict]:
    """Two patients whose files have the same names; a rotated, anisotropic grid."""
    entries = []
    turn = np.array([[0, -1.5, 0, 10], [1.2, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    for patient, corner in (("p01", 6), ("p02", 9)):
        label = np.zeros((30, 26, 12), np.uint8)
        label[corner : corner + 12, 5:17, 2:9] = 1
        label[corner + 3 : corner + 9, 8:14, 3:8] = 2
        (folder / patient).mkdir()
        for name, data in (("image", label.astype(np.float32)), ("seg", label)):
            nibabel.save(nibabel.Nifti1Image(data, turn), folder / patient / f"{name}.nii.gz")
        entries.append({"patient": patient, "image": str(folder / patient / "image.nii.gz"),
                        "label": str(folder / patient / "seg.nii.gz")})  # fmt: skip
    return entries


@pytest.mark.parametrize(("spacing_mm", "dice", "hd95_mm"), [((1.2, 1.5, 3.0), 1.0, 0.0), ((1.0, 1.0, 2.0), 0.95, 1.5)])
def test_a_perfect_network_scores_1_on_the_grid_of_the_image(tmp_path, spacing_mm, dice, hd95_mm):
    prepare = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None),
                       Spacingd("image", spacing_mm, mode="bilinear")])  # fmt: skip
    read = Compose([prepare, LoadImaged("reference"), EnsureChannelFirstd("reference")])
    back = Compose(
        [Invertd("pred", prepare, "image", nearest_interp=False, to_tensor=True), AsDiscreted("pred", argmax=True)]
    )
    (tmp_path / "models").mkdir()
    torch.save(Perfect().state_dict(), tmp_path / "models/model.pt")
    network, report = Perfect(), ReportHandler(["outer", "inner"])
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), DataLoader(Dataset(references(write_cases(tmp_path)), read), batch_size=1), network,
        inferer=SlidingWindowInferer((16, 16, 16)), postprocessing=back, val_handlers=[report],
    )  # fmt: skip
    evaluate_models(evaluator, report, network, tmp_path / "models", tmp_path, part="validation")
    with (tmp_path / "evaluation/validation/model.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["p01_image", "p02_image"]
    for row in rows:
        for name in ("outer", "inner"):
            assert float(row[f"dice_{name}"]) >= dice - 1e-9
            assert float(row[f"hd95_mm_{name}"]) <= hd95_mm + 1e-6
