"""The embedded cohort: what is on disk, what a patient depends on, what a killed drawing leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.data import ITKReader
from monai.transforms import LoadImaged

from custom import phantom
from custom.phantom import cohort as drawing
from custom.phantom.__main__ import main

FEW = {"labelled": 1, "unlabelled": 2, "validation": 1, "test": 1}


@pytest.fixture(scope="module", params=phantom.FORMS)
def cohort(request, tmp_path_factory):
    """One small cohort a form: ``(form, path of list.json)``."""
    folder = tmp_path_factory.mktemp("phantom") / request.param
    return request.param, phantom.draw(request.param, folder, patients=FEW)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def images_of(entry: dict) -> dict[str, str]:
    """The files of a patient by modality; one modality is named ``image``."""
    return entry["image"] if isinstance(entry["image"], dict) else {"image": entry["image"]}


def loaded(folder: Path, files: dict[str, str]) -> dict:
    files = {key: str(folder / name) for key, name in files.items()}
    picture = any(name.endswith(".png") for name in files.values())
    return LoadImaged(list(files), reader=ITKReader if picture else None, ensure_channel_first=True)(files)


def classes_of(form: str) -> tuple[str, ...]:
    return phantom.LESION_CLASSES if form == "rgb" else phantom.CLASSES


def test_monai_loads_image_and_label_on_the_same_grid(cohort):
    form, path = cohort
    lists = read(path.with_name("list_all_labelled.json"))
    for entry in (entry for part in lists.values() for entry in part):
        case = loaded(path.parent, images_of(entry) | {"label": entry["label"]})
        channels = 3 if form == "rgb" else 1
        for key in images_of(entry):
            assert case[key].shape == (channels, *case["label"].shape[1:]), entry["patient"]
            np.testing.assert_allclose(case[key].affine, case["label"].affine)
            assert case[key].std() > 0
        assert set(np.unique(case["label"])) <= set(range(len(classes_of(form)))), entry["patient"]


def test_every_class_is_in_every_patient(cohort):
    form, path = cohort
    lists = read(path.with_name("list_all_labelled.json"))
    for entry in (entry for part in lists.values() for entry in part):
        label = loaded(path.parent, {"label": entry["label"]})["label"]
        assert set(np.unique(label)) == set(range(len(classes_of(form)))), entry["patient"]


def test_the_two_channels_are_two_files_named_first_and_second(tmp_path):
    entry = read(phantom.draw("two_channels", tmp_path, patients={"test": 1}))["test"][0]
    assert set(entry["image"]) == {"first", "second"}
    first, second = (loaded(tmp_path, {"image": name})["image"] for name in entry["image"].values())
    assert not np.array_equal(first, second)


def test_an_unlabelled_entry_names_no_label_and_no_patient_is_in_two_parts(cohort):
    _, path = cohort
    lists = read(path)
    assert {part: len(entries) for part, entries in lists.items()} == FEW
    assert all(set(entry) == {"patient", "image"} for entry in lists["unlabelled"])
    patients = [entry["patient"] for part in lists.values() for entry in part]
    assert len(set(patients)) == len(patients)


def test_the_upper_bound_is_the_same_cohort_with_every_training_patient_labelled(cohort):
    _, path = cohort
    few, every = read(path), read(path.with_name("list_all_labelled.json"))
    assert every["unlabelled"] == []
    assert [e["image"] for e in every["labelled"]] == [e["image"] for e in few["labelled"] + few["unlabelled"]]
    assert (every["validation"], every["test"]) == (few["validation"], few["test"])


@pytest.mark.parametrize("form", phantom.FORMS)
def test_there_are_few_labels_and_at_least_sixty_test_patients(form):
    patients = phantom.form_named(form).patients
    assert patients["test"] >= 60
    assert 10 * patients["labelled"] <= patients["unlabelled"]


def test_the_same_seed_gives_the_same_bytes(cohort, tmp_path):
    form, path = cohort
    phantom.draw(form, tmp_path, patients=FEW)
    files = [file.relative_to(path.parent) for file in path.parent.rglob("*.*")]
    assert files
    for file in files:
        assert (tmp_path / file).read_bytes() == (path.parent / file).read_bytes(), file


@pytest.mark.parametrize("form", phantom.FORMS)
def test_a_patient_depends_on_seed_and_index_only(form):
    patient, other, elsewhere = (phantom.draw_patient(form, i, seed).label for i, seed in ((3, 1), (4, 1), (3, 2)))
    np.testing.assert_array_equal(patient, phantom.draw_patient(form, 3, 1).label)
    assert not np.array_equal(patient, other)
    assert not np.array_equal(patient, elsewhere)


def test_the_heart_shrinks_towards_the_apex():
    label = phantom.draw_patient("3d", 0).label
    area = np.flatnonzero((label > 0).any(axis=(0, 1)))
    first, last = ((label[..., k] > 0).sum() for k in (area[0], area[-1]))
    assert last < first / 2
    assert not (label[..., -1] > 0).any()


def test_the_left_ventricle_lies_inside_its_muscle():
    """No voxel of the cavity touches the background in its slice."""
    for index in range(4):
        label = phantom.draw_patient("2d", index).label
        for axis in (0, 1):
            low, high = (np.take(label, range(a, label.shape[axis] + a - 1), axis) for a in (0, 1))
            assert not ((low == 3) & (high == 0) | (low == 0) & (high == 3)).any(), index


def test_ensure_draws_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    path = phantom.ensure("rgb", tmp_path / "cohort", patients=FEW)
    assert path == tmp_path / "cohort" / "list.json"
    assert [r.getMessage() for r in caplog.records if r.name == "custom.phantom.cohort"] == [
        f"drawing the phantom cohort rgb (seed 2023) into {tmp_path / 'cohort'}, once"
    ]
    monkeypatch.setattr(drawing, "draw", lambda *_: pytest.fail("drawn again"))
    assert phantom.ensure("rgb", tmp_path / "cohort", patients=FEW) == path
    assert [p.name for p in tmp_path.iterdir()] == ["cohort"]


@pytest.mark.parametrize("kill", [RuntimeError, KeyboardInterrupt])
def test_a_killed_drawing_leaves_nothing(tmp_path, monkeypatch, kill):
    whole, calls = drawing.write, []

    def write_twice(*args):
        calls.append(args)
        if len(calls) > 2:
            raise kill
        whole(*args)

    monkeypatch.setattr(drawing, "write", write_twice)
    with pytest.raises(kill):
        phantom.ensure("rgb", tmp_path / "cohort", patients=FEW)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_of_two_drawings_at_once_the_first_to_end_wins(tmp_path, monkeypatch):
    folder, alone = tmp_path / "cohort", phantom.draw

    def overtaken(form, aside, *args):
        alone(form, folder, *args)  # the other process ends first
        (folder / "theirs").touch()
        return alone(form, aside, *args)

    monkeypatch.setattr(drawing, "draw", overtaken)
    assert phantom.ensure("rgb", folder, patients=FEW) == folder / "list.json"
    assert (folder / "theirs").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["cohort"]


def test_ensure_leaves_a_folder_alone_that_holds_something_else(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"holds files but no list\.json.*Name another folder"):
        phantom.ensure("2d", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("make", [phantom.draw, phantom.ensure])
def test_an_unknown_form_is_answered_with_the_forms(make, tmp_path):
    with pytest.raises(
        ValueError, match=r"form '4d' is unknown\. Choose one of 2d, unseen_contrast, 3d, two_channels, rgb"
    ):
        make("4d", tmp_path / "cohort")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_part_is_answered_with_the_parts(tmp_path):
    with pytest.raises(ValueError, match=r"'train'.*labelled, unlabelled, validation, test"):
        phantom.draw("2d", tmp_path, patients={"train": 3})


def test_the_command_prints_the_data_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["phantom", "rgb", str(tmp_path / "cohort"), "--seed", "7"])
    monkeypatch.setitem(drawing._FORMS, "rgb", phantom.Form(FEW, (32, 32, 3), drawing.draw_picture, suffix=".png"))
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "cohort" / "list.json")


# what differs between patients


def test_patients_of_2d_differ_by_degrees_and_those_of_unseen_contrast_by_kinds():
    new, old = ([phantom.draw_patient(form, i).attributes for i in range(12)] for form in ("2d", "unseen_contrast"))
    assert {(a["disease"], a["sequence"]) for a in new} == {("by degrees", "cine")}
    assert len({a["disease"] for a in old}) > 1
    assert {"bright blood", "late", "first pass"} <= {a["sequence"] for a in old}
    for name in ("radius, mm", "wall, mm", "muscle to blood", "gamma", "noise"):
        assert len({a[name] for a in new}) == 12, name


def test_attributes_are_those_of_the_images():
    noisy, quiet = sorted((phantom.draw_patient("2d", i) for i in range(8)), key=lambda p: -p.attributes["noise"])[::7]
    assert noisy.attributes["noise"] > 3 * quiet.attributes["noise"]
    for patient in (noisy, quiet):
        image, label = patient.images[""].astype(float), patient.label
        ratio = np.median(image[label == 2]) / np.median(image[label == 3])
        said = patient.attributes["muscle to blood"] ** patient.attributes["gamma"]
        assert ratio == pytest.approx(said, abs=0.2)


def test_of_two_modalities_each_has_its_own_exposure():
    found = phantom.draw_patient("two_channels", 0).attributes
    assert {"first sequence", "second sequence", "first noise", "second noise", "disease"} <= set(found)
