"""Scores are of the image's own grid: a perfect network scores 1 there, whatever grid it works on."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from conftest import each_bundle
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, CopyItemsd, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, Spacingd
from PIL import Image
from saying import raises, says
from torch import nn
from trained_bundle import WINDOWS, settings_of, trained

from custom.cohort.data_list import references
from custom.errors import UserError
from custom.evaluation.evaluate import ReportHandler, evaluate_models, readable, score_line
from custom.evaluation.slices import ShownSlices
from custom.networks import OneChannel
from custom.run.config import RunConfig

TURN = np.array([[0, -1.5, 0, 10], [1.2, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])  # its axes point to A, L and S


class Perfect(nn.Module):
    """Reads the class off the image, whose values are the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -self.sharpness * (image - torch.arange(3.0).reshape(1, 3, 1, 1, 1)).abs()


def write_cases(folder: Path) -> list[dict]:
    """Two patients whose files have the same names; a rotated, anisotropic grid; the sex of one is known."""
    entries = []
    for patient, corner in (("p01", 6), ("p02", 9)):
        label = np.zeros((30, 26, 12), np.uint8)
        label[corner : corner + 12, 5:17, 2:9] = 1
        label[corner + 3 : corner + 9, 8:14, 3:8] = 2
        (folder / patient).mkdir()
        for name, data in (("image", label.astype(np.float32)), ("seg", label)):
            nibabel.save(nibabel.Nifti1Image(data, TURN), folder / patient / f"{name}.nii.gz")
        entries.append({"patient": patient, "image": str(folder / patient / "image.nii.gz"),
                        "label": str(folder / patient / "seg.nii.gz")})  # fmt: skip
    entries[0]["attributes"] = {"sex": "F"}
    return entries


def evaluate(
    folder: Path, spacing_mm: tuple[float, ...] = (1.5, 1.2, 3.0), sharpness: float = 20.0, **more: float
) -> Path:
    """Evaluate as ``evaluate.yaml`` does; returns the folder of the scores. ``more`` are other files of weights."""
    prepare = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None),
                       Spacingd("image", spacing_mm, mode="bilinear")])  # fmt: skip
    own = ["reference", "picture"]
    read = Compose([CopyItemsd("image", names="picture"), prepare, LoadImaged(own), EnsureChannelFirstd(own)])
    back = Invertd("pred", prepare, "image", nearest_interp=False, to_tensor=True)
    (folder / "models").mkdir()
    for name, value in {"model": sharpness, **more}.items():
        torch.save({"sharpness": torch.tensor(value)}, folder / f"models/{name}.pt")
    network, report = Perfect(), ReportHandler(["outer", "inner"])
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), DataLoader(Dataset(references(write_cases(folder)), read), batch_size=1), network,
        inferer=SlidingWindowInferer((16, 16, 16)), postprocessing=back, val_handlers=[report],
    )  # fmt: skip
    evaluate_models(evaluator, report, network, folder / "models", folder, part="validation")
    return folder / "evaluation/validation"


def handed(
    report: ReportHandler, logits: torch.Tensor, label: torch.Tensor, case: str = "c1", file: str = "seg.nii.gz"
) -> None:
    """One decollated case without attributes, on a grid of 1 mm."""
    reference = MetaTensor(label[None], affine=torch.eye(4), meta={"filename_or_obj": file})
    batch = {"case": case, "patient": "p1", "attributes": None, "reference": reference,
             "picture": torch.zeros(1, *label.shape)}  # fmt: skip
    report(SimpleNamespace(state=SimpleNamespace(batch=[batch], output=[{"pred": logits}])))  # type: ignore[arg-type]


@pytest.mark.parametrize(("spacing_mm", "dice", "hd95_mm"), [((1.2, 1.5, 3.0), 1.0, 0.0), ((1.0, 1.0, 2.0), 0.95, 1.5)])
def test_a_perfect_network_scores_1_on_the_grid_of_the_image(tmp_path, spacing_mm, dice, hd95_mm):
    with (evaluate(tmp_path, spacing_mm) / "model.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["p01_image", "p02_image"]
    for row in rows:
        for name in ("outer", "inner"):
            assert float(row[f"dice_{name}"]) >= dice - 1e-9
            assert float(row[f"hd95_mm_{name}"]) <= hd95_mm + 1e-6
    assert [row["group_sex"] for row in rows] == ["F", ""]


def test_calibration_is_of_the_networks_own_probabilities(tmp_path):
    curve = json.loads((evaluate(tmp_path, sharpness=1.0) / "model.json").read_text())["calibration"]
    # Always right. On the outer class the logits are -1, 0, -1, on the inner one -2, -1, 0.
    outer, inner = 1 / (1 + 2 * math.exp(-1)), 1 / (1 + math.exp(-1) + math.exp(-2))
    assert (
        curve["voxels"] == 2 * 30 * 26 * 12
    )  # all: on the background they are 0, -1, -2, as sure as on the inner class
    of_outer = 2 * (12 * 12 * 7 - 6 * 6 * 5) / curve["voxels"]
    expected = of_outer * (1 - outer) + (1 - of_outer) * (1 - inner)
    assert curve["ece"] == pytest.approx(expected, abs=1e-5)


def test_a_slice_of_every_case_is_kept_upright(tmp_path):
    with np.load(evaluate(tmp_path) / "model.slices.npz", allow_pickle=False) as arrays:
        assert arrays["cases"].tolist() == ["p01_image", "p02_image"]
        label = np.zeros((30, 26), np.uint8)
        label[6:18, 5:17] = 1  # the first of the slices with the most label
        upright = label[::-1]  # the first axis points to the front: it is turned, the second to the left is not
        for name in ("label_0", "pred_0"):
            np.testing.assert_array_equal(arrays[name], upright)
        np.testing.assert_array_equal(arrays["image_0"], upright * 255)
        assert {arrays[f"{name}_1"].dtype for name in ("image", "label", "pred")} == {np.dtype(np.uint8)}
        np.testing.assert_allclose(arrays["spacing_0"], [1.2, 1.5])


def test_a_line_a_network_and_where_the_files_are(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        folder = evaluate(tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.name == "custom.evaluation.evaluate"]
    scores, where = lines[1:]
    dice = ("model", "Dice", "outer 1.000", "inner 1.000", "mean 1.000")
    says(scores, *dice, "HD95 0.0 mm", "missed 0 of 4", "false alarms 0 of 0", "ECE 0.000")
    says(where, str(folder), ".csv", ".md")
    assert json.loads((folder / "summary.json").read_text()) == {"model": 1.0}


def test_probabilities_are_those_of_the_network_that_is_scored():
    """One map of 0.3 beside a background of 0.5: the next network, a plain one, has its softmax again."""
    report, label = ReportHandler(["polyp"]), torch.zeros(4, 4)
    logits = torch.stack([label, label + torch.tensor(0.3).logit(), label + torch.tensor(0.2).logit()])
    errors = []
    for network in (OneChannel(nn.Identity()), nn.Identity()):
        report.start_again(network)
        handed(report, logits, label)
        errors.append(report.report.calibration.ece)
    assert errors == pytest.approx([1 - 0.5, 1 - 1 / (1 + 0.3 / 0.7 + 0.2 / 0.8)])


def test_the_same_weights_are_scored_once_and_named(tmp_path, caplog, monkeypatch):
    runs: list[int] = []
    plain = SupervisedEvaluator.run
    monkeypatch.setattr(SupervisedEvaluator, "run", lambda self: runs.append(1) or plain(self))
    (tmp_path / "run.json").write_text('{"networks": {"model": "teacher"}, "best in validation": null}')
    with caplog.at_level(logging.INFO):
        folder = evaluate(tmp_path, sharpness=20.0, model_final=20.0, student=21.0)
    assert len(runs) == 2
    lines = [r.getMessage() for r in caplog.records if r.name == "custom.evaluation.evaluate"][1:4]
    assert lines[0].startswith("model         (teacher, final weights)  Dice")  # nothing was chosen in validation
    assert lines[1] == "model_final   (teacher, final weights)  the same weights as model"
    assert lines[2].startswith("student       (student, final weights)  Dice")
    assert list(json.loads((folder / "summary.json").read_text())) == ["model", "student", "model_final"]
    one, twin = (json.loads((folder / f"{name}.json").read_text()) for name in ("model", "model_final"))
    assert twin == {**one, "same_as": "model"}
    assert (folder / "model_final.csv").read_text() == (folder / "model.csv").read_text()
    assert (folder / "model_final.md").read_text().endswith("\nThe same weights as model, scored once.\n")


def test_the_line_of_a_network_says_that_it_was_chosen_in_validation_where_it_was(tmp_path, caplog):
    (tmp_path / "run.json").write_text('{"networks": {"model": "teacher"}, "best in validation": {"score": 0.5}}')
    with caplog.at_level(logging.INFO):
        evaluate(tmp_path)
    assert any(text.startswith("model         (teacher, best in validation)  Dice") for text in caplog.messages)


def test_distances_of_pictures_are_in_pixels(tmp_path):
    report, label = ReportHandler(["polyp"]), torch.eye(4)
    for files, unit in ((["a.png", "b.nii.gz"], "mm"), (["a.png", "b.JPG"], "pixels")):
        report.start_again()
        for file in files:
            handed(report, torch.stack([1 - label, label]), label, file, f"/data/{file}")
        assert report.write(tmp_path, "model")["unit"] == unit
        assert json.loads((tmp_path / "model.json").read_text())["unit"] == unit
        assert "hd95_mm_polyp" in (tmp_path / "model.csv").read_text()


def test_the_line_of_a_network_says_the_unit():
    report, label = ReportHandler(["polyp"]), torch.eye(4)
    handed(report, torch.stack([1 - label, label]), label, file="a.png")
    assert "HD95 0.0 pixels | missed 0 of 1 | false alarms 0 of 0" in score_line(
        {**report.report.summary(), "unit": report.unit}
    )


SMALL = {**WINDOWS, "roi_size": "@patch"}


def judge(models: Path, config: RunConfig) -> None:
    network = Perfect()
    evaluator = SupervisedEvaluator(torch.device("cpu"), DataLoader(Dataset([{}])), network)
    evaluate_models(evaluator, ReportHandler(["a"]), network, models, models, config=config)


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({}, {"spacing_mm": [3, 3, -1]}, "trained with spacing_mm=[1.5, 1.5, -1], this config has [3, 3, -1]"),
        ({}, {"channels": ["flair"]}, "trained with channels::0='image', this config has 'flair'"),
        ({}, {"inferer": {**WINDOWS, "overlap": 0.5}}, "trained with inferer::overlap=0.25, this config has 0.5"),
        ({"inferer": SMALL}, {"inferer": SMALL, "patch": [32, 32]}, "trained with patch=[64, 64], this config has [32, 32]"),
    ],
)  # fmt: skip
def test_settings_that_decide_the_scores_are_those_of_the_training(tmp_path, before, now, text):
    models = trained(tmp_path, **before)
    with pytest.raises(UserError) as caught:
        judge(models, settings_of(**now))
    first, *found, remedy = str(caught.value).splitlines()
    assert first == f"These networks were not trained under this config ({tmp_path / 'configs/train.yaml'}):"
    assert found == [f"  {text}"]
    says(remedy, "same task and overrides as the training", f"cd {tmp_path}")


def test_weights_of_another_network_are_refused(tmp_path):
    (tmp_path / "models").mkdir()
    torch.save({"sharpness": torch.zeros(2)}, tmp_path / "models/model.pt")
    with pytest.raises(UserError) as caught:
        judge(tmp_path / "models", settings_of())
    found = (f"{tmp_path / 'models/model.pt'}: ", "network_def", "size mismatch for sharpness [")
    settings = ("widths", "channels", "classes", "dimensions", "norm")
    says(str(caught.value), *found, "Set", *settings, "training", "work inside")


class Bright(nn.Module):
    """The map of "bright": above 0 where the image is above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 20 * (image - self.level)


def write_modalities(folder: Path, cases: dict[str, str]) -> list[dict]:
    """Write the modalities named for each case: "a" shows the label as 100, "b" half of it as 200, on 4."""
    label = np.zeros((6, 6, 2), np.uint8)
    label[1:5, 1:5] = 1
    half = label.copy()
    half[:, 3:] = 0
    shown = {"a": 4 + 96 * label.astype(np.float32), "b": 4 + 196 * half.astype(np.float32)}
    entries = []
    for patient, has in cases.items():
        files = {name: folder / f"{patient}_{name}.nii.gz" for name in [*has, "label"]}
        for name, file in files.items():
            nibabel.save(nibabel.Nifti1Image({**shown, "label": label}[name], np.eye(4)), file)
        entries.append(
            {"patient": patient, "image": {name: str(files[name]) for name in has}, "label": str(files["label"])}
        )
    return entries


def evaluate_alone(folder: Path, cases: dict[str, str], networks: dict[str, nn.Module]) -> Path:
    """Evaluate as ``evaluate.yaml`` does, with a network for each modality; returns the folder of the scores."""
    (folder / "models").mkdir()
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / f"models/{name}.pt")
    read = Compose([CopyItemsd("image", names="picture"), LoadImaged(["image", "reference", "picture"]),
                    EnsureChannelFirstd(["image", "reference", "picture"])])  # fmt: skip
    report, network = ReportHandler(["bright"]), next(iter(networks.values()))
    data = references(write_modalities(folder, cases), ["a", "b"])
    evaluator = SupervisedEvaluator(torch.device("cpu"), DataLoader(Dataset(data, read), batch_size=1), network,
                                    inferer=SlidingWindowInferer((6, 6, 2)), val_handlers=[report])  # fmt: skip
    evaluate_models(evaluator, report, network, folder / "models", folder)
    return folder / "evaluation/test"


def alone() -> dict[str, nn.Module]:
    return {"model": OneChannel(Bright(50.0), 0), "b": OneChannel(Bright(150.0), 1)}


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_network_of_one_modality_is_scored_on_the_cases_that_have_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "custom.evaluation.evaluate"):
        folder = evaluate_alone(tmp_path, {"p1": "ab", "p2": "b", "p3": "b"}, alone())
    dice = {name: [float(row["dice_bright"]) for row in table(folder / f"{name}.csv")] for name in ("model", "b")}
    half = 2 * 8 / (8 + 16)
    assert dice == {"model": [1.0], "b": pytest.approx([half, half, half])}
    assert [row["case"] for row in table(folder / "b.csv")] == ["p1_a", "p2_b", "p3_b"]
    about = {name: json.loads((folder / f"{name}.json").read_text()) for name in dice}
    assert {name: (found["modality"], found["left_out"]) for name, found in about.items()} == {
        "model": ("a", 2),
        "b": ("b", 0),
    }
    sentences = [(folder / f"{name}.md").read_text().splitlines()[-1] for name in dice]
    for sentence, found in zip(sentences, (("a", "2 of 3 cases"), ("b", "0 of 3 cases")), strict=True):
        says(sentence, f"reads {found[0]} alone", "Left out", found[1])
    model, b = (record for record in caplog.messages if "Dice:" in record)
    assert model.endswith(" | 2 of 3 cases lack a")
    assert "lack" not in b


def test_the_picture_of_a_case_is_what_the_network_read(tmp_path):
    folder = evaluate_alone(tmp_path, {"p1": "ab", "p2": "b"}, alone())
    for name, bright in (("model", [16]), ("b", [8, 8])):
        with np.load(folder / f"{name}.slices.npz", allow_pickle=False) as arrays:
            assert [(arrays[f"image_{i}"] > 127).sum() for i in range(len(arrays["cases"]))] == bright


def test_a_network_of_a_modality_that_no_case_has_is_not_evaluated(tmp_path, caplog):
    folder = evaluate_alone(tmp_path, {"p1": "b"}, alone())
    assert list(json.loads((folder / "summary.json").read_text())) == ["b"]
    assert not (folder / "model.csv").exists()
    assert "model is not evaluated: no case of the test part has a." in caplog.messages


def test_nothing_to_evaluate_is_an_error(tmp_path):
    with raises(UserError, "nothing was evaluated", "no case of the test part has a modality"):
        evaluate_alone(tmp_path, {"p1": "b"}, {"model": OneChannel(Bright(50.0), 0)})


def test_a_case_that_lacks_a_channel_is_refused_by_a_network_that_reads_them_all(tmp_path):
    with pytest.raises(UserError, match=r"^case p2_b lacks a, and the network reads a and b\. Add"):
        evaluate_alone(tmp_path, {"p1": "ab", "p2": "b"}, {"model": nn.Conv3d(2, 2, 1)})


def test_files_that_hold_all_channels_are_read_by_every_network(tmp_path):
    loader = DataLoader(Dataset([{"image": "both.nii.gz"}]), batch_size=1)
    assert [readable(network, loader) for network in (*alone().values(), nn.Conv3d(2, 2, 1))] == [None] * 3


def test_a_network_that_finds_nothing_missed_every_case():
    report = ReportHandler(["polyp"])
    label = torch.zeros(4, 5)
    label[1:3, 1:3] = 1
    handed(report, torch.stack([torch.ones(4, 5), torch.zeros(4, 5)]), label)
    summary = report.report.summary()
    assert (summary["missed"], summary["metrics"]["dice_polyp"]["mean"], summary["groups"]) == (1, 0.0, {})
    assert summary["metrics"]["hd95_mm_polyp"]["mean"] is None
    assert summary["calibration"]["ece"] == pytest.approx(16 / 20 - 1 / (1 + math.exp(-1)))  # right in 16 of 20


def test_a_prediction_on_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"case c1: the prediction has the grid \(4, 5\), the label \(4, 6\)\. Image "):
        handed(ReportHandler(["polyp"]), torch.zeros(2, 4, 5), torch.zeros(4, 6))


def test_a_photograph_is_kept_in_its_colours_and_a_scan_of_three_channels_in_grey(tmp_path):
    random = np.random.default_rng(0)
    photograph, mask = random.integers(0, 256, (3, 6, 5)).astype(np.float32), np.zeros((6, 5), np.uint8)
    slices = ShownSlices()
    slices.add("photograph", photograph, mask, mask, (1.0, 1.0), "LPS")
    for i, scan in enumerate((photograph * 4, photograph / 2, photograph - 10)):
        slices.add(f"scan {i}", scan, mask, mask, (1.0, 1.0), "LPS")
    slices.write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["image_0"], photograph)
        for i in (1, 2, 3):
            assert arrays[f"image_{i}"].shape == (6, 5)
            assert (arrays[f"image_{i}"].min(), arrays[f"image_{i}"].max()) == (0, 255)


def test_a_cut_of_a_volume_is_the_slice_with_most_label_else_with_most_prediction(tmp_path):
    image = np.arange(4.0)[None, None, None] * np.ones((1, 2, 3, 1))
    label, pred = np.zeros((2, 2, 3, 4), np.uint8)
    label[0, 0, 1] = label[:, 0, 2] = 1
    pred[:, :, 3] = 1
    slices = ShownSlices()
    slices.add("labelled", image, label, pred, (1.0, 1.0, 5.0), "LPS")
    slices.add("empty", image, 0 * label, pred, (1.0, 1.0, 5.0), "LPS")
    slices.write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert (arrays["label_0"].sum(), arrays["pred_0"].sum()) == (2, 0)
        assert arrays["pred_1"].sum() == 6
        assert arrays["spacing_0"].tolist() == [1.0, 1.0]


def test_an_image_on_another_grid_than_its_label_is_refused():
    mask = np.zeros((6, 5), np.uint8)
    with pytest.raises(ValueError, match=r"case c1: image \(5, 6\) and label \(6, 5\) differ in shape"):
        ShownSlices().add("c1", np.zeros((1, 5, 6)), mask, mask, (1.0, 1.0), "LPS")


@each_bundle("mean_teacher")
def test_evaluation_reads_labels_as_classes_and_pictures_as_they_are(
    bundle: Path, bundle_cwd: Callable[[Path], None], tmp_path: Path
) -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[1:3, 2:4] = 255
    photograph = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(photograph).save(tmp_path / "photograph.png")
    bundle_cwd(bundle)
    config = ConfigParser()
    config.read_config([str(bundle / "configs" / name) for name in ("train.yaml", "evaluate.yaml")])
    config["classes"], config["label_values"] = ["background", "polyp"], [0, 255]
    config["preprocessing"] = {"_target_": "Identityd", "keys": "image"}
    read = config.get_parsed_content("evaluate::preprocessing")
    case = read({"image": str(tmp_path / "photograph.png"), "reference": str(tmp_path / "mask.png")})
    np.testing.assert_array_equal(np.asarray(case["reference"])[0], mask.T // 255)
    np.testing.assert_array_equal(np.asarray(case["picture"]), photograph.transpose(2, 1, 0))
