"""Networks that read one modality each: which cases they see, in validation, in inference, and in a run of the bundle."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import ROOT
from conftest import tiny as short
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from saying import raises, says
from torch import Tensor, nn

from custom.cohort.errors import CohortError
from custom.cohort.folders import images_alone, paths_alone
from custom.inference.network_of_case import NetworkOfCase, WeightsError
from custom.inference.saving import SavePredictiond
from custom.methods import Method
from custom.networks import OneChannel, UNet
from custom.networks.one_channel import channel_of, reads
from custom.stream.bank import Bank
from custom.training.validation import ServingEvaluator

NAMES = ("flair", "t1ce")
BUNDLE = ROOT / "bundles/contrastive_mutual"


class Threshold(nn.Module):
    """The map of "bright": above 0 where the image is brighter than a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, image: Tensor) -> Tensor:
        return image - self.level


def network(channel: int, level: float = 0.5) -> OneChannel:
    return OneChannel(Threshold(level), channel)


# who reads what


def test_a_network_says_what_it_reads_and_another_reads_everything():
    assert [channel_of(network(k)) for k in (0, 1)] == [0, 1]
    assert channel_of(nn.Conv2d(2, 2, 1)) is None
    assert channel_of(nn.Sequential(network(1))) is None, "of itself, not of a part"


@pytest.mark.parametrize(("present", "expected"), [((True, True), (1, 1, 1)), ((False, True), (0, 1, 1)),
                                                   ((True, False), (1, 0, 1))])  # fmt: skip
def test_a_network_is_kept_from_cases_without_its_modality(present, expected):
    networks = (network(0), network(1), nn.Identity())
    assert tuple(reads(n, torch.tensor(present)) for n in networks) == expected


# validation


class Two(Method):
    """A network for each of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = network(0), network(1)

    def serving(self) -> dict[str, nn.Module]:
        return {"flair": self.one, "t1ce": self.two}


# Of 4 x 4 voxels the label has 8. "whole" images show all 8, "half" ones 4: Dice 1, and 2 * 4 / (8 + 4) = 2 / 3.
SHOWN = {"whole": 8, "half": 4}


def seen(case: dict[str, Any]) -> dict[str, Tensor]:
    """Drawn by the name of each file: its first voxels are 1."""
    image = torch.zeros(len(case["image"]), 16)
    for channel, file in enumerate(case["image"]):
        image[channel, : SHOWN[file]] = 1
    label = torch.zeros(1, 16)
    label[:, :8] = 1
    return {"image": image.reshape(-1, 4, 4), "label": label.reshape(1, 4, 4)}


def validated(*cases: dict[str, str]) -> ServingEvaluator:
    data = [{"patient": f"p{i}", "image": image, "label": "drawn"} for i, image in enumerate(cases)]
    bank = Bank(data, seen, channels=NAMES, name="validation")
    return ServingEvaluator(torch.device("cpu"), bank, Two(), SimpleInferer(), ["background", "bright"])


def test_each_network_is_validated_on_the_cases_that_have_its_modality():
    evaluator = validated({"flair": "whole", "t1ce": "half"}, {"flair": "half"}, {"t1ce": "half"})
    evaluator.run()
    assert evaluator.scores == pytest.approx({"flair": (1 + 2 / 3) / 2, "t1ce": 2 / 3})  # with zeros: 5/9 and 4/9
    assert evaluator.state.metrics["val_mean_dice"] == evaluator.scores["flair"]


def test_a_modality_that_no_validation_case_has_is_nan_and_logged_once(caplog):
    evaluator = validated({"flair": "whole"}, {"flair": "half"})
    for epoch in (1, 2):
        evaluator.run(epoch)
        assert math.isnan(evaluator.scores["t1ce"])
        assert evaluator.scores["flair"] == pytest.approx(5 / 6)
    assert caplog.messages == ["No validation case has t1ce: t1ce is not validated, its scores are nan."]


# the images of a folder


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, modality: str = "auto") -> list[str]:
    """``t1ce: p02.nii.gz`` of each case, in their order; the list and what transforms read of it say the same."""
    entries = images_alone(folder, NAMES, modality)
    for entry, flat in zip(entries, paths_alone(entries), strict=True):
        assert entry == {"image": {flat["modality"]: flat["image"]}, "modality": flat["modality"]}
    return [f"{flat['modality']}: {Path(flat['image']).relative_to(folder)}" for flat in paths_alone(entries)]


def test_auto_takes_of_each_case_the_first_modality_that_it_has_and_those_of_one_modality_together(tmp_path):
    fill(tmp_path, "t1ce/p0.nii.gz", "t1ce/p1.mha", "flair/p1.nii.gz", "flair/p2.nii.gz")
    assert found(tmp_path) == ["flair: flair/p1.nii.gz", "flair: flair/p2.nii.gz", "t1ce: t1ce/p0.nii.gz"]


@pytest.mark.parametrize("there", NAMES)
def test_one_folder_alone_is_enough(tmp_path, there):
    fill(tmp_path, f"{there}/p0.nii.gz")
    assert found(tmp_path) == [f"{there}: {there}/p0.nii.gz"]


def test_a_modality_by_its_name_is_read_from_its_folder_alone(tmp_path):
    fill(tmp_path, "t1ce/p0.nii.gz", "flair/p0.nii.gz", "flair/p1.nii.gz")
    assert found(tmp_path, "t1ce") == ["t1ce: t1ce/p0.nii.gz"]


def test_without_such_a_folder_the_images_of_the_folder_itself_are_of_that_modality(tmp_path):
    fill(tmp_path, "p0.nii.gz", "p1.nii.gz", "p2_flair.nii.gz", "p3_t1ce.nii.gz", ".hidden.nii.gz")
    assert found(tmp_path, "t1ce") == ["t1ce: p0.nii.gz", "t1ce: p1.nii.gz", "t1ce: p3_t1ce.nii.gz"]


def test_in_one_folder_auto_goes_by_the_names(tmp_path):
    fill(tmp_path, "p0_flair.nii.gz", "p0_t1ce.nii.gz", "p1_t1ce.nii.gz")
    assert found(tmp_path) == ["flair: p0_flair.nii.gz", "t1ce: p1_t1ce.nii.gz"]


def test_a_file_without_a_modality_in_its_name_must_hold_all_channels(tmp_path):
    fill(tmp_path, "p0.nii.gz")
    expected = [{"image": str(tmp_path / "p0.nii.gz"), "modality": "flair"}]
    assert images_alone(tmp_path, NAMES) == paths_alone(images_alone(tmp_path, NAMES)) == expected
    fill(tmp_path, "a_t1ce.nii.gz")
    assert [entry["modality"] for entry in images_alone(tmp_path, NAMES)] == ["flair", "t1ce"]


def test_what_is_not_there_or_not_known_is_named(tmp_path):
    with pytest.raises(
        CohortError, match=r"^modality is 't1c' \(did you mean 't1ce'\?\); expected one of auto, flair, t1ce$"
    ):
        images_alone(tmp_path, NAMES, "t1c")
    with pytest.raises(
        CohortError, match=rf"^no images of flair or t1ce in {tmp_path}: .*subfolder flair or t1ce\. Give"
    ):
        images_alone(tmp_path, NAMES)
    fill(tmp_path, "flair/p0.nii.gz")
    with pytest.raises(
        CohortError, match=rf"^no images of t1ce in {tmp_path}: expected files .* or in a subfolder t1ce\."
    ):
        images_alone(tmp_path, NAMES, "t1ce")


def test_two_images_of_one_name_are_refused(tmp_path):
    fill(tmp_path, "flair/p0.nii.gz", "flair/p0.mha")
    with pytest.raises(
        CohortError, match=rf"several images of one name in {tmp_path}/flair: p0.mha and p0.nii.gz\. Keep"
    ):
        images_alone(tmp_path, NAMES)


@pytest.mark.parametrize(("modality", "others"), [("t1ce", ["p0_flair.nii.gz"]), ("auto", ["p1_flair.nii.gz"])])
def test_two_images_of_one_case_and_modality_in_one_folder_are_refused(tmp_path, modality, others):
    """One by its name, the other by what was said of all, or by all channels that it must hold."""
    fill(tmp_path, "p0.nii.gz", "p0_t1ce.nii.gz", "p1_t1ce.nii.gz", *others)
    found = f"one case and modality in {tmp_path}: p0.nii.gz and p0_t1ce.nii.gz."
    with raises(CohortError, found, "Keep one of each"):
        images_alone(tmp_path, NAMES, modality)


# the network of a case


def weights(bundle: Path, **channels: int) -> Path:
    """Files of weights that read these channels, in a bundle that says so; their levels are the channel's number.

    Returns:
        The first of them.
    """
    (bundle / "models").mkdir(exist_ok=True)
    for stem, channel in channels.items():
        torch.save(network(channel, float(channel)).state_dict(), bundle / f"models/{stem}.pt")
    best = {stem: channel for stem, channel in channels.items() if not stem.endswith("_final")}
    describe(bundle, {NAMES[channel]: stem for stem, channel in best.items()} or {"flair": "other", "t1ce": "model"})
    return bundle / f"models/{next(iter(channels))}.pt"


def describe(bundle: Path, files: dict[str, str]) -> None:
    """Write ``networks`` of metadata.json."""
    (bundle / "configs").mkdir(exist_ok=True)
    networks = {name: {"file": f"models/{stem}.pt", "modality": name} for name, stem in files.items()}
    (bundle / "configs/metadata.json").write_text(json.dumps({"networks": networks}))


def infer(model: Path, modalities: Sequence[str]) -> tuple[list[float], list[tuple[int, float]]]:
    """The map of "bright" in each case, of intensity 0.5; and what was loaded into the network, a pair each time."""
    data = [{"image": f"/data/p{i}.nii.gz", "modality": name} for i, name in enumerate(modalities)]
    shared, maps, loaded = network(0), [], []
    shared.register_load_state_dict_post_hook(
        lambda module, _: loaded.append((channel_of(module), module.network.level.item()))
    )
    dataset = Dataset(data, lambda case: {**case, "image": torch.full((1, 2, 2), 0.5)})
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), DataLoader(dataset, batch_size=1), shared, inferer=SimpleInferer(),
        val_handlers=[NetworkOfCase(shared, model, NAMES, data)],
        postprocessing=lambda case: maps.append(case["pred"][1].mean().item()) or case,
    )  # fmt: skip
    evaluator.run()
    return maps, loaded


def test_every_case_gets_the_weights_that_read_its_modality_each_loaded_once(tmp_path, caplog):
    model = weights(tmp_path, model=0, other=1, model_final=1, other_final=0)
    with caplog.at_level(logging.INFO, "custom.inference.network_of_case"):
        maps, loaded = infer(model, ["flair", "flair", "t1ce"])
    assert maps == [0.5, 0.5, -0.5]  # 0.5 less the levels 0, 0, 1
    assert loaded == [(0, 0.0), (1, 1.0)]
    assert caplog.messages == ["model.pt (flair): 2 of 3 cases (p0; p1)", "other.pt (t1ce): 1 of 3 cases (p2)"]


def test_beside_final_weights_the_final_ones_are_taken(tmp_path, caplog):
    weights(tmp_path, model=1, other=0)
    model = weights(tmp_path, model_final=1, other_final=0)
    with caplog.at_level(logging.INFO, "custom.inference.network_of_case"):
        infer(model, ["flair", "t1ce"])
    assert [message.split(" ")[0] for message in caplog.messages] == ["other_final.pt", "model_final.pt"]


def test_weights_of_a_modality_that_no_case_has_need_not_be_there(tmp_path):
    model = weights(tmp_path, model=0)
    describe(tmp_path, {"flair": "model", "t1ce": "absent"})
    assert infer(model, ["flair"])[0] == [0.5]


def test_cases_that_no_weights_read_are_named_before_the_first_case(tmp_path):
    model = weights(tmp_path, model=0)
    (tmp_path / "models/notes.pt").touch()  # nothing that the bundle names
    with pytest.raises(WeightsError) as error:
        infer(model, ["flair", "t1ce"])
    for part in ("1 of 2 cases (p1) are t1ce", "found model.pt (flair)", "--modality flair"):
        assert part in str(error.value)


@pytest.mark.parametrize("files", [None, {}, {"flair": "another"}, {"t2": "model"}], ids=str)
def test_weights_of_which_the_bundle_does_not_say_what_they_read_are_refused(tmp_path, files):
    model = weights(tmp_path, model=0)
    describe(tmp_path, files or {})
    if files is None:
        (tmp_path / "configs/metadata.json").unlink()
    with pytest.raises(WeightsError) as error:
        infer(model, ["flair"])
    for part in (str(model), "flair, t1ce", "`networks`", str(tmp_path / "configs/metadata.json"), "--model_file"):
        assert part in str(error.value)


def test_weights_that_read_another_modality_than_the_bundle_says_are_refused(tmp_path):
    model = weights(tmp_path, model=0)
    describe(tmp_path, {"t1ce": "model"})
    with pytest.raises(WeightsError, match=r"model\.pt reads channel 0, .* says t1ce, channel 1"):
        infer(model, ["t1ce"])


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    model = weights(tmp_path, model=0)
    torch.save({"level": torch.tensor(0.0)}, model)
    with pytest.raises(WeightsError, match=r"model\.pt: these weights do not fit network_def"):
        infer(model, ["flair"])


def test_a_batch_of_two_modalities_is_refused():
    handler = NetworkOfCase(network(0), "model.pt", NAMES, [])
    engine: Any = SimpleNamespace(state=SimpleNamespace(batch={"modality": ["t1ce", "flair"]}))
    with pytest.raises(WeightsError, match="a batch holds cases of flair and t1ce: set dataloader::batch_size to 1"):
        handler._load(engine)


# the bundle


@pytest.fixture
def incomplete(phantoms: Path, tmp_path: Path) -> Path:
    """A data list in every part of which cases lack a modality."""
    folder = phantoms / "phantom_two_channels"
    parts = json.loads((folder / "list.json").read_text())
    for entry in [entry for part in parts.values() for entry in part]:
        entry["image"] = {name: str(folder / file) for name, file in entry["image"].items()}
        if "label" in entry:
            entry["label"] = str(folder / entry["label"])
    for part, case, lost in (("labelled", 0, "second"), ("unlabelled", 0, "first"), ("unlabelled", 1, "second"),
                             ("validation", 1, "first"), ("test", 0, "first"), ("test", 1, "second")):  # fmt: skip
        del parts[part][case]["image"][lost]
    path = tmp_path / "incomplete.json"
    path.write_text(json.dumps(parts))
    return path


def test_cases_that_lack_a_modality_train_validate_and_are_evaluated_where_they_can(run_bundle, incomplete, caplog):
    parts, overrides = json.loads(incomplete.read_text()), {**short(BUNDLE), "data_list": str(incomplete)}
    with caplog.at_level(logging.INFO):
        out = run_bundle(BUNDLE, drawn=True, **overrides)
        run_bundle(BUNDLE, "run", ["configs/train.yaml", "configs/evaluate.yaml"], **overrides)
    for text in ("labelled: 1 of 2 scans lack second", "unlabelled: 1 of 3 scans lack first",
                 "unlabelled: 1 of 3 scans lack second", "validation: 1 of 2 scans lack first",
                 "test: 1 of 3 scans lack first", "test: 1 of 3 scans lack second", "| 1 of 3 cases lack first"):  # fmt: skip
        assert text in caplog.text
    with (out / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert all(0 <= float(last[f"val/{name}/dice_mean"]) <= 1 for name in ("first", "second"))
    for file, name in (("model", "first"), ("second", "second")):
        with (out / f"evaluation/test/{file}.csv").open() as table:
            patients = [row["patient"] for row in csv.DictReader(table)]
        assert patients == [entry["patient"] for entry in parts["test"] if name in entry["image"]]
        about = json.loads((out / "bundle/configs/metadata.json").read_text())["networks"][name]
        assert int(torch.load(out / "bundle" / about["file"], weights_only=True)["channel"]) == about["channel"]


@pytest.fixture
def infer_with_bundle(run_bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """``infer_with_bundle(images, out, **overrides)`` by untrained networks; returns every prediction in ``out``."""
    torch.manual_seed(0)
    (tmp_path / "models").mkdir()
    for channel, name in enumerate(("model", "second")):
        weights = OneChannel(UNet(2, 1, 3, widths=(4, 8), dropout=0.0), channel).state_dict()
        torch.save(weights, tmp_path / f"models/{name}.pt")
    describe(tmp_path, {"first": "model", "second": "second"})
    small = {"widths": [4, 8], "model_file": str(tmp_path / "models/model.pt")}

    def go(images: Path, out: Path, **overrides: Any) -> dict[str, np.ndarray]:
        folders = {"dataset_dir": str(images), "output_dir": str(out)}
        run_bundle(BUNDLE, "run", "configs/inference.yaml", **folders, **small, **overrides)
        return {path.name: np.asarray(nibabel.load(path).dataobj) for path in sorted(out.glob("*_pred.*"))}

    return go


def test_a_modality_whose_name_holds_auto_keeps_its_name(tmp_path):
    (tmp_path / "p1.nii.gz").touch()
    names = ["autofluorescence", "fluorescence"]
    found = images_alone(tmp_path, names, "autofluorescence")
    assert found == [{"image": {"autofluorescence": str(tmp_path / "p1.nii.gz")}, "modality": "autofluorescence"}]


def test_inference_takes_whichever_modality_is_there(infer_with_bundle, phantoms, tmp_path, caplog):
    """Each alone by its name, or of each case the first one that it has; nothing overwrites anything."""
    here, images = phantoms / "phantom_two_channels/images", tmp_path / "images"
    for name, cases in (("first", ("p000", "p001")), ("second", ("p001", "p002"))):
        (images / name).mkdir(parents=True)
        for case in cases:
            shutil.copy(here / f"{case}_{name}.nii.gz", images / name / f"{case}.nii.gz")
    out = tmp_path / "both"
    infer_with_bundle(images, out, modality="first")
    alone = infer_with_bundle(images, out, modality="second")
    assert list(alone) == [f"{case}_pred.nii.gz" for case in ("p000_first", "p001_first", "p001_second", "p002_second")]
    assert (alone["p001_second_pred.nii.gz"] != alone["p001_first_pred.nii.gz"]).any()
    with caplog.at_level(logging.INFO):
        auto = infer_with_bundle(images, tmp_path / "auto")
    assert list(auto) == ["p000_pred.nii.gz", "p001_pred.nii.gz", "p002_pred.nii.gz"]
    for case, name in (("p000", "first"), ("p001", "first"), ("p002", "second")):
        np.testing.assert_array_equal(auto[f"{case}_pred.nii.gz"], alone[f"{case}_{name}_pred.nii.gz"])
    assert "model.pt (first): 2 of 3 cases (p000; p001)" in caplog.text
    assert "second.pt (second): 1 of 3 cases (p002)" in caplog.text


def test_images_of_one_modality_lie_in_the_folder_itself(infer_with_bundle, phantoms, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(phantoms / "phantom_two_channels/images/p000_second.nii.gz", tmp_path / "images/a.nii.gz")
    found = infer_with_bundle(tmp_path / "images", tmp_path / "preds", modality="second")
    assert list(found) == ["a_second_pred.nii.gz"]


def test_an_image_has_one_prediction_whether_its_modality_is_asked_for_or_not(tmp_path):
    """Its name says the modality already; in a folder of the modality p1 and p1_t1ce may be two scans."""
    asked, auto = (SavePredictiond(tmp_path, [0, 1], postfix) for postfix in ("t1ce_pred", "pred"))
    assert (
        asked.path_of("images/p1_t1ce.nii.gz")
        == auto.path_of("images/p1_t1ce.nii.gz")
        == tmp_path / "p1_t1ce_pred.nii.gz"
    )
    assert asked.path_of("images/p1.nii.gz") == asked.path_of("t1ce/p1.nii.gz") == tmp_path / "p1_t1ce_pred.nii.gz"
    assert asked.path_of("t1ce/p1_t1ce.nii.gz") == tmp_path / "p1_t1ce_t1ce_pred.nii.gz"
    assert SavePredictiond(tmp_path, [0, 1], "seg").path_of("p1_seg.nii.gz") == tmp_path / "p1_seg_seg.nii.gz"


def test_an_image_of_no_known_modality_is_refused_with_what_to_say(infer_with_bundle, phantoms, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(phantoms / "phantom_two_channels/images/p000_second.nii.gz", tmp_path / "images/a.nii.gz")
    with pytest.raises(RuntimeError) as error:
        infer_with_bundle(tmp_path / "images", tmp_path / "preds")
    assert "1 channel, the task names 2 (first, second). Say which of them it is" in str(error.value.__cause__)
    assert not (tmp_path / "preds").exists()


def test_a_folder_between_the_scans_of_a_modality_is_named(tmp_path, caplog):
    for name in ("flair/p1.nii.gz", "t1ce/p1.nii.gz", "flair/p2/series1/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images_alone(tmp_path, NAMES)
    (text,) = caplog.messages
    says(text, f"Not read in {tmp_path / 'flair'}", ": p2")
