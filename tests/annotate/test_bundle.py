"""A bundle's folder opened for inference: what its own command computes, without MONAI Label and beside other bundles."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from annotation_server import ROOT, TINY
from monai.data import MetaTensor
from monai.transforms import LoadImage
from saying import raises, says

from annotate.bundle import NoWeights, Served, UnfitScan, WrongWeights
from annotate.models import untrained
from annotate.requests_check import BadRequest
from annotate.uploads import judge_image


def made(folder: Path, method: str = "mean_teacher", form: str = "2d", **overrides: object) -> Path:
    """A tiny bundle with random weights of two networks."""
    task = yaml.safe_load((ROOT / f"custom/tasks/phantom_{form}.yaml").read_text())
    (folder.parent / f"{folder.name}.yaml").write_text(yaml.safe_dump({**task, **TINY, **overrides}))
    untrained(method, str(folder.parent / f"{folder.name}.yaml"), folder)
    (folder / "models").mkdir()
    served = Served(folder)
    for seed, name in enumerate(("model", "student", "model_final")):
        torch.manual_seed(seed)
        network = served.new_network().eval()
        with torch.no_grad():  # classes level on average, so that a prediction has several
            last = list(network.parameters())[-1]
            last -= network(torch.rand(1, len(served.channels), 32, 32)).mean(dim=(0, 2, 3))
        torch.save(network.state_dict(), folder / f"models/{name}.pt")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def image(phantoms: Path) -> Path:
    return sorted((phantoms / "phantom_2d/images").iterdir())[0]


def test_a_prediction_is_that_of_the_bundles_own_command(
    bundle: Path, image: Path, run_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / image.name).symlink_to(image)
    run_bundle(bundle, "run", "configs/inference.yaml", dataset_dir=str(tmp_path / "images"))
    wanted = nibabel.load(tmp_path / "out" / image.name.replace(".nii.gz", "_pred.nii.gz"))
    served = Served(bundle)
    served.write(served.predict(image), tmp_path / "found.nii.gz")
    found = nibabel.load(tmp_path / "found.nii.gz")
    assert len(np.unique(wanted.dataobj)) > 1
    np.testing.assert_array_equal(found.dataobj, wanted.dataobj)
    np.testing.assert_array_equal(found.affine, wanted.affine)
    assert found.get_data_dtype() == np.uint8


def test_logits_are_on_the_grid_that_the_bundle_resamples_to(bundle: Path, image: Path) -> None:
    served = Served(bundle)
    logits = served.logits(image)
    shape = nibabel.load(image).shape
    assert logits.shape[0] == len(served.classes) == 4
    assert logits.shape[-1] == shape[-1]  # spacing_mm keeps the last axis
    assert type(logits) is torch.Tensor
    assert served.predict(image).shape == (1, *shape)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_every_form_of_a_result_lies_where_the_image_lies(
    bundle: Path, image: Path, suffix: str, tmp_path: Path
) -> None:
    import itk

    served = Served(bundle)
    pred = served.predict(image)
    served.write(pred, tmp_path / f"label{suffix}")
    found, wanted = itk.imread(str(tmp_path / f"label{suffix}")), itk.imread(str(image))
    np.testing.assert_array_equal(itk.array_from_image(found).T, pred[0].numpy())
    for geometry in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(*(np.asarray(getattr(x, geometry)()) for x in (found, wanted)), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [f"label{suffix}"]


@pytest.mark.filterwarnings("ignore:inverse has been called but no invertible")  # pictures are not resampled
def test_pictures_become_pictures(tmp_path: Path, phantoms: Path) -> None:
    import itk

    served = Served(made(tmp_path / "rgb", form="rgb"))
    picture = sorted((phantoms / "phantom_rgb/images").iterdir())[0]
    pred = served.predict(picture)
    assert served.pictures
    assert set(pred.unique().tolist()) <= {0, 1}
    for suffix in (".png", ".nrrd"):
        served.write(pred, tmp_path / f"label{suffix}")
        np.testing.assert_array_equal(
            itk.array_from_image(itk.imread(str(tmp_path / f"label{suffix}"))).T, pred[0].numpy()
        )


@pytest.mark.fault("34", "a NIfTI of two axes: NRRD with its voxel sizes, no PNG")
def test_a_nifti_of_two_axes_becomes_nrrd_with_its_voxel_sizes(bundle: Path, tmp_path: Path) -> None:
    import itk

    nibabel.save(nibabel.Nifti1Image(np.eye(5, 4, dtype=np.uint8), np.diag([0.3, 0.15, 1, 1])), tmp_path / "p01.nii.gz")
    served = Served(bundle)
    image = LoadImage(reader=served.module("cohort.reader").ScanReader, ensure_channel_first=True)(
        tmp_path / "p01.nii.gz"
    )
    served.write(image, tmp_path / "label.nrrd")
    found = itk.imread(str(tmp_path / "label.nrrd"))
    np.testing.assert_array_equal(itk.array_from_image(found).squeeze().T, np.eye(5, 4))
    np.testing.assert_allclose(list(found.GetSpacing())[:2], (0.3, 0.15), rtol=1e-6)


@pytest.mark.fault("34", "a NIfTI of two axes: NRRD with its voxel sizes, no PNG")
def test_png_of_an_image_that_is_no_picture_is_refused(annotate_python: Path) -> None:
    """Refused before anything is computed: the task needs no bundle to say so."""
    script = """
from annotate.infer import BundleInfer
try:
    BundleInfer.__call__(None, {"image": "/studies/p01.nii.gz", "result_extension": ".png"})
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [annotate_python, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    says(done.stdout, "UnknownForm", "result_extension is '.png'", "p01.nii.gz", "voxel sizes", "Leave it out")


@pytest.mark.fault("34", "a prediction of more than 256 classes")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_more_than_256_classes_have_their_numbers(bundle: Path, image: Path, tmp_path: Path, suffix: str) -> None:
    served = Served(bundle)
    served.label_values = list(range(300))
    load = LoadImage(reader=served.module("cohort.reader").ScanReader, ensure_channel_first=True)
    scan = load(image)
    values = torch.arange(scan.numel()).reshape(scan.shape) % 300
    served.write(MetaTensor(values, meta=scan.meta), tmp_path / f"label{suffix}")
    np.testing.assert_array_equal(load(tmp_path / f"label{suffix}"), values)


@pytest.mark.fault("34", "a prediction, and the Dice of a label with the task's values")
def test_predictions_and_labels_have_the_values_of_the_tasks_label_files(tmp_path: Path, image: Path) -> None:
    served = Served(made(tmp_path / "bundle", label_values=[0, 600, 205, 500]))
    assert list(served.segments.items()) == [
        ("background", 0), ("myocardium", 205), ("left ventricle", 500), ("right ventricle", 600)]  # fmt: skip
    pred = served.predict(image)
    assert len(pred.unique()) > 1
    assert set(pred.unique().tolist()) <= {0, 205, 500, 600}
    served.write(pred, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "label.nii.gz").dataobj, pred[0].numpy())
    assert served.dice([{"image": str(image), "label": str(tmp_path / "label.nii.gz")}]) == 1.0


def test_networks_are_all_that_serve_the_first_in_front(bundle: Path) -> None:
    assert list(Served(bundle).networks()) == ["model", "student"]


def test_each_network_computes_by_its_own_file_also_of_one_moment(bundle: Path, image: Path) -> None:
    served, files = Served(bundle), Served(bundle).networks()
    for path in files.values():
        os.utime(path, (1, 1))
    model, student = (served.logits(image, path) for path in files.values())
    assert not torch.equal(model, student)
    assert torch.equal(served.logits(image, files["model"]), model)


@pytest.mark.parametrize(("method", "both"), [("mean_teacher", 0.5), ("task_affinity", 0.953)])  # softmax, sigmoids
def test_a_network_says_what_it_makes_of_its_logits(tmp_path: Path, method: str, both: float) -> None:
    probabilities = Served(made(tmp_path / "bundle", method)).probabilities()
    assert probabilities(torch.full((1, 2, 3, 3), 3.0))[0, 1, 0, 0] == pytest.approx(both, abs=1e-3)


def test_new_weights_are_read_and_have_another_version(tmp_path: Path, image: Path) -> None:
    served = Served(made(tmp_path / "bundle"))
    before, version = served.logits(image), served.version()
    os.replace(served.networks()["student"], served.networks()["model"])
    assert not torch.equal(served.logits(image), before)
    assert served.version() != version


@pytest.mark.parametrize(
    ("spacing", "parts"),
    [
        pytest.param(
            (8, 1, 1),
            ("p01.nii.gz is thick along left-right (8 mm)", "slices across foot-head (1 mm)", "Remove"),
            marks=pytest.mark.fault("5o", "sent to an annotator, or asked for by one"),
            id="the thick axis across left-right",
        ),
        pytest.param(
            (35, 35, 35),
            ("p01.nii.gz has 12x12x12 voxels of 35x35x35 mm", "spacing_mm", "more than 64", "Correct the voxel"),
            marks=pytest.mark.fault("5k", "sent to an annotator, or asked for by one"),
            id="481 times as many voxels",
        ),
    ],
)
def test_what_the_bundles_own_inference_refuses_is_not_segmented(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, ...], parts: tuple[str, ...]
) -> None:
    served = Served(bundle)
    monkeypatch.setattr(served._parser, "get_parsed_content", lambda name: pytest.fail(f"{name} has run"))
    voxels = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), tmp_path / "p01.nii.gz")
    with raises(UnfitScan, *parts):
        served.logits(tmp_path / "p01.nii.gz")
    with raises(BadRequest, *parts):  # an upload is judged alike
        judge_image(tmp_path / "p01.nii.gz", served)


def test_a_scan_that_cannot_be_read_is_named_before_it_is_preprocessed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "p01.nii.gz").write_bytes(b"")
    with pytest.raises(UnfitScan, match=r"^p01.nii.gz "):
        Served(bundle).predict(tmp_path / "p01.nii.gz")


def test_without_weights_it_says_what_to_do(tmp_path: Path, image: Path) -> None:
    served = Served(made(tmp_path / "bundle"))
    for path in list(served.networks().values()):
        path.unlink()
    assert (served.version(), served.networks()) == ("untrained", {})
    with pytest.raises(NoWeights, match=r"^no weights yet: label scans, press Train$"):
        served.predict(image)


def test_the_network_runs_where_the_bundles_own_inference_would_run_it(bundle: Path, monkeypatch) -> None:
    for there, device in ((True, "cuda:0"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert Served(bundle).device == torch.device(device)
        assert Served(bundle, "cpu").device == torch.device("cpu")


@pytest.mark.fault("10", "a pickle with a payload as weights of the annotation server")
def test_weights_that_are_none_are_refused_and_not_run(bundle: Path, image: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "marker"), "w"))

    torch.save({"a": Payload()}, tmp_path / "bad.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("bad", "other"):
        with pytest.raises(WrongWeights, match=r"^nothing was loaded: "):
            Served(bundle).predict(image, tmp_path / f"{name}.pt")
    assert not (tmp_path / "marker").exists()
    whole = bytearray((bundle / "models/model.pt").read_bytes())
    whole[len(whole) // 2] ^= 64  # torch reads it without a word
    (tmp_path / "bit.pt").write_bytes(whole)
    with pytest.raises(WrongWeights, match=r"found a damaged file \(the checksum of .* is wrong\)"):
        Served(bundle).predict(image, tmp_path / "bit.pt")


def test_two_bundles_live_in_one_process_each_with_its_own_code(bundle: Path, image: Path, tmp_path: Path) -> None:
    first, wanted = Served(bundle), Served(bundle).predict(image)
    other = made(tmp_path / "other")
    reader = other / "scripts/cohort/reader.py"
    text = reader.read_text()
    negated = text.replace("voxels = filled(voxels)", "voxels = -voxels\n        voxels = filled(voxels)")
    assert negated != text
    reader.write_text(negated)
    second = Served(other)
    (other / "models/model.pt").write_bytes((bundle / "models/model.pt").read_bytes())
    sys.modules.pop("scripts", None)  # as MONAI Label does round each request
    assert not torch.equal(second.predict(image), wanted)
    assert torch.equal(first.predict(image), wanted)


class Told(Served):
    """Predicts the given answers, of the given labels."""

    def __init__(self, bundle: Path, cases: dict[str, tuple[list[int], list[int]]]) -> None:
        super().__init__(bundle)
        self.cases = cases

    def predict(self, image, weights=None):  # type: ignore[no-untyped-def, override]
        return torch.tensor([self.cases[image][0]])

    def _label(self, path: str) -> np.ndarray:
        return np.array(self.cases[path][1])


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([([0, 1, 1, 0], [0, 1, 1, 0])], 1.0),
        ([([0, 1, 1, 0], [0, 1, 0, 0])], 2 / 3),  # 2 * 1 / (2 + 1)
        ([([1, 2, 0, 0], [1, 0, 0, 0])], 1.0),  # class 1 is found; the label has no other
        ([([1, 0, 0, 0], [1, 2, 0, 0])], 1 / 2),  # class 2 is missed
        ([([0, 0], [0, 0]), ([0, 1], [0, 1])], 1.0),  # a label without a class says nothing,
        ([([0, 0], [0, 0]), ([0, 1], [1, 0])], 0.0),  # and raises no mean
        ([([0, 0], [0, 0]), ([0, 1], [0, 0])], math.nan),
        ([([1, 1], [1, 1]), ([0, 1, 1, 0], [0, 1, 0, 0])], 5 / 6),  # a case counts as much as another
    ],
)
def test_dice_in_closed_form(bundle: Path, cases: list, expected: float) -> None:
    served = Told(bundle, {str(number): case for number, case in enumerate(cases)})
    found = served.dice([{"image": name, "label": name} for name in served.cases])
    assert found == pytest.approx(expected, nan_ok=True)


def test_false_alarms_are_classes_that_the_label_lacks(bundle: Path) -> None:
    cases = [([1, 2, 0, 0], [1, 0, 0, 0]), ([0, 0], [0, 0]), ([1, 2, 2, 3], [0, 0, 0, 3])]
    served = Told(bundle, {str(number): case for number, case in enumerate(cases)})
    assert served.false_alarms([{"image": name, "label": name} for name in served.cases]) == 1 + 0 + 2


def test_dice_of_a_prediction_saved_as_label_is_one(bundle: Path, image: Path, tmp_path: Path) -> None:
    served = Served(bundle)
    served.write(served.predict(image), tmp_path / "label.nii.gz")
    case = {"image": str(image), "label": str(tmp_path / "label.nii.gz")}
    assert served.dice([case]) == 1.0
    assert served.dice([case], served.networks()["student"]) < 1.0
